"""A table of captions apart from the audio, found by the id of a clip or of its recording.

It gives a prepared data set other or more captions, and no audio is decoded or encoded again.
"""

import csv
import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.hashing import hashed
from data_pipeline.sidecars import is_texts, parse, texts
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

TABLE = "captions.jsonl"  # beside the shards, it is used unless the configuration names another
MAX_LINE = 1 << 20  # bytes
HELD = 2_500_000  # hashes of captions that `distinct` holds at once
COLUMNS = ("id", "path", "caption")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Line(NamedTuple):
    """One line of a table: captions of a clip or of a recording."""

    id: str
    captions: tuple[str, ...]
    add: bool  # to the captions of the record, which they otherwise replace


class CaptionTable:
    """The captions in a .jsonl, .csv or .tsv file.

    A line of a .jsonl file is an object with `id` (or `path`), `caption` (a text) or `captions` (a
    list), and perhaps `"add": true`. The other files have a header that names the columns id (or
    path) and caption, and no line breaks in cells. The id is that of a clip ("a.wav@10.240") or of
    a recording ("a.wav"); several lines with one id give their captions together.

    Opening reads the whole file once and checks every line. Then 16 bytes a line are in memory (32
    MB for 2 million), and up to 40 bytes a line while it opens. Captions are read from the file
    when they are needed.

    Attributes:
        fingerprint: SHA-256 of the file.

    Raises:
        Refusal: the file cannot be read, or a line of it.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = local(path)
        suffix = self._path.suffix.lower()
        if suffix not in (".jsonl", *DELIMITERS):
            raise Refusal(
                f"{path} is no table of captions; its name must end in .jsonl, .csv or .tsv."
            )
        self._delimiter, self._columns = DELIMITERS.get(suffix), {}
        if not self._path.is_file():  # opening a pipe would wait for ever
            raise Refusal(f"There is no table of captions {path}: no such file.")
        self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - as long as the table is used
        digest, hashes, offsets, self._count = hashlib.sha256(), array("Q"), array("Q"), 0
        for offset, line in self._lines(digest.update):
            hashes.append(hashed(line.id))
            offsets.append(offset)
            self._count += len(line.captions)
        self.fingerprint = digest.hexdigest()
        order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
        self._hashes = np.frombuffer(hashes, np.uint64)[order]
        self._offsets = np.frombuffer(offsets, np.uint64)[order]

    def captions(self, id: str, own: Sequence[str] = ()) -> tuple[str, ...] | None:
        """The captions of a clip, whose record has its `own` ones; None if the table has none.

        The lines of the clip decide, and where there are none, those of its recording. If all of
        them add, they follow the record's own captions.

        Raises:
            Refusal: the file has changed since it was opened.
        """
        lines = self._of(id) or self._of(id.rpartition("@")[0])
        if not lines:
            return None
        kept = own if all(line.add for line in lines) else ()
        said = [caption for line in lines for caption in line.captions]
        return tuple(dict.fromkeys(filter(None, (*kept, *said))))

    def ids(self) -> Iterator[str]:
        """The id of each line, as the file orders them."""
        return (line.id for _, line in self._lines())

    def distinct(self) -> Iterator[str]:
        """The distinct captions of the table.

        About 200 MB of memory serve: a table of more than 2.5 million captions is read several
        times, each time for a share of them.
        """
        shares = 1 + self._count // HELD
        for share in range(shares):
            seen = set()
            for _, line in self._lines():
                for caption in line.captions:
                    digest = hashed(caption)
                    if digest % shares == share and digest not in seen:
                        seen.add(digest)
                        yield caption

    def _of(self, id: str) -> list[Line]:
        digest = hashed(id)
        first = np.searchsorted(self._hashes, np.uint64(digest))
        end = np.searchsorted(self._hashes, np.uint64(digest), "right")
        lines = [self._read(int(offset)) for offset in self._offsets[first:end]]
        if any(hashed(line.id) != digest for line in lines):
            raise Refusal(f"{self._path} has changed since it was opened; start again.")
        return [line for line in lines if line.id == id]

    def _read(self, offset: int) -> Line:
        raw, size = b"", 1 << 12
        while b"\n" not in raw and len(raw) <= MAX_LINE:
            part = os.pread(self._file.fileno(), size, offset + len(raw))
            if not part:
                break
            raw, size = raw + part, 1 << 16
        try:
            return self._parse(raw.partition(b"\n")[0])
        except (ValueError, csv.Error):
            raise Refusal(f"{self._path} has changed since it was opened; start again.") from None

    def _lines(self, seen=lambda raw: None) -> Iterator[tuple[int, Line]]:
        """All lines with their places in the file; `seen` gets the bytes of the file."""
        offset, headed = 0, self._delimiter is None
        with open(self._path, "rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                seen(raw)
                start, offset = offset, offset + len(raw)
                try:
                    if len(raw) > MAX_LINE:
                        raise ValueError(f"it has more than {MAX_LINE} bytes")
                    if not headed:
                        headed, self._columns = True, self._header(raw)
                    elif raw.strip():
                        yield start, self._parse(raw)
                except (ValueError, csv.Error) as error:
                    raise Refusal(f"{self._path}, line {number}: {error}; correct it.") from None

    def _parse(self, raw: bytes) -> Line:
        """Raises ValueError for a line that cannot be used."""
        fields = self._row(raw) if self._delimiter else parse(raw.decode("utf-8-sig"))
        id, add = fields.get("id", fields.get("path")), fields.get("add", False)
        caption, captions = fields.get("caption"), fields.get("captions")
        if not isinstance(id, str) or not id:
            raise ValueError("it has no text as its id or path")
        if not (isinstance(caption, str | None) or is_texts(caption)):
            raise ValueError("its caption is no text")
        if not (captions is None or is_texts(captions)):
            raise ValueError("its captions are no list of texts")
        if not isinstance(add, bool):
            raise ValueError("its field add is neither true nor false")
        said = tuple(filter(None, map(str.strip, texts(caption) + texts(captions))))
        if not said:
            raise ValueError("it has no caption")
        return Line(id, said, add)

    def _header(self, raw: bytes) -> dict[str, int]:
        columns = {name.strip(): n for n, name in enumerate(self._cells(raw))}
        if not {"id", "path"} & columns.keys() or "caption" not in columns:
            raise ValueError("it names no columns id (or path) and caption")
        return columns

    def _row(self, raw: bytes) -> dict[str, Any]:
        cells = self._cells(raw)
        if len(cells) != max(self._columns.values()) + 1:
            raise ValueError(f"it has {len(cells)} cells, and the header {len(self._columns)}")
        return {name: cells[n] for name, n in self._columns.items() if name in COLUMNS}

    def _cells(self, raw: bytes) -> list[str]:
        text = raw.decode("utf-8-sig").rstrip("\r\n")
        if self._delimiter == "\t":
            return text.split("\t")
        return next(csv.reader([text], strict=True), [])
