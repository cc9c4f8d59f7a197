"""The source that reads a manifest: a CSV, TSV or JSONL file that lists audio files.

Besides `path`, a line may have the fields that `fields.described` knows, and metadata.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from data_pipeline.sidecars import parse, storable
from data_pipeline.sources.fields import described
from data_pipeline.sources.items import Entry, Item, Rejection, misnamed, refused
from jen1_jax.files import AnyPath, StoreError, anywhere, fetched
from jen1_numpy.errors import Refusal

MAX_LINE = 2**20  # characters


@dataclass(frozen=True)
class Manifest:
    """The files that the lines of a CSV, TSV or JSONL file list.

    CSV and TSV files have a header; empty cells are left out. A JSONL file has one object a line.
    Several lines with one path are one recording.
    """

    manifest: AnyPath

    def entries(self) -> Iterator[Entry | Rejection]:
        return read(self.manifest, self._rows, _listed)

    def place(self, id: str) -> AnyPath:
        """A path in a bucket, an absolute one, or one in the manifest's folder, relative to it.

        Raises:
            Refusal: it is another URL.
        """
        path = anywhere(id)
        if not isinstance(path, Path) or path.is_absolute():
            return path
        return self.manifest.parent / os.path.normpath(id)

    def item(self, id: str, entries: Sequence[Entry], copy: Path | None = None) -> Item | Rejection:
        """Of a file in a bucket, `copy` is a copy on this machine."""
        path = copy or Path(self.place(id))
        if rejection := refused(id, path):
            return rejection
        if os.path.normpath(id).split(os.sep)[0] == os.pardir:
            return Rejection(
                id, "outside the manifest's folder", "write an absolute path if it is meant"
            )
        return described(id, path, [entry.fields for entry in entries])

    def _rows(self, lines: "Lines") -> Iterator[dict]:
        if self.manifest.suffix.lower() == ".jsonl":
            return map(parse, filter(str.strip, lines))
        table = rows(self.manifest, lines)
        if "path" not in (columns := table.fieldnames or ()):
            named = ", ".join(columns or ["none"])
            raise Refusal(f"{self.manifest} has no column named path; its columns are {named}.")
        return map(filled, table)


def _listed(fields: dict) -> Entry:
    path = fields.pop("path", None)
    if not isinstance(path, str) or not path:
        raise ValueError("no path")
    return Entry(path, None, fields)


def read(
    manifest: AnyPath, rows: Callable[["Lines"], Iterator[dict]], listed: Callable[[dict], Entry]
) -> Iterator[Entry | Rejection]:
    """The entries of a text file, and a rejection for each line that cannot be read.

    Args:
        rows: its rows; raises ValueError or csv.Error for one that cannot be read.
        listed: a row's entry; raises ValueError if it has none.

    Raises:
        Refusal: the file or its header cannot be read.
    """
    try:
        with open_lines(manifest) as lines:
            try:
                table = rows(lines)
            except csv.Error as error:
                raise Refusal(f"Cannot read the header of {manifest}: {error}.") from None
            while True:
                try:
                    entry = listed(next(table))
                except StopIteration:
                    return
                except (ValueError, csv.Error) as error:
                    id = f"{manifest.name}:{lines.number}"
                    yield Rejection(id, "unreadable line", str(error))
                else:
                    yield misnamed(entry.id) or entry
    except StoreError:
        raise
    except OSError as error:
        raise Refusal(f"Cannot read {manifest}: {error}.") from None


def rows(manifest: AnyPath, lines: "Lines") -> csv.DictReader:
    """The rows of a CSV or TSV file with a header; further cells have the key None."""
    return csv.DictReader(lines, delimiter="\t" if manifest.suffix.lower() == ".tsv" else ",")


def header(manifest: AnyPath) -> list[str]:
    """The names of the columns of a CSV or TSV file; none if they cannot be read."""
    try:
        with open_lines(manifest) as lines:
            return list(rows(manifest, lines).fieldnames or ())
    except (OSError, csv.Error):
        return []


def filled(row: dict) -> dict[str, str]:
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
def open_lines(manifest: AnyPath) -> Iterator[Lines]:
    with (
        fetched(manifest) as copy,
        open(copy, encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        yield Lines(file)
