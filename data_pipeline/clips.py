"""One item to its clips, or to the reason why it has none; nothing here depends on other items.

A file is decoded once, in blocks, which are judged, resampled and kept, in a temporary file if they
are many. Its clips are cut when its end has shown that it can be used, and how loud it is. Memory
stays bounded whatever its length.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
import soundfile
import soxr

from data_pipeline.judging import SILENCE, Judge, Verdict, truncated
from data_pipeline.layout import SAMPLE_RATE
from data_pipeline.sources import Item, Rejection, Section
from data_pipeline.sources.sections import opened
from jen1_numpy.errors import Refusal

MIN_SECONDS = 1.0  # of a file, and of its last piece; half a clip where that is less
BLOCK = 1 << 18  # frames
IN_MEMORY = 2**27  # bytes of decoded audio, about six minutes of stereo; more goes to a file


@dataclass(frozen=True)
class Dropped:
    """A piece of an accepted item that is no clip: a "tail" that is too short, or "silence"."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Recording:
    """An accepted item: what was found out about it, and its pieces in order.

    `digest` is the SHA-256 of its file or score, if any; `sample_rate` and `channels` are those of
    the file. A clip is an example as `layout` describes it, with the audio int16 [samples, 2] of
    the whole clip.
    """

    digest: str | None
    sample_rate: int
    channels: int
    seconds: float
    verdict: Verdict
    pieces: Iterator[dict | Dropped]


class Unusable(Exception):
    """Why a file cannot be used: the reason and the detail of a `Rejection`."""


