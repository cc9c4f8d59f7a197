"""The source that reads a manifest: a CSV or JSONL file that lists audio files.

Besides `path`, a line may have `caption`, `split` ("train" or "test") and metadata, and in JSONL
`captions` (a list).
"""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from data_pipeline.sidecars import parse, storable
from data_pipeline.sources.fields import described
from data_pipeline.sources.items import Entry, Item, Rejection, misnamed, refused
from jen1_numpy.errors import Refusal

MAX_LINE = 2**20  # characters


@dataclass(frozen=True)
class Manifest:
    """The files that the lines of a CSV or JSONL file list.

    A CSV file has a header; its empty cells are left out. A JSONL file has one object a line.
    Several lines with one path are one recording.
    """

    manifest: Path

    def entries(self) -> Iterator[Entry | Rejection]:
        try:
            with open_lines(self.manifest) as lines:
                read = _rows if self.manifest.suffix.lower() == ".csv" else _objects
                yield from self._entries(lines, read(self.manifest, lines))
        except OSError as error:
            raise Refusal(f"Cannot read {self.manifest}: {error}.") from None

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        """Its path is absolute, or in the manifest's folder and relative to it."""
        normal = os.path.normpath(id)
        path = self.manifest.parent / normal
        if rejection := refused(id, path):
            return rejection
        if normal.split(os.sep)[0] == os.pardir:
            return Rejection(
                id, "outside the manifest's folder", "write an absolute path if it is meant"
            )
        return described(id, path, [entry.fields for entry in entries])

    def _entries(self, lines: "Lines", read: Iterator[dict]) -> Iterator[Entry | Rejection]:
        while True:
            try:
                fields = next(read)
            except StopIteration:
                return
            except (ValueError, csv.Error) as error:
                yield self._unreadable(lines, str(error))
            else:
                listed = fields.pop("path", None)
                if isinstance(listed, str) and listed:
                    yield misnamed(listed) or Entry(listed, None, fields)
                else:
                    yield self._unreadable(lines, "no path")

    def _unreadable(self, lines: "Lines", detail: str) -> Rejection:
        return Rejection(f"{self.manifest.name}:{lines.number}", "unreadable line", detail)


def _rows(manifest: Path, lines: "Lines") -> Iterator[dict]:
    rows = csv.DictReader(lines)
    try:
        columns = rows.fieldnames or ()
    except csv.Error as error:
        raise Refusal(f"Cannot read the header of {manifest}: {error}.") from None
    if "path" not in columns:
        named = ", ".join(columns or ["none"])
        raise Refusal(f"{manifest} has no column named path; its columns are {named}.")
    return map(_filled, rows)


def _objects(manifest: Path, lines: "Lines") -> Iterator[dict]:
    return map(parse, filter(str.strip, lines))


def _filled(row: dict) -> dict[str, str]:
    """The cells that hold text. Raises ValueError if one cannot be stored."""
    row.pop(None, None)  # cells beyond the header
    fields = {key: value for key, value in row.items() if value}
    storable(fields)
    return fields


class Lines:
    """The lines of a text file, of at most `MAX_LINE` characters each.

    The next line can be read after an error. Bytes that are not UTF-8 become surrogates.
    """

    def __init__(self, file: TextIO):
        self._file, self.number = file, 0  # of the line that was read last

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == MAX_LINE and line[-1] not in "\r\n":
            while (rest := self._file.readline(MAX_LINE)) and rest[-1] not in "\r\n":
                pass
            raise csv.Error(f"it has more than {MAX_LINE} characters")
        return line


@contextmanager
def open_lines(manifest: Path) -> Iterator[Lines]:
    with open(manifest, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield Lines(file)
