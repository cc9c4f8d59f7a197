"""How closely the quickstart's model brings its clips back: SI-SDR of what it made against the clips that it learnt.

    bash launch/quickstart.sh && python -m benchmarks.quickstart [RUN]

The autoencoder's round trip of the same clip is the most that a perfect diffusion model could reach.
"""

import sys
from pathlib import Path

import jen1_jax
from jen1_jax.evaluation.reconstruction import si_sdr
from jen1_jax.generation.audio import read_audio

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
model = jen1_jax.load(run)
rate = model.sample_rate


def row(name: str, made: Path, clip: Path, start: float, end: float | None) -> None:
    truth, audio = read_audio(clip, rate), read_audio(made, rate)
    part = slice(round(start * rate), min(len(truth), len(audio), round(end * rate) if end else len(truth)))
    ceiling = model.codec.decode(model.codec.encode(truth), len(truth))
    print(
        f"{name:24} {si_sdr(audio[part], truth[part]):6.1f} dB   round trip {si_sdr(ceiling[part], truth[part]):6.1f} dB",
        flush=True,
    )


for number in (1, 2, 3):
    row(f"text alone, clip {number}", run / f"text-{number}.wav", run / f"learnt/{number}.wav", 0, None)
start, end = map(float, (run / "learnt/1.span").read_text().split(":"))
row("inpainted hole, clip 1", run / "inpainted.wav", run / "learnt/1.wav", start, end)
beginning = len(read_audio(run / "learnt/4-beginning.wav", rate)) / rate
row("continuation, clip 4", run / "extended.wav", run / "learnt/4.wav", beginning, None)
