"""How close a reconstruction comes to its original, file by file, over both channels jointly."""

import librosa
import numpy as np
from jaxtyping import Float

TINY = 1e-12  # power, re full scale


def si_sdr(reconstruction: Float[np.ndarray, "samples 2"], original: Float[np.ndarray, "samples 2"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), one scale for both channels.

    A silent original has none: nan. Values end at 120 dB, for a perfect reconstruction, and at -120 dB, for silence.
    """
    x, y = (np.asarray(audio, np.float64).ravel() for audio in (original, reconstruction))
    if x @ x < TINY * x.size:
        return float("nan")
    alike = (x @ y) ** 2 / max((x @ x) * (y @ y), TINY**2)  # squared cosine of the angle between the two
    return float(10 * np.log10(max(alike, TINY) / max(1 - alike, TINY)))


def mel_distance(
    reconstruction: Float[np.ndarray, "samples 2"], original: Float[np.ndarray, "samples 2"], sample_rate: int
) -> float:
    """Mean absolute difference in dB of 64-band mel spectra (2048-sample windows) of left, right, mid and side, floor -80 dB."""
    return float(np.mean(np.abs(_mel(reconstruction, sample_rate) - _mel(original, sample_rate))))


def side_error(reconstruction: Float[np.ndarray, "samples 2"], original: Float[np.ndarray, "samples 2"]) -> float:
    """Stereo-image error: the difference in dB of the side's share of the energy; 0 is an image as wide as the original.

    Negative is narrower. The share is floored at -60 dB, so a mono file may differ by 60 at most; a silent file gives nan.
    """
    shares = []
    for audio in (reconstruction, original):
        energy = np.sum(np.square(audio, dtype=np.float64))
        if energy < TINY * audio.size:
            return float("nan")
        side = np.sum(np.square(audio[:, 0] - audio[:, 1], dtype=np.float64)) / 2
        shares.append(10 * np.log10(side / energy + 1e-6))
    return float(shares[0] - shares[1])


def _mel(audio: Float[np.ndarray, "samples 2"], sample_rate: int) -> np.ndarray:
    left, right = np.asarray(audio, np.float32).T
    views = np.stack([left, right, (left + right) / 2, (left - right) / 2])
    mel = librosa.feature.melspectrogram(y=views, sr=sample_rate, n_fft=2048, hop_length=512, n_mels=64, norm=None)
    return librosa.power_to_db(mel / 1024**2, ref=1.0, amin=1e-8, top_db=None)
