"""What a source yields: items, what is said about them, and rejections."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff")


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


def file_item(id: str, path: Path, fields: dict) -> Item:
    """The item of an audio file; `fields` are its caption and metadata.

    Without a caption, one is composed from title, artist, genre and game.
    """
    caption = fields.pop("caption", None)
    if caption is None:
        title, artist, game, genre = (
            str(fields.get(name) or "") for name in ("title", "artist", "game", "genre")
        )
        by = (
            f"{title} by {artist}"
            if title and artist
            else title or (f"music by {artist}" if artist else "")
        )
        caption = ", ".join(part for part in (by, genre, f"from {game}" if game else "") if part)
    about = About((str(caption).strip(),), fields)
    return Item(id, path, lambda start, stop: about)
