"""Compares the round trips of several autoencoders on the same held-out clips.

    python -m benchmarks.round_trips DATA RUN [RUN ...] [--clips 96] [--picture FILE.png]

A row for each RUN: the medians of the figures that are usual for codecs, and

- wide: as `side_error`, of the clips in which the side has at least a fifth of the energy;
- treble: the error of the energy above 8 kHz in dB, of the clips in which it is above -60 dB of
  the whole;
- line: how far the strongest line that the autoencoder adds rises above its neighbours, in dB. For
  this, the mean spectrum of a round trip is divided by that of the original, and the mean over the
  clips, in dB, is compared with its median over 33 bins (190 Hz) from 200 Hz to 16 kHz.

The picture shows these mean ratios. It takes about a second for each clip and run on two CPU cores.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.ndimage import median_filter
from scipy.signal import welch

from benchmarks.quality import held_out
from jen1_jax.errors import Refusal
from jen1_jax.evaluation.reconstruction import FIGURES, figures, medians, side_error
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.run import Run

WIDE = 0.2  # share of the side in the energy
TREBLE, FAINT = 8000, 1e-6  # Hz; share of the energy below which there is no treble
BINS, LOWEST, HIGHEST = 33, 200, 16_000  # bins of the running median; Hz
SEGMENT = 8192  # samples of a spectrum
FLOOR = 1e-12  # of a spectrum, relative to full scale


def spectrum(audio: Float[np.ndarray, "samples 2"], rate: int) -> Float[np.ndarray, " bins"]:
    """The mean power spectrum of both channels."""
    return welch(audio, rate, nperseg=SEGMENT, axis=0, scaling="spectrum")[1].mean(1)


def compare(
    ours: Sequence[np.ndarray], originals: Sequence[np.ndarray], rate: int
) -> dict[str, Any]:
    """All figures of round trips, and `ratios` [bins]: the mean ratio of their spectra in dB."""
    row = dict(medians([figures(a, b, rate) for a, b in zip(ours, originals, strict=True)]))
    frequencies = np.fft.rfftfreq(SEGMENT, 1 / rate)
    high = frequencies >= TREBLE
    ratios, treble, wide = [], [], []
    for audio, original in zip(ours, originals, strict=True):
        found, wanted = spectrum(audio, rate), spectrum(original, rate)
        ratios.append(10 * np.log10((found + FLOOR) / (wanted + FLOOR)))
        if wanted[high].sum() > FAINT * wanted.sum():
            treble.append(abs(10 * np.log10(found[high].sum() / wanted[high].sum())))
        side = np.square(original[:, 0] - original[:, 1]).sum() / 2
        if side >= WIDE * np.square(original).sum() > 0:
            wide.append(abs(side_error(audio, original)))
    mean = np.mean(ratios, axis=0)
    inside = (frequencies >= LOWEST) & (frequencies <= HIGHEST)
    row["wide"], row["wide_clips"] = float(np.median(wide)) if wide else None, len(wide)
    row["treble"], row["treble_clips"] = float(np.median(treble)) if treble else None, len(treble)
    row["line"] = float((mean - median_filter(mean, BINS))[inside].max())
    return row | {"ratios": mean}


def draw(rows: dict[str, dict[str, Any]], rate: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(10, 4))
    for name, row in rows.items():
        axis.plot(np.fft.rfftfreq(SEGMENT, 1 / rate)[1:], row["ratios"][1:], label=name, lw=0.8)
    axis.set(xscale="log", xlim=(30, rate / 2), xlabel="Hz", ylabel="round trip / original, dB")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with prepared shards")
    parser.add_argument("runs", nargs="+", help="runs with trained autoencoders")
    parser.add_argument("--clips", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--picture", type=Path, help="a PNG file for the ratios of the spectra")
    options = parser.parse_args()
    codecs = {run: load_codec(Run.open(run)) for run in options.runs}
    clips = held_out(options.data, options.clips)
    columns = (*FIGURES, "wide", "treble", "line")
    print(f"{len(clips)} held-out clips of {options.data}")
    print("".join(f"{name:>19}" for name in columns) + "  run")
    rows = {}
    for run, codec in codecs.items():
        ours = [codec.decode(codec.encode(audio), len(audio)) for audio in clips]
        rows[run] = row = compare(ours, clips, codec.sample_rate)
        cells = ("-" if row[name] is None else f"{row[name]:.3f}" for name in columns)
        print("".join(f"{cell:>19}" for cell in cells) + f"  {run}", flush=True)
    if options.picture:
        draw(rows, codecs[options.runs[0]].sample_rate, options.picture)
    kept = {run: {name: row[name] for name in row if name != "ratios"} for run, row in rows.items()}
    print(json.dumps({"clips": len(clips), "data": options.data, "rows": kept}))


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(str(refusal))
