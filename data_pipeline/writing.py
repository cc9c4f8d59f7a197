"""The shards of one unit: complete files whose names are not final yet.

Nothing here imports TensorFlow, so that the processes that prepare units start at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.hashing import digest

SHARD_BYTES = 256 * 2**20
OPTIONS = "group_size:1,uncompressed"  # PCM hardly becomes smaller, and reading must be fast
READ_AT_ONCE = 16  # records


@contextmanager
def as_os_error() -> Iterator[None]:
    """Array_record raises RuntimeError where the disk is full."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


def serialise(example: Mapping) -> bytes:
    """A `tf.train.Example` of arrays (their bytes), texts, lists of texts, and numbers.

    It is what TFDS writes for the features in `layout`.
    """
    features = (
        _field(1, _field(1, name.encode()) + _field(2, _feature(value)))
        for name, value in sorted(example.items())
    )
    return _field(1, b"".join(features))


def _feature(value) -> bytes:
    """A `tf.train.Feature`."""
    if isinstance(value, float | np.floating):
        return _field(2, _field(1, np.float32(value).tobytes()))
    if isinstance(value, int | np.integer):
        return _field(3, _field(1, _varint(int(value))))
    values = [value.tobytes()] if isinstance(value, np.ndarray) else value
    values = [values] if isinstance(values, str) else values
    values = (each if isinstance(each, bytes) else each.encode() for each in values)
    return _field(1, b"".join(_field(1, each) for each in values))


def _field(number: int, content: bytes) -> bytes:
    """A field of the protocol buffer format that holds bytes."""
    return b"".join((_varint(number << 3 | 2), _varint(len(content)), content))


def _varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


@dataclass
class Shards:
    """Appends clips to the shards STEM-0.part, STEM-1.part, ... in `folder`.

    `done` describes those that are complete: name, records, bytes (of the records) and SHA-256.
    The records of a clip are in one shard.
    """

    folder: Path
    stem: str
    done: list[dict] = field(default_factory=list)
    _open: ArrayRecordWriter | None = None

    def write(self, records: Sequence[bytes]) -> None:
        """Appends the records of one clip."""
        size = sum(map(len, records))
        if self._open and self.done[-1]["bytes"] + size > SHARD_BYTES:
            self.close()
        with as_os_error():
            if self._open is None:
                name = f"{self.stem}-{len(self.done)}.part"
                self._open = ArrayRecordWriter(str(self.folder / name), OPTIONS)
                self.done.append({"name": name, "records": 0, "bytes": 0})
            for record in records:
                self._open.write(record)
        self.done[-1]["records"] += len(records)
        self.done[-1]["bytes"] += size

    def close(self) -> list[dict]:
        """Completes the shard that is open, if any, and returns `done`."""
        if self._open is not None:
            with as_os_error():
                self._open.close()
            self._open = None
            self.done[-1]["sha256"] = digest(self.folder / self.done[-1]["name"])
        return self.done


def read_part(path: Path, places: Sequence[int]) -> Iterator[bytes]:
    """The records of a shard at these places, in their order."""
    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
    try:
        for start in range(0, len(places), READ_AT_ONCE):
            yield from reader.read(list(places[start : start + READ_AT_ONCE]))
    finally:
        reader.close()
