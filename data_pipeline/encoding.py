"""Clips to latents, many at a time and in few shapes.

The latents at both ends of a clip depend on the audio beyond them. Clips that follow each other in
a recording are therefore encoded in one row, up to `Encoder.batch_size` of them, with some of the
audio before and after them, whose latents are cut off. Of 13 clips, eight, four and one are in a
row; the rows with as many clips, of different recordings, make a batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.embeddings import Embed
from data_pipeline.layout import SAMPLE_RATE, adjoining
from jen1_numpy.errors import Refusal


@dataclass(frozen=True)
class Encoder:
    """What makes latents of clips, and embeddings of captions.

    Args:
        encode: audio float32 [rows, frames * hop, 2] and how many samples of each are audio, [rows]
            -> whitened latents [rows, frames, k]. There are as many shapes as powers of two up to
            `batch_size`, and all hold about as much audio.
        fingerprint: JSON values that identify the encoder (and the text encoder), written to
            fingerprint.json.
        around: frames of the adjoining clips on each side that are encoded with a row and then
            cut off. With the encoder's receptive field, a clip of whole hops has the latents that
            it has in its piece.
        embed: captions -> (embedding [n, tokens, d], lengths [n]); None stores only captions.
        batch_size: clips of a batch.
    """

    encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
    fingerprint: Mapping
    k: int
    hop: int
    around: int = 0
    embed: Embed | None = None
    batch_size: int = 8

    def frames(self, seconds: float) -> int:
        """The latent frames of a clip."""
        return -(-round(seconds * SAMPLE_RATE) // self.hop)


@dataclass(frozen=True)
class _Row:
    """Clips that follow each other, by their number, and their audio with what is around it."""

    numbers: range
    audio: np.ndarray  # int16 [samples, 2]
    lead: int  # samples of it before the first clip
    valid: int  # samples of it that are no padding


def encoded(clips: Iterable[Mapping], encoder: Encoder, seconds: float) -> Iterator[dict]:
    """The examples of latents of waveform clips, in the same order.

    Clips that are not directly one after the other in `clips` and in their recording have nothing
    around them. Other fields than the audio stay.

    Raises:
        Refusal: latents are not finite or of another shape than the encoder says.
    """
    rows: dict[int, list[_Row]] = {}  # by their number of clips
    said: dict[int, dict] = {}  # of the clips whose latents are not out yet
    latents: dict[int, np.ndarray] = {}
    out = 0

    def finish(size: int) -> None:
        latents.update(_encode(rows.pop(size), size, encoder, seconds))

    for row in _rows(clips, encoder, seconds, said):
        size = len(row.numbers)
        rows.setdefault(size, []).append(row)
        if len(rows[size]) == max(1, encoder.batch_size // size):
            finish(size)
        while out in latents:
            yield _example(said.pop(out), latents.pop(out), encoder)
            out += 1
    for size in [*rows]:
        finish(size)
    for number in sorted(latents):
        yield _example(said[number], latents[number], encoder)


def _rows(
    clips: Iterable[Mapping], encoder: Encoder, seconds: float, said: dict[int, dict]
) -> Iterator[_Row]:
    """The clips in rows, each as soon as the clip after it is known; `said` gets all but audio."""
    samples = round(seconds * SAMPLE_RATE)
    most = 1 if samples % encoder.hop else 1 << (encoder.batch_size.bit_length() - 1)
    around = min(encoder.around * encoder.hop, samples // encoder.hop * encoder.hop)
    before, held, number = None, [], 0  # the clip before those that are held; the first one's

    def cut(count: int, after: Mapping | None) -> _Row:
        nonlocal before, number
        taken = held[:count]
        lead = around if before is not None else 0
        parts = [before["audio"][samples - lead :]] if before is not None and lead else []
        parts += [clip["audio"] for clip in taken]
        valid = lead + samples * (count - 1) + taken[-1]["valid_samples"]
        if after is not None and around:
            parts.append(after["audio"])
            valid += after["valid_samples"]
        row = _Row(range(number, number + count), np.concatenate(parts), lead, valid)
        before, number = taken[-1], number + count
        del held[:count]
        return row

    def rest() -> Iterator[_Row]:
        while held:
            count = 1 << (min(len(held), most).bit_length() - 1)
            yield cut(count, held[count] if len(held) > count else None)

    for clip in clips:
        said[number + len(held)] = {name: clip[name] for name in clip if name != "audio"}
        last = held[-1] if held else before
        if last is not None and not _adjoin(last, clip, seconds):
            yield from rest()
            before = None
        held.append(clip)
        if len(held) > most:
            yield cut(most, held[most])
    yield from rest()


def _adjoin(clip: Mapping, after: Mapping, seconds: float) -> bool:
    ids, starts = [clip["id"].encode(), after["id"].encode()], [clip["start"], after["start"]]
    return bool(adjoining(ids, starts, seconds)[0])


def _encode(
    rows: Sequence[_Row], size: int, encoder: Encoder, seconds: float
) -> dict[int, np.ndarray]:
    """Latents float16 [frames, k] of each clip in rows of `size` clips, by its number."""
    hop, frames = encoder.hop, encoder.frames(seconds)
    around = min(encoder.around, round(seconds * SAMPLE_RATE) // hop)
    length, count = size * frames + 2 * around, max(1, encoder.batch_size // size)
    audio, valid = np.zeros((count, length * hop, 2), np.float32), np.zeros(count, np.int64)
    for place, row in enumerate(rows):
        given = row.audio[: length * hop]
        audio[place, : len(given)] = given / np.float32(32767)
        valid[place] = min(row.valid, length * hop)
    latents = np.asarray(encoder.encode(audio, valid))
    if latents.shape != (expected := (count, length, encoder.k)):
        raise Refusal(f"The encoder gave {latents.shape} for {count} rows, not {expected}.")
    found = {}
    with np.errstate(over="ignore"):  # refused later, by name
        for place, row in enumerate(rows):
            for index, number in enumerate(row.numbers):
                first = row.lead // hop + index * frames
                found[number] = latents[place, first : first + frames].astype(np.float16)
    return found


def _example(said: dict, latents: np.ndarray, encoder: Encoder) -> dict:
    if not np.isfinite(latents).all():
        raise Refusal(
            f"The latents of {said['id']} are not finite in float16; check the autoencoder."
        )
    valid = -(-int(said.pop("valid_samples")) // encoder.hop)
    said.pop("block", None)
    return said | dict(latents=latents, valid_frames=valid)
