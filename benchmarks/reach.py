"""Measures whether pieces of several windows fade, swell, or have audible seams.

    bash launch/quickstart.sh
    python -m benchmarks.reach [RUN] [TIMES]

For every caption in RUN/clips it generates pieces of TIMES windows (default: 4), from text alone
and as continuations of the first window of the caption's clip. A seam is the place where one window
ends and the next takes over. It measures the level, whose change over the piece is the drift, and
the spectral flux, which a click or a change of timbre raises. If seams cannot be heard, their ranks
among all places of the piece are spread evenly.

The control is a clip that is as long itself, after a round trip through the autoencoder. It has no
windows, so its ranks at the same places show what chance gives. With a larger TIMES the pieces are
longer than any clip of the training. It needs a trained RUN, and takes some minutes on two CPU
cores. docs/figures.md has the figures of an older run.
"""

import argparse
import json
from pathlib import Path

import librosa
import numpy as np

import jen1_jax
from jen1_numpy.audio import read_audio

SEEDS = 4
STEP = 0.05  # seconds between two values of level and flux


def level_and_flux(audio: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Level in dB and spectral flux (mean rise of the log-mel spectrum) every `STEP` seconds."""
    hop = round(STEP * rate)
    power = librosa.feature.melspectrogram(
        y=audio.mean(axis=1), sr=rate, n_fft=2 * hop, hop_length=hop, n_mels=64
    )
    loudness = librosa.power_to_db(power, amin=1e-6, top_db=None)
    flux = np.maximum(np.diff(loudness, axis=1, prepend=loudness[:, :1]), 0).mean(axis=0)
    return librosa.power_to_db(power.sum(axis=0), amin=1e-6, top_db=None), flux


def rank_seams(audio: np.ndarray, rate: int, seams: list[float]) -> dict[str, float]:
    """`drift` of a piece and the ranks (0 to 1) of its seams (seconds) among all its places.

    `drift` is the change of level in dB from the first quarter to the last. `flux` and `level` are
    the ranks by spectral flux and by step of the level.
    """
    level, flux = level_and_flux(audio, rate)
    step = np.abs(np.diff(level, prepend=level[0]))
    quarters = [np.median(part) for part in np.array_split(level, 4)]
    width = round(0.2 / STEP) + 1  # values within 0.1 s of a place
    around = lambda values: np.lib.stride_tricks.sliding_window_view(values, width).max(axis=1)

    def ranks(values: np.ndarray) -> list[float]:
        largest = around(values)
        places = [round(seam / STEP) - width // 2 for seam in seams]
        return [float((largest < largest[place]).mean()) for place in places]

    return {"drift": float(quarters[-1] - quarters[0]), "flux": ranks(flux), "level": ranks(step)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", nargs="?", default="runs/quickstart", help="a trained run; default: %(default)s"
    )
    parser.add_argument(
        "times", nargs="?", type=int, default=4, help="windows in a piece; default: %(default)s"
    )
    options = parser.parse_args()
    run, times = Path(options.run), options.times
    model = jen1_jax.load(run)
    rate = model.sample_rate
    window = model.sampler.window / model.codec.frame_rate
    length = times * window
    seams = [window * (1 + n / 2) for n in range(2 * (times - 1))]
    records = []
    for clip in sorted((run / "clips").glob("?.wav")):
        caption = clip.with_suffix(".txt").read_text().strip()
        original = read_audio(clip, rate)
        beginning = original[: round(window * rate)]
        round_trip = model.codec.decode(model.codec.encode(original), len(original))
        pieces = {
            "from nothing": model.generate(caption, seconds=length, seed=range(SEEDS)),
            "continued": [
                model.extend(beginning, length - window, prompt=caption, seed=seed)
                for seed in range(SEEDS)
            ],
            "the clip": [round_trip[: round(length * rate)]],
        }
        for kind, group in pieces.items():
            for piece in group:
                if len(piece) < 0.99 * length * rate:  # a clip shorter than the pieces
                    continue
                record = {"clip": clip.stem, "kind": kind} | rank_seams(piece, rate, seams)
                records.append(record)
                print("{clip} {kind:15} drift {drift:+5.1f} dB".format(**record), flush=True)
    print(f"{window:.2f} s trained, {length:.2f} s generated")
    print("By chance 5 % of the seams are high (95th percentile).")
    for kind in ("from nothing", "continued", "the clip"):
        if chosen := [record for record in records if record["kind"] == kind]:
            drift = np.array([record["drift"] for record in chosen])
            largest = drift[np.abs(drift).argmax()]
            flux = np.concatenate([record["flux"] for record in chosen])
            level = np.concatenate([record["level"] for record in chosen])
            high_flux, high_level = np.mean(flux > 0.95), np.mean(level > 0.95)
            print(
                f"{kind:15} drift {np.median(drift):+.1f} dB (median), {largest:+.1f} dB (most); "
                f"{len(flux)} seams, high by flux {high_flux:.0%}, by level step {high_level:.0%}"
            )
    print(json.dumps(records))