def cut(
    item: Item,
    seconds: float,
    *,
    loudness: float | None = None,
    folder: Path | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Recording | Rejection:
    """The clips of `seconds` each that an item is cut into, or why it is rejected.

    The last piece of the recording, and of each of its stretches, is padded with zeros if it lasts
    `MIN_SECONDS` (or half a clip), else dropped. A recording with a peak above 1 is scaled to 1.

    Args:
        loudness: LUFS to which the whole recording is scaled, as far as its peak stays below 1;
            None leaves it as it is.
        folder: for the temporary file of a long recording; by default that of the system.
        alive: is called before each block is decoded.
    """
    try:
        digest = None
        if callable(item.audio):
            audio, digest = item.audio(), item.digest
            rate, channels, blocks = SAMPLE_RATE, 2, _parts(audio)
        else:
            digest, file = _digest(item.audio), _sound(item.audio)
            rate, channels, blocks = file.samplerate, file.channels, _decode(file)
        judge, kept = Judge(rate, channels), _Kept(channels, folder)
        frames = 0
        for block in _resampled(_judged(blocks, judge, alive), rate, channels):
            kept.append(block)
            frames += len(block)
    except Unusable as unusable:
        return Rejection(item.id, *unusable.args)
    except Refusal as error:
        return Rejection(item.id, "cannot be rendered", str(error))
    verdict, shortest = judge.verdict(), min(MIN_SECONDS, seconds / 2)
    if not verdict.finite:
        return Rejection(item.id, "NaN or Inf")
    if frames < shortest * SAMPLE_RATE:
        return Rejection(item.id, "too short", f"{frames / SAMPLE_RATE:.2f} s")
    if verdict.silent:
        return Rejection(item.id, "silent", f"peak {verdict.peak:.1e}")
    kept.gain = _gain(verdict, loudness)
    pieces = _pieces(item, kept, round(seconds * SAMPLE_RATE), shortest)
    return Recording(digest, rate, channels, frames / SAMPLE_RATE, verdict, pieces)


def _gain(verdict: Verdict, loudness: float | None) -> float:
    if loudness is None or verdict.loudness is None:
        return 1 / max(1.0, verdict.peak)
    return min(10 ** ((loudness - verdict.loudness) / 20), 1 / verdict.peak)


def _pieces(item: Item, kept: "_Kept", samples: int, shortest: float) -> Iterator[dict | Dropped]:
    total = kept.frames / SAMPLE_RATE
    for begin, end in item.stretches or ((0.0, total),):
        last = min(round(end * SAMPLE_RATE), kept.frames)
        begin = round(begin * SAMPLE_RATE)
        for first in range(begin, last, samples):
            piece = kept.read(first, min(first + samples, last))
            start, length = first / SAMPLE_RATE, len(piece) / SAMPLE_RATE
            if len(piece) < shortest * SAMPLE_RATE:
                yield Dropped("tail", length)
            elif np.abs(piece.astype(np.int32)).max() < SILENCE * 32767:
                yield Dropped("silence", length)
            else:
                about = item.about(start, start + length)
                yield dict(
                    audio=np.pad(piece, ((0, samples - len(piece)), (0, 0))),
                    valid_samples=len(piece),
                    start=start,
                    total=total,
                    captions=list(about.captions),
                    id=f"{item.id}@{start:.3f}",
                    meta=json.dumps(about.meta, default=str),
                )


class _Kept:
    """The decoded audio of a recording at 48 kHz, in memory or in a temporary file."""

    def __init__(self, channels: int, folder: Path | None):
        self._file = SpooledTemporaryFile(IN_MEMORY, dir=folder)  # noqa: SIM115
        self._channels = channels
        self.frames, self.gain = 0, 1.0

    def append(self, block: np.ndarray) -> None:
        """Takes the next block, float32 [frames, channels]."""
        self._file.write(np.ascontiguousarray(block, np.float32).tobytes())
        self.frames += len(block)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The audio from one frame to another, int16 [frames, 2]; mono goes to both channels."""
        self._file.seek(4 * self._channels * start)
        content = self._file.read(4 * self._channels * (stop - start))
        audio = np.frombuffer(content, np.float32).reshape(-1, self._channels)
        scaled = np.round(np.clip(self.gain * audio, -1, 1) * 32767).astype(np.int16)
        return np.broadcast_to(scaled, (len(scaled), 2))


def _digest(audio: Path | Section) -> str:
    try:
        with opened(audio) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Unusable("undecodable", str(error)) from None


def _sound(audio: Path | Section) -> soundfile.SoundFile:
    """A file that is stereo or mono and has a usable rate."""
    try:
        if isinstance(audio, Path) and (lacking := truncated(audio)):
            raise Unusable("truncated", lacking)
        file = soundfile.SoundFile(audio if isinstance(audio, Path) else opened(audio))
    except (OSError, RuntimeError, TypeError) as error:  # TypeError: the suffix is .raw
        detail = getattr(error, "error_string", str(error))  # without the path
        raise Unusable("undecodable", detail) from None
    if file.channels > 2:
        raise Unusable(
            "more than two channels", f"{file.channels} channels; mix down to stereo first"
        )
    if not 4_000 <= file.samplerate <= 768_000:
        raise Unusable("absurd sample rate", f"{file.samplerate} Hz")
    return file


def _decode(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Blocks of float32 [frames, channels] to the end.

    `file.blocks` would repeat old audio where a file ends earlier than its header says.
    """
    frames = 0
    with file:
        while True:
            try:
                block = file.read(BLOCK, "float32", always_2d=True)
            except (OSError, RuntimeError) as error:
                raise Unusable("undecodable", str(error)) from None
            if not len(block):
                break
            frames += len(block)
            yield block
        if frames < 0.99 * file.frames:
            raise Unusable("undecodable", f"ends after {frames} of {file.frames} frames")


def _parts(audio: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(audio), BLOCK):
        yield audio[start : start + BLOCK]


def _judged(
    blocks: Iterator[np.ndarray], judge: Judge, alive: Callable[[], None]
) -> Iterator[np.ndarray]:
    alive()
    for block in blocks:
        judge.add(block)
        yield block
        alive()


def _resampled(blocks: Iterator[np.ndarray], rate: int, channels: int) -> Iterator[np.ndarray]:
    """The same audio at 48 kHz."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)
