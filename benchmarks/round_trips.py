"""Compares the round trips of several autoencoders on the same held-out clips.

    python -m benchmarks.round_trips DATA RUN [RUN ...] [--clips 96] [--picture FILE.png]

A row for each RUN: the medians of the figures that are usual for codecs, and

- wide: as `side_error`, of the clips in which the side has at least a fifth of the energy;
- treble: the error of the energy above 8 kHz in dB, of the clips in which it is above -60 dB of
  the whole;
- pitch: how far the chroma of a frame is off, 1 - its cosine with that of the original; the mean
  over all frames within 26 dB of a clip's loudest, and over the clips;
- line: how far the strongest line that the autoencoder adds to pink noise rises above its
  neighbours, in dB. For this, the spectrum of the round trip, divided by that of the noise, is
  compared with its median over 33 bins (190 Hz) from 200 Hz to 16 kHz. (Music has lines of its
  own, between which round trips are louder.)

The picture shows this ratio of spectra. It takes about two seconds for each clip and run on two CPU
cores.
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
from jen1_jax.evaluation.adherence import TREBLE
from jen1_jax.evaluation.musical import chroma
from jen1_jax.evaluation.reconstruction import FIGURES, figures, medians, side_error
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal

WIDE = 0.2  # share of the side in the energy
LOUD = 0.05  # chroma of a frame that counts, relative to the loudest one
FAINT = 1e-6  # share of the energy below which there is no treble
BINS, LOWEST, HIGHEST = 33, 200, 16_000  # bins of the running median; Hz
SECONDS = 10.24  # of noise
SEGMENT = 8192  # samples of a spectrum
FLOOR = 1e-12  # of a spectrum, relative to full scale


def spectrum(audio: Float[np.ndarray, "samples 2"], rate: int) -> Float[np.ndarray, " bins"]:
    """The mean power spectrum of both channels."""
    return welch(audio, rate, nperseg=SEGMENT, axis=0, scaling="spectrum")[1].mean(1)


def compare(
    ours: Sequence[np.ndarray], originals: Sequence[np.ndarray], rate: int
) -> dict[str, Any]:
    """All figures of round trips of music but `line`."""
    row: dict[str, Any] = dict(
        medians([figures(a, b, rate) for a, b in zip(ours, originals, strict=True)])
    )
    high = np.fft.rfftfreq(SEGMENT, 1 / rate) >= TREBLE
    treble, wide = [], []
    for audio, original in zip(ours, originals, strict=True):
        found, wanted = spectrum(audio, rate), spectrum(original, rate)
        if wanted[high].sum() > FAINT * wanted.sum():
            treble.append(abs(10 * np.log10(found[high].sum() / wanted[high].sum())))
        side = np.square(original[:, 0] - original[:, 1]).sum() / 2
        if side >= WIDE * np.square(original).sum() > 0:
            wide.append(abs(side_error(audio, original)))
    for name, errors in (("wide", wide), ("treble", treble)):
        row[name], row[f"{name}_clips"] = float(np.median(errors)) if errors else None, len(errors)
    pitches = [pitch_error(a, b, rate) for a, b in zip(ours, originals, strict=True)]
    row["pitch"] = float(np.mean(pitches))
    return row


def pitch_error(
    audio: Float[np.ndarray, "samples 2"], original: Float[np.ndarray, "samples 2"], rate: int
) -> float:
    """1 - the mean cosine between the chroma of both, in the frames where the original is loud."""
    ours, theirs = (chroma(x.mean(1), rate) for x in (audio, original))
    loud = theirs.sum(0) >= LOUD * theirs.sum(0).max()
    norms = np.linalg.norm(ours, axis=0) * np.linalg.norm(theirs, axis=0)
    cosine = (ours * theirs).sum(0) / np.maximum(norms, 1e-12)
    return 1 - float(cosine[loud].mean())


def pink_noise(rate: int) -> Float[np.ndarray, "samples 2"]:
    """Stereo noise with equal energy in each octave, 20 dB below full scale."""
    white = np.random.default_rng(0).normal(size=(round(SECONDS * rate), 2))
    frequencies = np.maximum(np.fft.rfftfreq(len(white), 1 / rate), 20)
    pink = np.fft.irfft(np.fft.rfft(white, axis=0) / np.sqrt(frequencies)[:, None], axis=0)
    return (0.1 * pink / pink.std()).astype(np.float32)


def ratios(
    audio: Float[np.ndarray, "samples 2"], original: Float[np.ndarray, "samples 2"], rate: int
) -> Float[np.ndarray, " bins"]:
    """The spectrum of a round trip divided by that of the original, in dB."""
    found, wanted = spectrum(audio, rate), spectrum(original, rate)
    return 10 * np.log10((found + FLOOR) / (wanted + FLOOR))


def line(ratio: Float[np.ndarray, " bins"], rate: int) -> float:
    """How far a spectrum in dB rises above its neighbours at most."""
    frequencies = np.fft.rfftfreq(SEGMENT, 1 / rate)
    inside = (frequencies >= LOWEST) & (frequencies <= HIGHEST)
    return float((ratio - median_filter(ratio, BINS))[inside].max())


def draw(curves: dict[str, np.ndarray], rate: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(10, 4))
    for name, ratio in curves.items():
        axis.plot(np.fft.rfftfreq(SEGMENT, 1 / rate)[1:], ratio[1:], label=name, lw=0.8)
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
    columns = (*FIGURES, "wide", "treble", "pitch", "line")
    print(f"{len(clips)} held-out clips of {options.data}")
    print("".join(f"{name:>19}" for name in columns) + "  run")
    rows, curves = {}, {}
    for run, codec in codecs.items():
        trip = lambda audio, codec=codec: codec.decode(codec.encode(audio), len(audio))
        noise = pink_noise(codec.sample_rate)
        rows[run] = row = compare([trip(audio) for audio in clips], clips, codec.sample_rate)
        curves[run] = ratios(trip(noise), noise, codec.sample_rate)
        row["line"] = line(curves[run], codec.sample_rate)
        cells = ("-" if row[name] is None else f"{row[name]:.3f}" for name in columns)
        print("".join(f"{cell:>19}" for cell in cells) + f"  {run}", flush=True)
    if options.picture:
        draw(curves, codecs[options.runs[0]].sample_rate, options.picture)
    print(json.dumps({"clips": len(clips), "data": options.data, "rows": rows}))


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(str(refusal))
