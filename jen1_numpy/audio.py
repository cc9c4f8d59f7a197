"""Audio for generation: files, conversion to stereo at the model's rate, cross-fades, mastering.

Files are read by soundfile and written as 32-bit float WAV.
"""

import logging
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from jen1_numpy.errors import Refusal
from jen1_numpy.files import local, whole_file

log = logging.getLogger(__name__)

Audio = Float32[np.ndarray, "samples 2"]
Signal = Float32[np.ndarray, " samples"]

BLOCK = 1 << 18  # frames that are read at once
MAX_SECONDS = 3600  # of audio that is read or generated
LOWEST = 20.0  # Hz; people hear no lower tones
MAX_OFFSET = 0.005  # of full scale, of the mean of generated audio


def read_audio(path: str | os.PathLike, sample_rate: int) -> Audio:
    """The file as float32 [samples, 2] at `sample_rate` Hz.

    Raises `Refusal` where it cannot be read or used. It is read in blocks: its memory depends on
    the audio in the file, and not on the length in its header.
    """
    if not os.path.isfile(path):
        raise Refusal(
            f"{path} cannot be read as audio: there is no such file, or it is no regular one."
        )
    blocks, frames = [], 0
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels, announced = file.samplerate, file.channels, file.frames
            if channels > 2:
                raise Refusal(f"{path} has {channels} channels; mix it down to stereo first.")
            _check_rate(rate, str(path))
            while len(block := file.read(BLOCK, "float32", always_2d=True)):
                blocks.append(block)
                frames += len(block)
                if frames > MAX_SECONDS * min(rate, 96_000):  # at most 3 GiB
                    raise Refusal(f"{path} is longer than {MAX_SECONDS} seconds; cut it first.")
    except (soundfile.LibsndfileError, OSError, TypeError, RuntimeError) as error:
        raise Refusal(
            f"{path} cannot be read as audio ({error}); give a WAV, FLAC, OGG or MP3 file."
        ) from None
    if frames < announced:
        log.warning(
            "%s says that it holds %.2f s of audio, but it ends after %.2f s.",
            path,
            announced / rate,
            frames / rate,
        )
    audio = np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32)
    return as_stereo(audio, rate, sample_rate, name=str(path))


def _check_rate(rate: int, name: str) -> None:
    if not 4_000 <= rate <= 768_000:
        raise Refusal(
            f"{name} says that it has {rate} samples a second; give audio between 4 and 768 kHz."
        )


def as_stereo(audio: np.ndarray, rate: int, sample_rate: int, name: str = "the audio") -> Audio:
    """`audio` as float32 [samples, 2] at `sample_rate`; every conversion is logged.

    `audio` is [samples] or [samples, 1 or 2 channels] at `rate`; raises `Refusal` where it is not
    floating-point, finite and of such a shape.
    """
    audio = np.asarray(audio)
    if not np.issubdtype(audio.dtype, np.floating):
        raise Refusal(
            f"{name} holds {audio.dtype}; "
            "give floating-point samples in [-1, 1] (16-bit integers / 32768)."
        )
    audio = audio.astype(np.float32, copy=False)
    _check_rate(rate, name)
    if audio.ndim == 1:
        audio = audio[:, None]
    if audio.ndim != 2 or audio.shape[1] not in (1, 2):
        raise Refusal(
            f"{name} has the shape {audio.shape}; give [samples] or [samples, 1 or 2 channels]."
        )
    if len(audio) == 0:
        raise Refusal(f"{name} holds no samples; give audio that is at least one frame long.")
    if not np.isfinite(audio).all():
        raise Refusal(f"{name} holds NaN or infinite samples; repair it first.")
    if audio.shape[1] == 1:
        log.warning("%s is mono: both channels get the same signal.", name)
        audio = np.repeat(audio, 2, axis=1)
    if rate != sample_rate:
        log.warning("%s is at %d Hz: resampled to %d Hz.", name, rate, sample_rate)
        audio = soxr.resample(audio, rate, sample_rate)
    return np.ascontiguousarray(audio, np.float32)


