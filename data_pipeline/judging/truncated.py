"""Whether a file ends before the audio that its header promises; libsndfile does not say it."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

MOST_CHUNKS = 10_000  # that are looked at
NEAR = 4096  # bytes: writers of streams leave a size of 0, or near the largest there is
W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
LITTLE_ENDIAN = {(b"RIFF", b"WAVE"), (b"RF64", b"WAVE"), (b"BW64", b"WAVE")}
BIG_ENDIAN = {(b"RIFX", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC")}
AUDIO = (b"data", b"SSND")


def truncated(path: Path | str) -> str | None:
    """What is missing of a WAV (RIFF, RF64, BW64), AIFF, AIFC, W64, CAF or AU file.

    None for a whole file, one of unknown length and any other file. Only the chunks' headers are
    read.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start, promised = _audio(file, size) or (0, 0)
    known = promised and all(abs(promised - 2**bits) > NEAR for bits in (31, 32, 63, 64))
    if not known or start + promised <= size:
        return None
    return f"the header promises {promised} bytes of audio and {max(0, size - start)} are there"


def _audio(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Where the audio starts, and how many bytes of it the header promises; None if unknown."""
    head = file.read(40)
    kind, form = head[:4], head[8:12]
    if (kind, form) in LITTLE_ENDIAN:
        return _chunks(file, size, 12, "<4sI")
    elif (kind, form) in BIG_ENDIAN:
        return _chunks(file, size, 12, ">4sI")
    elif kind == b"caff":
        return _chunks(file, size, 8, ">4sQ", align=1)
    elif head[:16] == W64_RIFF:
        return _chunks(file, size, 40, "<4s12xQ", align=8, header=24)
    elif kind in (b".snd", b"dns.") and len(head) >= 12:
        return struct.unpack("<II" if kind == b"dns." else ">II", head[4:12])
    return None


def _chunks(
    file: BinaryIO, end: int, at: int, layout: str, align: int = 2, header: int = 0
) -> tuple[int, int] | None:
    """The audio in a list of chunks from `at`, whose sizes count `header` bytes of their header."""
    length, long = struct.calcsize(layout), None
    for _ in range(MOST_CHUNKS):
        if at >= end:
            break
        file.seek(at)
        head = file.read(length)
        if len(head) < length:
            break
        name, size = struct.unpack(layout, head)
        size -= header
        if size < 0:
            break
        if name == b"ds64":  # the sizes of a WAV file above 4 GB: of the file, of its audio
            sizes = file.read(16)
            long = struct.unpack("<8xQ", sizes)[0] if len(sizes) == 16 else None
        if name in AUDIO:
            return at + length, long if long is not None and size == 2**32 - 1 else size
        at += length + size + -size % align
    return None
