"""What a source lists: on disk, in the order of a hash, and cut into units.

A unit is some recordings that are prepared together. The order and the units depend on the ids of
the recordings and on the seed alone, so that an interrupted preparation finds the same units again.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipeline.hashing import hashed
from data_pipeline.sources import Entry, Rejection, Source

UNITS = 1000  # about so many, as far as their sizes allow it
SMALLEST, LARGEST = 16, 512  # recordings of a unit


@dataclass(frozen=True)
class Listing:
    """The entries of a source, which lie in a file, one a line.

    It takes 40 bytes of memory an entry.
    """

    digest: str  # SHA-256 of the lines
    files: int  # different ids of entries, and what the listing itself rejects
    _places: np.ndarray  # of the lines in the file, in order of the hash, int64 [lines]
    _bounds: np.ndarray  # the first line of each unit and the number of lines, int64 [units + 1]

    @property
    def units(self) -> int:
        return len(self._bounds) - 1

    def lines(self, unit: int) -> list[int]:
        """Where the lines of a unit begin in the file, in order."""
        return self._places[self._bounds[unit] : self._bounds[unit + 1]].tolist()


def write_listing(source: Source, seed: int, file: BinaryIO) -> Listing:
    """Writes what a source lists into `file`, one JSON object a line, as the source orders it."""
    hashes, places, known = array("Q"), array("q"), array("B")
    digest, place = hashlib.sha256(), 0
    for listed in source.entries():
        line = json.dumps(vars(listed)).encode() + b"\n"  # ASCII: a name may hold half a surrogate
        file.write(line)
        digest.update(line)
        hashes.append(hashed(f"{seed}:{listed.id}"))
        places.append(place)
        known.append(isinstance(listed, Entry))
        place += len(line)
    keys, entries = np.frombuffer(hashes, np.uint64), np.frombuffer(known, np.bool_)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    # Lines with one id are in one unit.
    numbers = np.cumsum(np.diff(keys, prepend=keys[:1]) != 0)
    count = int(numbers[-1]) + 1 if len(numbers) else 0
    size = min(max(SMALLEST, count // UNITS), LARGEST)
    bounds = np.searchsorted(numbers, np.arange(0, count + size, size)) if count else np.zeros(1)
    return Listing(
        digest.hexdigest(),
        len(np.unique(keys[entries[order]])) + int(len(entries) - entries.sum()),
        np.frombuffer(places, np.int64)[order],
        bounds.astype(np.int64),
    )


def read_lines(
    path: Path, places: Sequence[int]
) -> Iterator[tuple[str, list[Entry], list[Rejection]]]:
    """The recordings of a unit in order: id, entries, and what the listing rejected."""
    found: dict[str, tuple[list[Entry], list[Rejection]]] = {}
    with open(path, "rb") as file:
        for place in places:
            file.seek(place)
            fields = json.loads(file.readline())
            entries, rejected = found.setdefault(fields["id"], ([], []))
            if "reason" in fields:
                rejected.append(Rejection(**fields))
            else:
                entries.append(Entry(**fields))
    for id, (entries, rejected) in found.items():
        yield id, entries, rejected
