"""The fields that a sidecar or a manifest gives, to captions, split and metadata."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from data_pipeline.sidecars import is_texts, texts
from data_pipeline.sources.items import About, Item, Rejection, Section

SPLITS = ("train", "test")


def described(id: str, audio: Path | Section, listed: Sequence[dict]) -> Item | Rejection:
    """The item of an audio file; each of `listed` is what one entry says about it.

    All texts in `caption` and `captions` are its captions, without repeats. Without any, one is
    composed from title, artist, genre and game. Of a field that several entries have, the first
    value is the metadata.
    """
    captions, splits, meta = [], [], {}
    for given in listed:
        fields = dict(given)
        first, more = fields.pop("caption", None), fields.pop("captions", None)
        if not (first is None or isinstance(first, str) or is_texts(first)):
            return Rejection(id, "unreadable caption", "caption must be a text or a list of texts")
        if not (more is None or is_texts(more)):
            return Rejection(id, "unreadable caption", "captions must be a list of texts")
        captions += texts(first) + texts(more)
        if (split := fields.pop("split", None)) not in (None, *SPLITS):
            return Rejection(id, "unknown split", f"{split!r} is neither train nor test")
        splits += [split] * (split is not None)
        meta = fields | meta
    if len(set(splits)) > 1:
        return Rejection(id, "contradiction", "its lines name both splits; give it one")
    about = About(distinct(captions or [_composed(meta)]), meta)
    return Item(id, audio, lambda start, stop: about, splits[0] if splits else None)


def distinct(given: Iterable[str]) -> tuple[str, ...]:
    """The texts without repeats, empty ones and the spaces around them; ("",) if none is left."""
    return tuple(filter(None, dict.fromkeys(text.strip() for text in given))) or ("",)


def _composed(fields: dict) -> str:
    """A caption from the texts of title, artist, genre and game; several have commas."""
    title, artist, game, genre = (
        _said(fields, name) for name in ("title", "artist", "game", "genre")
    )
    by = f"{title} by {artist}" if title and artist else title or (artist and f"music by {artist}")
    return ", ".join(part for part in (by, genre, f"from {game}" if game else "") if part)


def _said(fields: dict, name: str) -> str:
    value = fields.get(name)
    value = str(value) if isinstance(value, int | float) else value  # a title like 1999
    return ", ".join(texts(value)) if isinstance(value, str) or is_texts(value) else ""
