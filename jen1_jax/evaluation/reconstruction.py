"""Figures of how close a reconstruction is to its original.

The spectral distances are those of auraloss 0.4 with its default settings (Steinmetz & Reiss 2020),
which papers on audio codecs report. They compare the left and the right channel; the stereo image
is measured by `side_error` and `correlation_error`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import librosa
import numpy as np
from jaxtyping import Float

FIGURES = ("si_sdr", "stft_distance", "mel_distance", "side_error", "correlation_error")
TINY = 1e-12  # mean power, relative to full scale; audio below it counts as silent
# (transform, hop, window) of the STFT in samples
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
MEL = (1024, 256, 1024)
MELS = 128
BLOCK = 4096  # frames that are compared at once

Stereo = Float[np.ndarray, "samples 2"]


def figures(reconstruction: Stereo, original: Stereo, sample_rate: int) -> dict[str, float]:
    """All figures of one piece, by name."""
    return {
        "si_sdr": si_sdr(reconstruction, original),
        "stft_distance": stft_distance(reconstruction, original),
        "mel_distance": mel_distance(reconstruction, original, sample_rate),
        "side_error": side_error(reconstruction, original),
        "correlation_error": correlation_error(reconstruction, original),
    }


def medians(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The median of each figure over the records that have it; None if no record has it.

    Signed errors enter with their absolute values: otherwise those of opposite signs would cancel.
    """
    result = {}
    for name in FIGURES:
        values = [record[name] for record in records if record[name] is not None]
        values = [value for value in values if np.isfinite(value)]
        if name.endswith("_error"):
            values = [abs(value) for value in values]
        result[name] = float(np.median(values)) if values else None
    return result


def si_sdr(reconstruction: Stereo, original: Stereo) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019).

    Both channels share one scale. The values are limited to -120 dB (a silent reconstruction) and
    120 dB (a perfect one). The result is NaN if the original is silent.
    """
    x, y = (np.asarray(audio, np.float64).ravel() for audio in (original, reconstruction))
    if _silent(x):
        return float("nan")
    products = float(x @ x), float(x @ y), float(y @ y)
    squared_cosine = products[1] ** 2 / max(products[0] * products[2], TINY**2)  # of their angle
    ratio = max(squared_cosine, TINY) / max(1 - squared_cosine, TINY)
    return float(10 * np.log10(ratio))


def stft_distance(reconstruction: Stereo, original: Stereo) -> float:
    """Spectral convergence plus mean log-magnitude distance in nats, over both channels.

    The result is the mean of three resolutions, or NaN if the original is silent.
    """
    distances = [_distance(reconstruction, original, resolution) for resolution in RESOLUTIONS]
    return float(np.mean(distances))


def mel_distance(reconstruction: Stereo, original: Stereo, sample_rate: int) -> float:
    """Like `stft_distance`, for one resolution and in 128 mel bands."""
    bands = librosa.filters.mel(sr=sample_rate, n_fft=MEL[0], n_mels=MELS)
    return _distance(reconstruction, original, MEL, bands)


def side_error(reconstruction: Stereo, original: Stereo) -> float:
    """Error of the stereo width: the difference of the side signal's share of the energy, in dB.

    Above 0 the reconstruction is wider than the original, below 0 it is narrower. Shares below
    -60 dB count as -60 dB. The result is NaN if the original is silent.
    """
    shares = []
    if _silent(original):
        return float("nan")
    for audio in (reconstruction, original):
        energy = max(np.sum(np.square(audio, dtype=np.float64)), TINY * audio.size)
        side = np.sum(np.square(audio[:, 0] - audio[:, 1], dtype=np.float64)) / 2
        shares.append(10 * np.log10(side / energy + 1e-6))
    return float(shares[0] - shares[1])


def correlation_error(reconstruction: Stereo, original: Stereo) -> float:
    """The difference of the correlations between left and right: above 0 is nearer to mono.

    If a channel of the reconstruction is silent, its correlation counts as 0. The result is NaN if
    a channel of the original is silent.
    """
    correlations = []
    for audio in (reconstruction, original):
        left, right = np.asarray(audio, np.float64).T
        power = np.sqrt((left @ left) * (right @ right))
        silent = power < TINY * len(audio)
        if silent and audio is original:
            return float("nan")
        correlations.append(0.0 if silent else left @ right / power)
    return float(correlations[0] - correlations[1])


def _silent(audio: Float[np.ndarray, "..."]) -> bool:
    return bool(np.sum(np.square(audio, dtype=np.float64)) < TINY * audio.size)


def _blocks(
    audio: Stereo, resolution: tuple[int, int, int]
) -> Iterator[Float[np.ndarray, "2 bins frames"]]:
    """Magnitudes of the centred STFT with reflected ends, in blocks of frames to save memory."""
    size, hop, window = resolution
    both_ends = ((size // 2, size // 2), (0, 0))
    padded = np.pad(np.asarray(audio, np.float32), both_ends, mode="reflect").T
    frames = 1 + len(audio) // hop
    for first in range(0, frames, BLOCK):
        part = padded[:, first * hop : (min(first + BLOCK, frames) - 1) * hop + size]
        spectrum = librosa.stft(part, n_fft=size, hop_length=hop, win_length=window, center=False)
        yield np.sqrt(np.maximum(spectrum.real**2 + spectrum.imag**2, 1e-8))


def _distance(
    reconstruction: Stereo,
    original: Stereo,
    resolution: tuple[int, int, int],
    bands: np.ndarray | None = None,
) -> float:
    """Spectral convergence plus log-magnitude distance over both channels.

    With `bands`, a filter bank [bands, bins], magnitudes are compared in its bands. The result is
    NaN if the original is silent.
    """
    if _silent(original):
        return float("nan")
    error, energy, logs, count = 0.0, 0.0, 0.0, 0
    pairs = zip(_blocks(reconstruction, resolution), _blocks(original, resolution), strict=True)
    for ours, theirs in pairs:
        if bands is not None:
            ours, theirs = bands @ ours, bands @ theirs
        error += float(np.sum(np.square(theirs - ours, dtype=np.float64)))
        energy += float(np.sum(np.square(theirs, dtype=np.float64)))
        logs += float(np.sum(np.abs(np.log(ours) - np.log(theirs)), dtype=np.float64))
        count += ours.size
    return (error / energy) ** 0.5 + logs / count
