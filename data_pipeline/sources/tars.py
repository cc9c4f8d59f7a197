"""The source that reads tars as WebDataset writes them: KEY.flac, and with it KEY.txt, KEY.json.

Listing reads the headers of the members and seeks over their data. The names of the members become
ids, and no path is made of them.
"""

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_pipeline.sidecars import MAX_BYTES, decode, parse
from data_pipeline.sources.fields import described
from data_pipeline.sources.items import (
    SUFFIXES,
    UNSUPPORTED,
    Entry,
    Item,
    Rejection,
    misnamed,
    refused,
    unsupported,
)
from data_pipeline.sources.sections import Section, opened
from jen1_numpy.errors import Refusal

TAR = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SIDECARS = (".json", ".txt")
UNCOMPRESS = "only uncompressed tars are read, so uncompress it, for example with gunzip"
MAX_HEADER = 2**20  # bytes; those of a long name, for example
MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Tars:
    """Some tars in a folder; an id is the name of the tar, and the name in it."""

    folder: Path
    names: tuple[str, ...]  # relative to `folder`

    def entries(self) -> Iterator[Entry | Rejection]:
        for name in self.names:
            yield from members(self.folder / name, name)

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        return member_item(self.folder, id, entries)


def find(pattern: str) -> Tars:
    """The tars of a pattern such as shards-{000..099}.tar or shards-*.tar.

    Raises:
        Refusal: there are none, or they are compressed.
    """
    paths = [path for each in _ranges(pattern) for path in (sorted(glob(each)) or [each])]
    if not any(map(os.path.exists, paths)):
        raise Refusal(f"There is no {pattern}.")
    for path in paths:
        if path.lower().endswith(COMPRESSED):
            raise Refusal(f"{path} is compressed; {UNCOMPRESS}.")
        if not path.lower().endswith(TAR):
            raise Refusal(f"{path} is no tar; a pattern must name files that end in {TAR}.")
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    names = (os.path.relpath(path, folder) for path in paths)
    return Tars(Path(folder), tuple(dict.fromkeys(names)))


def _ranges(pattern: str) -> list[str]:
    """The patterns that result when ranges such as {000..099} are written out."""
    found = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < MAX_SHARDS:
        raise Refusal(f"{found[0]} in {pattern} is no range of at most {MAX_SHARDS} numbers.")
    numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [
        path
        for number in numbers
        for path in _ranges(pattern[: found.start()] + number + pattern[found.end() :])
    ]


def members(tar: Path, name: str) -> Iterator[Entry | Rejection]:
    """The audio files in a tar, and what cannot be read in it.

    Args:
        name: of the tar in its source.
    """
    if rejection := misnamed(name) or refused(name, tar):
        yield rejection
        return
    try:
        with open(tar, "rb") as file:
            yield from _members(file, name)
    except OSError as error:
        yield Rejection(name, "unreadable tar", str(error))


def _members(file: BinaryIO, name: str) -> Iterator[Entry | Rejection]:
    for _, group in groupby(_headers(file, name), lambda member: _stem(member)):
        audio, sidecars = [], {}
        for member in group:
            if isinstance(member, Rejection):
                yield member
                continue
            suffix = PurePosixPath(member.name).suffix.lower()
            if not member.isreg() or member.issparse():
                yield Rejection(f"{name}/{member.name}", "no regular file", "in a tar")
            elif suffix in SIDECARS:
                sidecars[suffix] = [member.offset_data, member.size]
            else:
                audio.append(member)
        for member in audio:
            id = f"{name}/{member.name}"
            place = {"tar": name, "audio": [member.offset_data, member.size], **sidecars}
            yield misnamed(id) or unsupported(id) or Entry(id, place)


def _stem(member: tarfile.TarInfo | Rejection) -> str:
    return "" if isinstance(member, Rejection) else os.path.splitext(member.name)[0]


def _headers(file: BinaryIO, name: str) -> Iterator[tarfile.TarInfo | Rejection]:
    """The members with audio, texts and metadata; at last a rejection if the tar is damaged."""
    size = os.fstat(file.fileno()).st_size
    try:
        with tarfile.TarFile(fileobj=_Headers(file), errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep all
                # A negative size would lead back to a header that was read.
                if tar.offset < member.offset_data:
                    raise tarfile.ReadError(f"{member.name!r} has a negative size")
                if member.isreg() and member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name!r} is longer than the rest of it")
                hidden = PurePosixPath(member.name).name.startswith(".")
                known = member.name.lower().endswith(SUFFIXES + UNSUPPORTED + SIDECARS)
                if known and not hidden and not member.isdir():
                    yield member
            file.seek(tar.offset)
            if file.read(512) != bytes(512):
                raise tarfile.ReadError(f"no header and no end at byte {tar.offset}")
    except (tarfile.TarError, OSError, ValueError) as error:
        yield Rejection(name, "damaged tar", f"what follows is not read: {error}")


class _Headers:
    """A file of which only headers are read."""

    def __init__(self, file: BinaryIO):
        self._file, self.seek, self.tell, self.mode = file, file.seek, file.tell, "rb"
        self.name = file.name

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header has more than {MAX_HEADER} bytes")
        return self._file.read(size)


def member_item(folder: Path, id: str, entries: Sequence[Entry]) -> Item | Rejection:
    """The recording of a member of a tar."""
    place = entries[0].place
    if any(entry.place != place for entry in entries):
        return Rejection(id, "contradiction", "the tar has several files of this name")
    path, fields = folder / place["tar"], {}
    try:
        if ".json" in place:
            fields = parse(_text(path, *place[".json"]))
        if ".txt" in place:
            fields["caption"] = _text(path, *place[".txt"]).strip()
    except (ValueError, OSError) as error:
        return Rejection(id, "unreadable caption", str(error))
    return described(id, Section(path, *place["audio"]), [fields])


def _text(path: Path, offset: int, size: int) -> str:
    with opened(Section(path, offset, size)) as file:
        return decode(file.read(MAX_BYTES + 1))
