"""The sources that read a manifest: a CSV or JSONL file that lists audio files.

Besides `path`, a line may have `caption`, `split` ("train" or "test") and metadata, and in JSONL
`captions` (a list).
"""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from data_pipeline.sidecars import parse, storable
from data_pipeline.sources.items import Item, Rejection, file_item, refused
from jen1_numpy.errors import Refusal

MAX_LINE = 2**20  # characters


def from_csv(manifest: Path) -> Iterator[Item | Rejection]:
    """The files that the rows of a CSV file with a header list; empty cells are left out."""
    with open_lines(manifest) as lines:
        rows = csv.DictReader(lines)
        if "path" not in (rows.fieldnames or ()):
            raise Refusal(
                f"{manifest} has no column named path; "
                f"its columns are {', '.join(rows.fieldnames or ['none'])}."
            )
        yield from _entries(manifest, lines, map(_filled, rows))


def from_jsonl(manifest: Path) -> Iterator[Item | Rejection]:
    """The files that the lines of a JSONL file list, one JSON object a line."""
    with open_lines(manifest) as lines:
        yield from _entries(manifest, lines, map(parse, filter(str.strip, lines)))


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


def _entries(
    manifest: Path, lines: Lines, read: Iterator[dict[str, Any]]
) -> Iterator[Item | Rejection]:
    while True:
        try:
            fields = next(read)
        except StopIteration:
            return
        except (ValueError, csv.Error) as error:
            yield Rejection(f"{manifest.name}:{lines.number}", "unreadable line", str(error))
        else:
            yield _listed(manifest, lines.number, fields)


def _listed(manifest: Path, line: int, fields: dict) -> Item | Rejection:
    """The item of one line: `path` is absolute, or in the manifest's folder and relative to it."""
    listed = fields.pop("path", None)
    if not isinstance(listed, str) or not listed:
        return Rejection(f"{manifest.name}:{line}", "unreadable line", "no path")
    normal = os.path.normpath(listed)
    path = manifest.parent / normal
    if rejection := refused(listed, path):
        return rejection
    if normal.split(os.sep)[0] == os.pardir:
        return Rejection(
            listed, "outside the manifest's folder", "write an absolute path if it is meant"
        )
    return file_item(listed, path, fields)
