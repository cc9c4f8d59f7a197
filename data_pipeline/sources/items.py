"""What a source lists and opens: entries, items, what is said about them, and rejections."""

import os
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from data_pipeline.sources.sections import Section

SUFFIXES = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
)  # fmt: skip
UNSUPPORTED = (  # by libsndfile
    ".m4a", ".m4b", ".m4r", ".mp4", ".aac", ".alac", ".wma", ".webm", ".mka", ".ape", ".wv",
    ".tta", ".tak", ".mpc", ".dsf", ".dff", ".ac3", ".eac3", ".dts", ".amr", ".ra", ".spx",
)  # fmt: skip
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, separators of lines, paragraphs


@dataclass(frozen=True)
class Entry:
    """One line of a source's listing. Several with one id are one recording."""

    id: str  # of the recording: Unicode without control characters
    place: Any = None  # JSON: where its source finds it
    fields: dict = field(default_factory=dict)  # JSON: what the listing says about it


@dataclass(frozen=True)
class Rejection:
    """Why a recording is not in the data set."""

    id: str
    reason: str  # one of a few phrases, which are counted
    detail: str = ""


@dataclass(frozen=True)
class About:
    """What is said about a stretch of a recording."""

    captions: tuple[str, ...]  # at least one; "" where there is no text
    meta: dict  # JSON values


@dataclass(frozen=True)
class Item:
    """One recording: an audio file or a function that renders it, and what is said about it.

    The function returns float32 [samples, 2] at 48 kHz. It raises Refusal for a recording that
    must be rejected.
    """

    id: str  # unique in the source, and the same wherever the source lies
    audio: Path | Section | Callable[[], np.ndarray]
    about: Callable[[float, float], About]  # of the stretch from start to stop, in seconds
    split: str | None = None  # "train" or "test" where the source decides it
    group: str | None = None  # recordings of one group are in one split
    # Only these parts are taken, from start to stop in seconds, in order; None is the whole.
    stretches: tuple[tuple[float, float], ...] | None = None
    digest: str | None = None  # SHA-256 of what the audio is rendered from, if it is rendered


class Source(Protocol):
    """Where audio comes from. It can be pickled, so that other processes open its recordings."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the recordings, without opening any of them.

        Raises:
            Refusal: the listing cannot be read.
        """

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        """The recording that `entries` list, in their order; reads what lies beside it."""


def misnamed(id: str) -> Rejection | None:
    """Why a name cannot be an id; None if it can."""
    if any(unicodedata.category(character) in UNPRINTABLE for character in id):
        return Rejection(id, "unreadable name", "rename it in UTF-8 without control characters")
    return None


def refused(id: str, path: Path) -> Rejection | None:
    """Why a file is not opened: its kind; None if it may be.

    Opening a pipe would wait for ever.
    """
    if not os.path.lexists(path):
        return Rejection(id, "missing")
    if not os.path.isfile(path):
        return Rejection(id, "no regular file", "a folder, a pipe, a device or a broken link")
    return unsupported(id)


def unsupported(id: str) -> Rejection | None:
    """Why a file cannot be decoded: its format; None if it may be."""
    if id.lower().endswith(UNSUPPORTED):
        name, flac = shlex.quote(id), shlex.quote(str(PurePosixPath(id).with_suffix(".flac")))
        return Rejection(id, "unsupported format", f"convert it: ffmpeg -i {name} {flac}")
    return None
