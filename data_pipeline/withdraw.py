"""Withdraws recordings and clips from a data set: every later step leaves them out."""

import fcntl
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from datetime import date
from difflib import get_close_matches
from pathlib import Path

from data_pipeline.commit import REJECTED
from data_pipeline.layout import info, pieces
from data_pipeline.reading import Clips
from data_pipeline.tombstones import HOLDER, WITHDRAWN, find, naming, tombstones
from jen1_numpy.errors import Refusal
from jen1_numpy.files import write_text


def withdraw(
    folder: str,
    names: Collection[str],
    reason: str = "",
    progress: Callable[[str], None] = print,
) -> None:
    """Appends names to the tombstones of a data set, all of them or none.

    A recording that was rejected as a duplicate of one of them is withdrawn with it, since another
    preparation without the one would take the other.

    Args:
        names: ids of recordings or of clips ("FILE@SECONDS"), or "rightsholder:NAME".

    Raises:
        Refusal: there is nothing of one of the names, or the file cannot be written.
    """
    path, known = info(folder).folder / WITHDRAWN, tombstones(folder)
    names = dict.fromkeys(names)
    if not names:
        raise Refusal("Nothing is named; give ids, or a file with an id a line.")
    counts = clips_of(folder, names, known)
    gone = {row["id"] for row in pieces(folder) if naming(row, names)}
    copies = _copies(path.parent / REJECTED, gone)
    new = [name for name in (*names, *copies) if name not in known]
    said = f"{date.today().isoformat()}\t{' '.join(reason.split())}"
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        old += "\n" if old and not old.endswith("\n") else ""
        write_text(path, old + "".join(f"{name}\t{said}\n" for name in new))
    except OSError as error:
        raise Refusal(f"Cannot write {path} ({error.strerror}); nothing was withdrawn.") from None
    finally:
        os.close(lock)
    for name in names:
        progress(f"{name}: {counts[name]} clips{' (already withdrawn)' if name in known else ''}")
    for name in copies:
        progress(f"{name}: rejected as a duplicate, withdrawn too")
    if new:
        progress(
            f"{len(new)} names appended to {path}; `jen1 data validate {folder} --repair` deletes "
            "their audio"
        )


def clips_of(folder: str, names: Collection[str], known: Collection[str] = ()) -> Counter[str]:
    """How many clips each of the names means.

    Raises:
        Refusal: one of them means none, and is not among the `known` ones.
    """
    counts = Counter(name for name, _, _ in places(folder, names))
    for name in names:
        if not counts[name] and name not in known:
            near = get_close_matches(name, _names(folder), 3)
            meant = f"; the nearest are {', '.join(near)}" if near else ""
            for row in _duplicates(Path(folder, REJECTED)):
                if row["id"] == name:
                    meant = f"; it is a duplicate, {row['detail']}"
            raise Refusal(f"{folder} has no recording, clip or rightsholder {name!r}{meant}.")
    return counts


def places(folder: str, names: Collection[str]) -> Iterator[tuple[str, str, int]]:
    """The clips that are named: name, split and place of each."""
    clips = {split: Clips(folder, split) for split in info(folder).examples}
    return find(folder, names, lambda split, place: clips[split].id(place))


def _names(folder: str) -> Iterator[str]:
    holders = set()
    for row in pieces(folder):
        yield row["id"]
        holder = row.get("meta", {}).get("rightsholder")
        if isinstance(holder, str) and holder not in holders:
            holders.add(holder)
            yield HOLDER + holder


def _copies(rejected: Path, ids: Collection[str]) -> list[str]:
    """The recordings that were rejected as duplicates of those with these ids, or of one another.

    Of a copy at another gain that comes twice, the second one has only the bytes of the first.
    """
    same: dict[str, list[str]] = defaultdict(list)
    for row in _duplicates(rejected):
        of = row["detail"].removeprefix("the same bytes as ").removeprefix("it sounds like ")
        same[of].append(row["id"])
    found, waiting = [], list(ids)
    while waiting:
        copies = same.pop(waiting.pop(), [])
        found += copies
        waiting += copies
    return found


def _duplicates(rejected: Path) -> Iterator[dict]:
    """What rejected.jsonl says of duplicates."""
    if rejected.exists():
        with open(rejected, encoding="utf-8") as lines:
            yield from (row for row in map(json.loads, lines) if row["reason"] == "duplicate")
