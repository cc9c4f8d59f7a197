"""The fields that a sidecar or a manifest gives, to captions, split, group and metadata."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.sidecars import is_texts, texts
from data_pipeline.sources.items import About, Item, Rejection
from data_pipeline.sources.sections import Section
from data_pipeline.sources.tags import tags

SPLITS = ("train", "test")


class Unusable(ValueError):
    """The reason why fields cannot be used, and a detail; as in `Rejection`."""


def described(
    id: str, audio: Path | Section | Callable[[], np.ndarray], listed: Sequence[dict]
) -> Item | Rejection:
    """The item of some audio, as in `Item`; each of `listed` is what one entry says about it.

    Fields with `start` and `end` (or `start_s` and `end_s`, both in seconds) are said about this
    stretch, the others about the whole recording. If there are stretches, only they are taken. All
    texts in `caption` and `captions` are captions, without repeats. Of a field that is given
    several times, the metadata has the first value; that of a stretch goes before that of the
    whole, and this before the tags in the file.
    """
    whole: list[dict] = []
    parts: dict[tuple[float, float], list[dict]] = {}
    tagged = [tags(audio)] if isinstance(audio, Path | Section) else []
    try:
        entries = [normal(fields) for fields in (*listed, *tagged)]
        split = _agreed(entries, "split")
        group = _agreed(entries, "group") or group_of(_merged(entries))
        for fields in entries:
            stretch = _stretch(fields)
            (parts.setdefault(stretch, []) if stretch else whole).append(fields)
        stretches = tuple(sorted(parts))
        for (_, stop), (start, _) in pairwise(stretches):
            if start < stop:
                raise Unusable("overlapping stretches", f"one begins at {start} s, before {stop} s")
    except Unusable as unusable:
        return Rejection(id, *unusable.args)
    told = [_about(parts[stretch] + whole) for stretch in stretches] or [_about(whole)]
    about = partial(_told, told, [stop for _, stop in stretches[:-1]])
    return Item(id, audio, about, split, group, stretches or None)


def distinct(given: Iterable[str]) -> tuple[str, ...]:
    """The texts without repeats, empty ones and the spaces around them; ("",) if none is left."""
    return tuple(filter(None, dict.fromkeys(text.strip() for text in given))) or ("",)


def normal(fields: dict) -> dict:
    """The fields with checked captions, split, group, licence, territory and expiry.

    `license` becomes `licence`, a territory a list of texts, and `expires` a date YYYY-MM-DD.

    Raises:
        Unusable: one of them has no such value.
    """
    fields = dict(fields)
    for name in ("caption", "captions", "split", "group", "territory", "expires"):
        if fields.get(name, "") is None:
            del fields[name]
    first, more = fields.get("caption", ""), fields.get("captions", [])
    if not (isinstance(first, str) or is_texts(first)):
        raise Unusable("unreadable caption", "caption must be a text or a list of texts")
    if not is_texts(more):
        raise Unusable("unreadable caption", "captions must be a list of texts")
    if (split := fields.get("split", "train")) not in SPLITS:
        raise Unusable("unknown split", f"{split!r} is neither train nor test")
    if "group" in fields:
        fields["group"] = _text(fields["group"])
        if not fields["group"]:
            raise Unusable("unreadable group", "group must be a text")
    if "license" in fields and "licence" not in fields:
        fields["licence"] = fields.pop("license")
    if "territory" in fields:
        territory = fields["territory"]
        if isinstance(territory, str):
            territory = [part.strip() for part in territory.split(",")]
        if not is_texts(territory):
            raise Unusable("unreadable rights", "territory must be a text or a list of texts")
        fields["territory"] = territory
    if "expires" in fields:
        try:
            fields["expires"] = datetime.fromisoformat(fields["expires"]).date().isoformat()
        except (TypeError, ValueError):
            raise Unusable("unreadable rights", "expires must be a date YYYY-MM-DD") from None
    return fields


def group_of(fields: dict) -> str | None:
    """Artist and album, or the artist, if the fields have them."""
    artist, album = _text(fields.get("artist")), _text(fields.get("album"))
    return f"{artist}: {album}" if artist and album else artist or None


def _agreed(entries: Sequence[dict], name: str) -> str | None:
    """The one value that entries give a field; it is taken out of them."""
    given = dict.fromkeys(fields.pop(name) for fields in entries if name in fields)
    if len(given) > 1:
        listed = ", ".join(given)
        raise Unusable("contradiction", f"its lines give it several values of {name}: {listed}")
    return next(iter(given), None)


def _stretch(fields: dict) -> tuple[float, float] | None:
    """The stretch that fields are about; it is taken out of them."""
    for names in (("start", "end"), ("start_s", "end_s")):
        given = [fields.pop(name, None) for name in names]
        if given == [None, None]:
            continue
        try:
            start, stop = map(float, given)
        except (TypeError, ValueError, OverflowError):
            start = stop = math.nan
        if not 0 <= start < stop < math.inf:
            detail = f"{names[0]} and {names[1]} must be seconds, the second the greater one"
            raise Unusable("unreadable stretch", detail)
        return start, stop
    return None


def _merged(entries: Sequence[dict]) -> dict:
    """Of each field the first value."""
    return {name: value for fields in reversed(entries) for name, value in fields.items()}


def _about(entries: Sequence[dict]) -> About:
    captions = [
        text
        for fields in entries
        for text in (*texts(fields.get("caption")), *texts(fields.get("captions")))
    ]
    meta = _merged(entries)
    meta.pop("caption", None)
    meta.pop("captions", None)
    return About(distinct(captions), meta)


def _told(told: Sequence[About], stops: Sequence[float], start: float, stop: float) -> About:
    """What is said about the stretch that holds the time from start to stop.

    Args:
        stops: the ends of all stretches but the last one.
    """
    return told[bisect_right(stops, (start + stop) / 2)]


def _text(value) -> str:
    """A text, a number such as the title 1999, or several texts with commas; "" for all else."""
    value = str(value) if isinstance(value, int | float) else value
    return ", ".join(texts(value)) if isinstance(value, str) or is_texts(value) else ""
