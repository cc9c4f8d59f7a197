"""An audio file that lies inside another file, such as an uncompressed tar."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Section:
    """The bytes of a file from `offset` on."""

    path: Path
    offset: int  # bytes
    size: int  # bytes


def opened(audio: Path | Section) -> BinaryIO:
    """The bytes of an audio file, which begin at 0. Raises OSError if they cannot be opened."""
    return open(audio, "rb") if isinstance(audio, Path) else io.BufferedReader(_Inside(audio))


class _Inside(io.RawIOBase):
    def __init__(self, section: Section):
        self._file = open(section.path, "rb", 0)  # noqa: SIM115
        self._section, self._at = section, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._section.size}[whence]
        if base + offset < 0:
            raise OSError("the place lies before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer) -> int:
        most = max(0, min(len(buffer), self._section.size - self._at))
        self._file.seek(self._section.offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:most])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
