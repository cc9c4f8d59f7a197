"""How close a reconstruction comes to its original, file by file.

The spectral distances are those of auraloss 0.4 with its default settings (Steinmetz & Reiss 2020), which is what papers on audio
codecs report; they look at left and right, and the stereo image has figures of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import librosa
import numpy as np
from jaxtyping import Float

FIGURES = ("si_sdr", "stft_distance", "mel_distance", "side_error", "correlation_error")
TINY = 1e-12  # power, re full scale
RESOLUTIONS = (
    (1024, 120, 600),
    (2048, 240, 1200),
    (512, 50, 240),
)  # transform, hop, window, in samples
MEL = (1024, 256, 1024)
MELS = 128
BLOCK = 4096  # frames

Stereo = Float[np.ndarray, "samples 2"]


def figures(reconstruction: Stereo, original: Stereo, sample_rate: int) -> dict[str, float]:
    """All figures of one piece by name."""
    return {
        "si_sdr": si_sdr(reconstruction, original),
        "stft_distance": stft_distance(reconstruction, original),
        "mel_distance": mel_distance(reconstruction, original, sample_rate),
        "side_error": side_error(reconstruction, original),
        "correlation_error": correlation_error(reconstruction, original),
    }


def medians(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of each figure over the pieces that have one; of the signed errors' sizes, or too wide would make up for too narrow."""
    size = lambda name, value: abs(value) if name.endswith("_error") else value
    known = lambda value: value is not None and np.isfinite(value)
    found = {
        name: [size(name, record[name]) for record in records if known(record[name])]
        for name in FIGURES
    }
    return {name: float(np.median(values)) if values else None for name, values in found.items()}


def si_sdr(reconstruction: Stereo, original: Stereo) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), one scale for both channels.

    A silent original has none: nan. Values end at 120 dB, for a perfect reconstruction, and at -120 dB, for silence.
    """
    x, y = (np.asarray(audio, np.float64).ravel() for audio in (original, reconstruction))
    if _silent(x):
        return float("nan")
    alike = (x @ y) ** 2 / max(
        (x @ x) * (y @ y), TINY**2
    )  # squared cosine of the angle between the two
    return float(10 * np.log10(max(alike, TINY) / max(1 - alike, TINY)))


def stft_distance(reconstruction: Stereo, original: Stereo) -> float:
    """Spectral convergence plus mean log-magnitude distance in nats, averaged over three resolutions and both channels.

    A silent original has none: nan.
    """
    return float(
        np.mean([_distance(reconstruction, original, resolution) for resolution in RESOLUTIONS])
    )


def mel_distance(reconstruction: Stereo, original: Stereo, sample_rate: int) -> float:
    """The same on one resolution in 128 mel bands."""
    bands = librosa.filters.mel(sr=sample_rate, n_fft=MEL[0], n_mels=MELS)
    return _distance(reconstruction, original, MEL, bands)


def side_error(reconstruction: Stereo, original: Stereo) -> float:
    """Stereo-image error: the difference in dB of the side's share of the energy; 0 is an image as wide as the original.

    Negative is narrower. The share is floored at -60 dB, so a mono file may differ by 60 at most; a silent original gives nan.
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
    """The difference of the correlation between left and right: above 0 is nearer to mono.

    nan where a channel of the original is silent; one that only the reconstruction has lost counts as a correlation of 0.
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
    """Magnitudes of the centred, reflected STFT, `BLOCK` frames at a time: a long file's would fill the memory."""
    size, hop, window = resolution
    padded = np.pad(
        np.asarray(audio, np.float32), ((size // 2, size // 2), (0, 0)), mode="reflect"
    ).T
    frames = 1 + len(audio) // hop
    for first in range(0, frames, BLOCK):
        part = padded[:, first * hop : (min(first + BLOCK, frames) - 1) * hop + size]
        spectrum = librosa.stft(part, n_fft=size, hop_length=hop, win_length=window, center=False)
        yield np.sqrt(np.maximum(spectrum.real**2 + spectrum.imag**2, 1e-8))


def _distance(
    made: Stereo, real: Stereo, resolution: tuple[int, int, int], bands: np.ndarray | None = None
) -> float:
    """Spectral convergence plus log-magnitude distance, over both channels at once; nan where `real` is silent."""
    if _silent(real):
        return float("nan")
    off, size, logs, count = 0.0, 0.0, 0.0, 0
    for ours, theirs in zip(_blocks(made, resolution), _blocks(real, resolution), strict=True):
        if bands is not None:
            ours, theirs = bands @ ours, bands @ theirs
        off += float(np.sum(np.square(theirs - ours, dtype=np.float64)))
        size += float(np.sum(np.square(theirs, dtype=np.float64)))
        logs += float(np.sum(np.abs(np.log(ours) - np.log(theirs)), dtype=np.float64))
        count += ours.size
    return (off / size) ** 0.5 + logs / count
