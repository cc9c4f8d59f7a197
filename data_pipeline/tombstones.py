"""Recordings and clips that must not be used any more: the tombstones of a data set.

A line of withdrawn.txt holds, with tabs between them, a name, the day, and the reason. The name is
the id of a recording or of a clip ("FILE@SECONDS"), or "rightsholder:NAME".
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from data_pipeline.layout import piece_of, pieces
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

WITHDRAWN = "withdrawn.txt"
HOLDER = "rightsholder:"


def read_names(path: str | Path) -> frozenset[str]:
    """The names in a file of tombstones, or in one with a name a line.

    Raises:
        Refusal: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"Cannot read {path} ({error}); give a text file in UTF-8.") from None
    return frozenset(filter(None, (line.partition("\t")[0].strip() for line in lines)))


def tombstones(folder: str) -> frozenset[str]:
    """The names that are withdrawn from a data set."""
    path = local(folder) / WITHDRAWN
    return read_names(path) if path.exists() else frozenset()


def naming(row: Mapping, names: Collection[str]) -> set[str]:
    """Those of the names that mean the whole recording of which pieces/ says `row`."""
    holder = row.get("meta", {}).get("rightsholder")
    own = {row["id"]} | ({HOLDER + holder} if isinstance(holder, str) else set())
    return {name for name in own if name in names}


def find(
    folder: str, names: Collection[str], clip_id: Callable[[str, int], str | None]
) -> Iterator[tuple[str, str, int]]:
    """The clips that are named: name, split and place of each, in the order of pieces/.

    Args:
        clip_id: split and place -> the id of the clip there, None if it cannot be read. It is asked
            for the clips of recordings of which a single clip is named.
    """
    single = defaultdict(set)
    for name in names:
        single[piece_of(name)].add(name)
    for row in pieces(folder):
        whole, split = naming(row, names), row["split"]
        some = single.get(row["id"])
        for place in range(row["first"], row["first"] + row["clips"]):
            for name in whole:
                yield name, split, place
            if some and (id := clip_id(split, place)) in some:
                yield id, split, place
