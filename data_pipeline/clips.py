"""One item to its clips, or to the reason why it has none; nothing here depends on other items.

A file is read twice, in blocks: first to check the whole file, then to cut it. Memory stays bounded
whatever its length, and no clip of an unusable file is yielded.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_pipeline.layout import SAMPLE_RATE
from data_pipeline.sources import Item, Rejection
from jen1_numpy.errors import Refusal

MIN_SECONDS = 1.0  # of a file, and of its last piece; half a clip where that is less
SILENCE = 10 ** (-60 / 20)  # peak
BLOCK = 1 << 18  # frames


@dataclass(frozen=True)
class Dropped:
    """A piece of an accepted item that is no clip: a "tail" that is too short, or "silence"."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Recording:
    """An accepted item: the SHA-256 of its file or score, if any, and its pieces in order.

    A clip is an example as `writing.Writer.write` describes it. Iterating reads the file.
    """

    digest: str | None
    pieces: Iterator[dict | Dropped]


def cut(item: Item, seconds: float) -> Recording | Rejection:
    """The clips of `seconds` each that an item is cut into, or why it is rejected.

    The last piece is padded with zeros if it lasts `MIN_SECONDS` (or half a clip), else dropped.
    """
    samples, shortest = round(seconds * SAMPLE_RATE), min(MIN_SECONDS, seconds / 2)
    if not isinstance(item.audio, Path):
        try:
            audio = item.audio()
        except Refusal as error:
            return Rejection(item.id, "cannot be rendered", str(error))
        digest, total, blocks = item.digest, len(audio) / SAMPLE_RATE, [audio]
    else:
        checked = _check(item.id, item.audio, shortest)
        if isinstance(checked, Rejection):
            return checked
        with open(item.audio, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total, blocks = checked.seconds, _decode(item.audio, 1 / max(1.0, checked.peak))
    return Recording(digest, _pieces(item, total, _split(blocks, samples), samples, shortest))


def _pieces(
    item: Item,
    total: float,
    pieces: Iterable[tuple[int, np.ndarray]],
    samples: int,
    shortest: float,
) -> Iterator[dict | Dropped]:
    for first, piece in pieces:
        start, length = first / SAMPLE_RATE, len(piece) / SAMPLE_RATE
        if len(piece) < shortest * SAMPLE_RATE and first:
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


@dataclass(frozen=True)
class _Checked:
    peak: float
    seconds: float


def _check(id: str, path: Path, shortest: float) -> _Checked | Rejection:
    """Reads a whole file and rejects it if it cannot be used."""
    reject, peak, frames = partial(Rejection, id), 0.0, 0
    try:
        with soundfile.SoundFile(path) as file:
            if file.channels > 2:
                return reject(
                    "more than two channels", f"{file.channels} channels; mix down to stereo first"
                )
            if not 4_000 <= file.samplerate <= 768_000:
                return reject("absurd sample rate", f"{file.samplerate} Hz")
            for block in _blocks(file):
                if not np.isfinite(block).all():
                    return reject("NaN or Inf", f"within {BLOCK} frames of frame {frames}")
                peak = max(peak, float(np.abs(block).max(initial=0)))
                frames += len(block)
            if frames < 0.99 * file.frames:
                return reject("undecodable", f"ends after {frames} of {file.frames} frames")
            seconds = frames / file.samplerate
            if seconds < shortest:
                return reject("too short", f"{seconds:.2f} s")
    except (OSError, RuntimeError, TypeError) as error:  # TypeError: the suffix is .raw
        return reject("undecodable", str(error))
    if peak < SILENCE:
        return reject("silent", f"peak {peak:.1e}")
    return _Checked(peak, seconds)


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Blocks of float32 [frames, channels] to the end.

    `file.blocks` would repeat old audio where a file ends earlier than its header says.
    """
    while len(block := file.read(BLOCK, "float32", always_2d=True)):
        yield block


def _decode(path: Path, gain: float) -> Iterator[np.ndarray]:
    """Blocks of float32 [frames, channels] at 48 kHz, multiplied by `gain`."""
    with soundfile.SoundFile(path) as file:
        stream = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, file.channels, dtype="float32")
        for block in _blocks(file):
            block = gain * block
            yield block if file.samplerate == SAMPLE_RATE else stream.resample_chunk(block)
        if file.samplerate != SAMPLE_RATE:
            yield stream.resample_chunk(np.zeros((0, file.channels), np.float32), last=True)


def _split(blocks: Iterable[np.ndarray], samples: int) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive pieces, int16 [<= samples, 2], each with the number of its first sample."""
    start, held = 0, np.zeros((0, 2), np.int16)
    for block in blocks:
        stereo = np.broadcast_to(block, (len(block), 2))  # mono goes to both channels
        held = np.concatenate([held, np.round(np.clip(stereo, -1, 1) * 32767).astype(np.int16)])
        while len(held) >= samples:
            yield start, held[:samples]
            start, held = start + samples, held[samples:]
    if len(held):
        yield start, held