def check_writable(path: str | os.PathLike) -> Path:
    """`path`, to which a WAV can be written; creates its folder.

    To be called before long work; raises `Refusal` where writing would fail.
    """
    path = local(path)
    if path.suffix.lower() != ".wav":
        raise Refusal(f"{path} should end in .wav: audio is written as 32-bit float WAV.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(
            f"The folder {path.parent} cannot be created ({error.strerror}); choose another --out."
        ) from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Refusal(f"{path} cannot be written; choose another --out.")
    return path


def write_wav(path: Path, audio: Audio, sample_rate: int) -> None:
    """Writes a 32-bit float WAV; the file gets its final name when it is complete."""
    try:
        with whole_file(path) as partial:
            soundfile.write(partial, audio, sample_rate, subtype="FLOAT", format="WAV")
    except (soundfile.LibsndfileError, OSError) as error:
        raise Refusal(f"{path} cannot be written ({error}); choose another --out.") from None


def crossfade(before: Audio, after: Audio) -> Audio:
    """Fades from `before` to `after`, of equal length, by raised cosines that add up to 1."""
    position = (np.arange(len(before)) + 0.5) / len(before)
    ramp = (0.5 - 0.5 * np.cos(np.pi * position))[:, None].astype(np.float32)
    return before * (1 - ramp) + after * ramp


def master(audio: Audio, sample_rate: int) -> Audio:
    """Generated audio without an offset and within full scale; every change is logged.

    A peak is turned down together with the audio close to it. Elsewhere the level does not change,
    so that it goes on fitting the audio before it.
    """
    if not np.isfinite(audio).all():
        raise Refusal(
            "The generated audio holds NaN or infinite samples; "
            "look at the run's losses for where training went wrong, or lower the guidance scale."
        )
    offset = audio.mean(axis=0, dtype=np.float64).astype(np.float32)
    # The mean that half a period of the lowest tone leaves, which is no offset.
    half_period_mean = np.abs(audio).max() * sample_rate / (np.pi * LOWEST * len(audio))
    if np.abs(offset).max() > max(MAX_OFFSET, half_period_mean):
        log.warning(
            "The generated audio had an offset of %.3f: removed.", float(np.abs(offset).max())
        )
        audio = audio - offset
    peaks = np.abs(audio).max(axis=1)
    if peaks.max() > 1:
        log.warning(
            "The generated audio peaked at %.2f: turned down to 1 there.", float(peaks.max())
        )
        # As long as a period of the lowest tone, so that loud tones keep their form; odd, so that
        # the window is centred.
        width = round(sample_rate / LOWEST) | 1
        gain = _sliding_mean(_sliding_minimum(1 / np.maximum(peaks, 1), width), width)
        audio = np.clip(audio * gain[:, None], -1, 1)  # rounding may exceed 1
    return audio


def _sliding_minimum(x: Signal, width: int) -> Signal:
    """The minimum of `x` in a centred window of `width` samples, an odd number.

    Beyond its ends, `x` goes on with its first and last value.

    The algorithm of van Herk (1992): the minima from the left and from the right within blocks of
    `width` samples, of which every window takes one of each.
    """
    padded = np.pad(x, (width // 2, width // 2 + -(len(x) + width - 1) % width), mode="edge")
    blocks = padded.reshape(-1, width)
    left = np.minimum.accumulate(blocks, axis=1).ravel()
    right = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    return np.minimum(right[: len(x)], left[width - 1 : width - 1 + len(x)])


def _sliding_mean(x: Signal, width: int) -> Signal:
    """The mean of `x` in windows as in `_sliding_minimum`."""
    sums = np.cumsum(np.pad(x, (width // 2 + 1, width // 2), mode="edge"), dtype=np.float64)
    return ((sums[width:] - sums[:-width]) / width).astype(np.float32)
