"""Does a model trained on N seconds make 4N without fading, swelling or seams? (Zero-shot reach, by overlapping windows.)

    bash launch/quickstart.sh && python -m benchmarks.reach [RUN] [TIMES]     # docs/model.md has figures of an older run

Every caption in RUN/clips gets pieces of TIMES (4) windows, from nothing and as continuations of the first window of
its own clip. A seam lies where a window took over. Two things are looked at: the level, whose slope over the piece would be
drift, and the spectral flux, which a click or a jump in colour raises; at seams both should be spread as they are everywhere
else in the same piece. Clips that last as long themselves are judged at the same
places after a round trip through the autoencoder, which knows no windows: that is what chance makes of these places. With
more TIMES than that, the pieces go where the model has never been.
"""

import json
import sys
from pathlib import Path

import librosa
import numpy as np

import jen1_jax
from jen1_jax.generation.audio import read_audio

SEEDS = 4
STEP = 0.05  # seconds between two values of level and flux


def course(audio: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Level in dB and spectral flux (mean rise of the log-mel spectrum), one value every `STEP` seconds."""
    hop = round(STEP * rate)
    power = librosa.feature.melspectrogram(
        y=audio.mean(axis=1), sr=rate, n_fft=2 * hop, hop_length=hop, n_mels=64
    )
    loudness = librosa.power_to_db(power, amin=1e-6, top_db=None)
    flux = np.maximum(np.diff(loudness, axis=1, prepend=loudness[:, :1]), 0).mean(axis=0)
    return librosa.power_to_db(power.sum(axis=0), amin=1e-6, top_db=None), flux


def judge(audio: np.ndarray, rate: int, seams: list[float]) -> dict[str, float]:
    """`drift` in dB from first quarter to last; the seams' ranks (0 to 1) among all places by flux and by level step."""
    level, flux = course(audio, rate)
    step = np.abs(np.diff(level, prepend=level[0]))
    quarters = [np.median(part) for part in np.array_split(level, 4)]
    # the largest value within 0.1 s of a seam, ranked among the largest values of all stretches as long
    width = round(0.2 / STEP) + 1
    around = lambda values: np.lib.stride_tricks.sliding_window_view(values, width).max(axis=1)
    rank = lambda values: [
        float((around(values) < around(values)[round(seam / STEP) - width // 2]).mean())
        for seam in seams
    ]
    return {"drift": float(quarters[-1] - quarters[0]), "flux": rank(flux), "level": rank(step)}


if __name__ == "__main__":
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
    times = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    model = jen1_jax.load(run)
    window = model.sampler.window / model.codec.frame_rate
    seams = [window * (1 + n / 2) for n in range(2 * (times - 1))]
    records = []
    for clip in sorted((run / "clips").glob("?.wav")):
        caption, original = (
            clip.with_suffix(".txt").read_text().strip(),
            read_audio(clip, model.sample_rate),
        )
        beginning, long = original[: round(window * model.sample_rate)], times * window
        pieces = {
            "from nothing": model.generate(caption, seconds=long, seed=range(SEEDS)),
            "continued": [
                model.extend(beginning, long - window, prompt=caption, seed=seed)
                for seed in range(SEEDS)
            ],
            "the clip": [
                model.codec.decode(model.codec.encode(original), len(original))[
                    : round(long * model.sample_rate)
                ]
            ],
        }
        for kind, made in pieces.items():
            for piece in made:
                if len(piece) >= 0.99 * long * model.sample_rate:
                    records.append(
                        {"clip": clip.stem, "kind": kind} | judge(piece, model.sample_rate, seams)
                    )
                    print(
                        "{clip} {kind:15} drift {drift:+5.1f} dB".format(**records[-1]), flush=True
                    )
    print(
        f"{window:.2f} s trained, {times * window:.2f} s made; by chance 5 % of the seams are high (95th percentile)"
    )
    for kind in ("from nothing", "continued", "the clip"):
        if chosen := [record for record in records if record["kind"] == kind]:
            drift = np.array([record["drift"] for record in chosen])
            flux, level = (
                np.concatenate([record[name] for record in chosen]) for name in ("flux", "level")
            )
            print(
                f"{kind:15} drift {np.median(drift):+.1f} dB in the median, {drift[np.abs(drift).argmax()]:+.1f} at most; "
                f"{len(flux)} seams, high by flux {np.mean(flux > 0.95):.0%}, by level step {np.mean(level > 0.95):.0%}"
            )
    print(json.dumps(records))
