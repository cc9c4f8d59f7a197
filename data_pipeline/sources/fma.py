"""The source that reads FMA, as it is published.

Defferrard et al., "FMA: A Dataset for Music Analysis" (2017).
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipeline.sources.fields import described
from data_pipeline.sources.items import Entry, Item, Rejection, refused
from data_pipeline.sources.manifests import Lines, filled, open_lines, read
from jen1_numpy.errors import Refusal

TRACKS = Path("fma_metadata", "tracks.csv")
SUBSETS = ("small", "medium", "large", "full")  # each holds those before it
_FIELDS = {
    "title": "track/title",
    "artist": "artist/name",
    "album": "album/title",
    "licence": "track/license",
    "composer": "track/composer",
    "genre": "track/genre_top",
}


@dataclass(frozen=True)
class Fma:
    """A folder with `fma_metadata/tracks.csv` and the audio of a subset, `fma_small` and so on.

    Of several subsets, the largest is taken. FMA's splits are kept; validation counts as test.
    """

    folder: Path

    def entries(self) -> Iterator[Entry | Rejection]:
        found = [subset for subset in SUBSETS if (self.folder / f"fma_{subset}").is_dir()]
        if not found:
            raise Refusal(f"{self.folder} has fma_metadata, but no folder fma_small or another.")
        listed = partial(_track, found[-1], _genres(self.folder / TRACKS.with_name("genres.csv")))
        held = SUBSETS[: SUBSETS.index(found[-1]) + 1]
        return read(self.folder / TRACKS, partial(_rows, held), listed)

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        path = self.folder / id
        return refused(id, path) or described(id, path, [entry.fields for entry in entries])


def _rows(subsets: Sequence[str], lines: Lines) -> Iterator[dict]:
    """The rows of these subsets: their keys are both names of a column, such as track/title."""
    table = csv.reader(lines)
    first, second, _ = (next(table, []) for _ in range(3))
    columns = [f"{one}/{two}" for one, two in zip(first, second, strict=False)]
    if "set/subset" not in columns:
        raise csv.Error("it has no column set/subset")
    # Unlike a generator, `filter` can go on after an error.
    return filter(
        lambda row: row.get("set/subset") in (None, *subsets),
        map(filled, csv.DictReader(lines, ["id", *columns[1:]])),
    )


def _track(subset: str, genres: dict[str, str], row: dict) -> Entry:
    if not re.fullmatch(r"\d{1,6}", row.get("id", ""), re.ASCII):
        raise ValueError("its number is no number of a track")
    fields: dict = {name: row[column] for name, column in _FIELDS.items() if column in row}
    named = [genres[id] for id in re.findall(r"\d+", row.get("track/genres", "")) if id in genres]
    if named:
        fields.setdefault("genre", named)
    if split := row.get("set/split"):
        fields["split"] = {"training": "train", "validation": "test"}.get(split, split)
    number = f"{int(row['id']):06d}"
    return Entry(f"fma_{subset}/{number[:3]}/{number}.mp3", None, fields)


def _genres(path: Path) -> dict[str, str]:
    """The names of the genres by their numbers; none without the file."""
    if not path.is_file():
        return {}
    try:
        with open_lines(path) as lines:
            rows = map(filled, csv.DictReader(lines))
            return {row["genre_id"]: row["title"] for row in rows}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise Refusal(f"Cannot read {path}: {error!r}.") from None
