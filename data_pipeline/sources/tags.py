"""The tags inside an audio file, such as ID3, which may be damaged or huge."""

import os
from pathlib import Path
from typing import BinaryIO

from tinytag import TinyTag, TinyTagException

from data_pipeline.sources.sections import Section, opened

MAX_TEXT = 1000  # characters of a tag; the rest is cut off
MAX_BYTES = 2**22  # of a file that are read for its tags
MAX_READS = 10_000
NAMES = ("title", "artist", "album", "genre", "year", "comment")


def tags(audio: Path | Section) -> dict[str, str]:
    """Title, artist, album, genre, year, comment, bpm and key, as far as a file has them.

    Damaged tags, and those beyond the limits, are left out. Pictures are not read.
    """
    try:
        with opened(audio) as file:
            found = TinyTag.get(file_obj=_Bounded(file), duration=False)
    except (OSError, TinyTagException):
        return {}
    named = {name: getattr(found, name) for name in NAMES}
    for name, other in (("bpm", "bpm"), ("key", "initial_key")):
        named[name] = next(iter(found.other.get(other, ())), None)
    clean = {name: _clean(str(value)) for name, value in named.items() if value is not None}
    return {name: text for name, text in clean.items() if text}


def _clean(text: str) -> str:
    """The text in Unicode, without control characters."""
    shown = (character if character.isprintable() else " " for character in text[:MAX_TEXT])
    return "".join(shown).encode(errors="ignore").decode().strip()


class _Bounded:
    """A file that can be read for a while."""

    def __init__(self, file: BinaryIO):
        self._file, self.seek, self.tell = file, file.seek, file.tell
        self._bytes, self._reads = MAX_BYTES, MAX_READS

    def read(self, size: int = -1) -> bytes:
        at, end = self._file.tell(), self._file.seek(0, os.SEEK_END)
        self._file.seek(at)
        left = max(0, end - at)
        size = left if size < 0 else min(size, left)
        self._bytes -= size
        self._reads -= 1
        if min(self._bytes, self._reads) < 0:
            raise OSError("too much to read")
        return self._file.read(size)
