"""How closely the quickstart's model brings its clips back: SI-SDR of what it made against the clips that it learnt.

    bash launch/quickstart.sh && python -m benchmarks.quickstart [RUN]

The autoencoder's round trip of the same clip is the most that a perfect diffusion model could reach.
"""

import json
import sys
from pathlib import Path

import jen1_jax
from jen1_jax.evaluation.reconstruction import si_sdr
from jen1_jax.generation.audio import read_audio

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
model = jen1_jax.load(run)
rate = model.sample_rate


def row(what: str, name: str, number: int) -> None:
    truth, audio = (read_audio(run / file, rate) for file in (f"learnt/{number}.wav", f"{name}.wav"))
    ceiling = model.codec.decode(model.codec.encode(truth), len(truth))
    spans = json.loads((run / f"{name}.wav.json").read_text())["spans"]  # what was made, where not all of it
    ((start, end),) = spans or [(0, len(truth) / rate)]
    part = slice(round(start * rate), min(len(truth), len(audio), round(end * rate)))
    reached, most = si_sdr(audio[part], truth[part]), si_sdr(ceiling[part], truth[part])
    print(f"clip {number}, {what:16} {reached:6.1f} dB   round trip {most:6.1f} dB", flush=True)


for number in (1, 2, 3):
    row("text alone", f"text-{number}", number)
row("inpainted hole", "inpainted", 1)
row("continuation", "extended", 4)
