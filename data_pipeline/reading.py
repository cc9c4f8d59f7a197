"""Reads clips and parts of them by their place in a split.

Any number of shards may be read at random: few files are open at a time.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipeline._tf import tf
from data_pipeline.layout import info
from data_pipeline.tombstones import find, tombstones
from jen1_numpy.errors import Refusal

OPEN_FILES = 64  # of a split; opening a shard takes .1 ms


class Damaged(Exception):
    """A record cannot be read, or is not what its data set says."""


class Clips:
    """The clips of a split, by place. Threads may share it.

    `withdrawn` are the places of those that must not be used any more.

    Raises:
        Refusal: there is no such data set or split.
    """

    def __init__(self, folder: str, split: str):
        self.about, self.split, self._files = info(folder), split, _Files()
        if split not in self.about.examples:
            known = ", ".join(self.about.examples) or "none"
            raise Refusal(f"{folder} has no split {split!r}, only {known}.")
        self._ends = np.cumsum(self.about.shards[split])
        data, _ = self.about.data_fields
        self._data, self._dtype = data, np.int16 if data == "audio" else np.float16
        self.withdrawn: frozenset[int] = frozenset()
        if names := tombstones(folder):
            found = find(folder, names, lambda name, at: self.id(at) if name == split else None)
            self.withdrawn = frozenset(place for _, name, place in found if name == split)

    def __len__(self) -> int:
        return self.about.examples[self.split]

    def id(self, place: int) -> str | None:
        """Of the clip at `place`; None if it is damaged."""
        try:
            return self.read(place, 0, 1)["id"]
        except Damaged:
            return None

    def read(
        self,
        place: int,
        first: int = 0,
        stop: int | None = None,
        into: np.ndarray | None = None,
    ) -> dict:
        """The rows from `first` to `stop` of the clip at `place`, and what is said about it.

        Args:
            into: where to put the rows; default: a new array.

        Returns:
            audio int16 or latents float16 [stop - first, channels]; valid_samples or valid_frames
            of the whole clip; captions, a list; id and meta; start and total; block, the first
            record's number.

        Raises:
            Damaged: a record that is needed is damaged.
        """
        rows, channels = self.about.shape
        stop, block = rows if stop is None else stop, rows // self.about.blocks
        if not 0 <= first < stop <= rows or not 0 <= place < len(self):
            raise ValueError(f"rows {first} to {stop} of clip {place}")
        begin, end = first // block, -(-stop // block)
        records = self._records(place * self.about.blocks + begin, end - begin)
        into = np.empty((stop - first, channels), self._dtype) if into is None else into
        clip = joined(records, self._data, block, into, first - begin * block)
        if clip.get("block", begin) != begin:
            raise Damaged(f"its block {clip['block']} is where its block {begin} should be")
        return clip

    def _records(self, first: int, count: int) -> Iterator[bytes]:
        number = int(np.searchsorted(self._ends, first, side="right"))
        path = self.about.shard(self.split, number)
        offset = first - (int(self._ends[number - 1]) if number else 0)
        return self._files.read(path, range(offset, offset + count))


def joined(
    records: Iterable[bytes], data: str, block: int, into: np.ndarray, skip: int = 0
) -> dict:
    """What consecutive records of one clip hold.

    Each is copied at once, which spares the memory of a second clip and the time to get it.

    Args:
        data: the field with the audio or the latents, of which a record has `block` rows.
        into: [rows, channels], for all the rows of the records but the first `skip`.

    Raises:
        Damaged: a record is not of this shape, or no record of a data set.
    """
    clip, at = {}, -skip
    try:
        for number, record in enumerate(records):
            found = _features(record)
            clip = clip or found
            follows = found.get("block", [number])[0] == clip.get("block", [0])[0] + number
            if found["id"] != clip["id"] or not follows:
                raise ValueError("its blocks do not follow each other")
            part = np.frombuffer(found.pop(data)[0], into.dtype).reshape(block, into.shape[1])
            part = part[max(-at, 0) : len(into) - at]
            into[max(at, 0) : max(at, 0) + len(part)] = part
            at += block
        clip = {
            name: [text.decode() for text in values] if name == "captions" else _single(values)
            for name, values in clip.items()
        }
    except (KeyError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise Damaged(f"it is no record of this data set ({error!r})") from None
    return clip | {data: into}


class _Files:
    """Open shards, at most `OPEN_FILES` beside those that are being read just now."""

    def __init__(self) -> None:
        self._idle: OrderedDict[Path, ArrayRecordReader] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, places: Iterable[int]) -> Iterator[bytes]:
        with self._lock:
            reader = self._idle.pop(path, None)
        try:
            if reader is None:
                path.stat()  # the reader takes a missing file for an empty one
                reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
            # Its threads, which read several at once, cost more than they save.
            for place in places:
                yield reader.read([place])[0]
        except FileNotFoundError:
            raise Damaged(f"{path.name} is missing") from None
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise Damaged(str(error).strip().splitlines()[0][:200]) from None
        with self._lock:
            self._idle[path] = reader
            over = [self._idle.popitem(last=False)[1]] if len(self._idle) > OPEN_FILES else []
        for each in over:
            each.close()


def _features(record: bytes) -> dict[str, list]:
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # protobuf has its own
        raise ValueError(str(error)) from None
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = getattr(feature, kind).value if kind else []
    return found


def _single(values) -> int | float | str:
    value = values[0]
    return value.decode() if isinstance(value, bytes) else value


def examples(folder: str, split: str, places: Iterable[int] | None = None) -> Iterator[dict]:
    """The clips of a split at `places`, or all in order, as `Clips.read` gives them.

    Raises:
        Refusal: there is no such data set or split, or a record is damaged.
    """
    clips = Clips(folder, split)
    for place in range(len(clips)) if places is None else places:
        try:
            yield clips.read(place)
        except Damaged as damage:
            raise Refusal(
                f"Clip {place} of {split} in {folder} is damaged ({damage}); see "
                "`jen1 data validate`."
            ) from None
