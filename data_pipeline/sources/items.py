"""What a source yields: items, what is said about them, and rejections."""

import os
import shlex
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from data_pipeline.sidecars import is_texts, texts

SUFFIXES = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2",
    ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
)  # fmt: skip
UNSUPPORTED = (  # by libsndfile
    ".m4a", ".m4b", ".m4r", ".mp4", ".aac", ".alac", ".wma", ".webm", ".mka", ".ape", ".wv",
    ".tta", ".tak", ".mpc", ".dsf", ".dff", ".ac3", ".eac3", ".dts", ".amr", ".ra", ".spx",
)  # fmt: skip
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # controls, surrogates, separators of lines, paragraphs
SPLITS = ("train", "test")


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
    audio: Path | Callable[[], np.ndarray]
    about: Callable[[float, float], About]  # of the stretch from start to stop, in seconds
    split: str | None = None  # "train" or "test" where the source decides it


@dataclass(frozen=True)
class Rejection:
    """Why a recording is not in the data set."""

    id: str
    reason: str  # one of a few phrases, which are counted
    detail: str = ""


def refused(id: str, path: Path) -> Rejection | None:
    """Why a file is not opened: its name, or its kind; None if it may be.

    Opening a pipe would wait for ever.
    """
    if any(unicodedata.category(character) in UNPRINTABLE for character in id):
        return Rejection(id, "unreadable name", "rename it in UTF-8 without control characters")
    if not os.path.lexists(path):
        return Rejection(id, "missing")
    if not os.path.isfile(path):
        return Rejection(id, "no regular file", "a folder, a pipe, a device or a broken link")
    if path.suffix.lower() in UNSUPPORTED:
        name, flac = shlex.quote(id), shlex.quote(str(PurePosixPath(id).with_suffix(".flac")))
        return Rejection(id, "unsupported format", f"convert it: ffmpeg -i {name} {flac}")
    return None


def file_item(id: str, path: Path, fields: dict) -> Item | Rejection:
    """The item of an audio file; `fields` are its captions, its split and its metadata.

    All texts in `caption` and `captions` are its captions, without repeats. Without any, one is
    composed from title, artist, genre and game.
    """
    split = fields.pop("split", None)
    if split not in (None, *SPLITS):
        return Rejection(id, "unknown split", f"{split!r} is neither train nor test")
    first, more = fields.pop("caption", None), fields.pop("captions", None)
    if not (first is None or isinstance(first, str) or is_texts(first)):
        return Rejection(id, "unreadable caption", "caption must be a text or a list of texts")
    if not (more is None or is_texts(more)):
        return Rejection(id, "unreadable caption", "captions must be a list of texts")
    about = About(distinct(texts(first) + texts(more) or [_composed(fields)]), fields)
    return Item(id, path, lambda start, stop: about, split)


def distinct(given: Iterable[str]) -> tuple[str, ...]:
    """The texts without repeats, empty ones and the spaces around them; ("",) if none is left."""
    return tuple(filter(None, dict.fromkeys(text.strip() for text in given))) or ("",)


def _composed(fields: dict) -> str:
    """A caption from the texts of title, artist, genre and game; several have commas."""

    def said(name: str) -> str:
        value = fields.get(name)
        value = str(value) if isinstance(value, int | float) else value  # a title like 1999
        return ", ".join(texts(value)) if isinstance(value, str) or is_texts(value) else ""

    title, artist, game, genre = map(said, ("title", "artist", "game", "genre"))
    by = f"{title} by {artist}" if title and artist else title or (artist and f"music by {artist}")
    return ", ".join(part for part in (by, genre, f"from {game}" if game else "") if part)
