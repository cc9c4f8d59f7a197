"""Finished units to the files of a data set, under their final names.

The shards of the units are renamed; one that holds clips of another split, or clips that are not
taken, is copied without them. All of it may be interrupted and done again: a shard that lacks has
been renamed already.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from data_pipeline.choice import Choice, Units
from data_pipeline.layout import LAYOUT, LICENCES, NAME, PIECES, VERSION
from data_pipeline.report import Totals
from data_pipeline.units import LOTS, piece
from data_pipeline.writing import Shards, read_part

if TYPE_CHECKING:
    from tensorflow_datasets.features import FeaturesDict

CHECKSUMS, REJECTED = "checksums.json", "rejected.jsonl"


@dataclass
class Commit:
    """Writes the data set `folder` from units.

    Args:
        blocks: records of a clip.
    """

    folder: Path
    units: Units
    choice: Choice
    blocks: int
    totals: Totals = field(default_factory=Totals)
    _shards: dict[str, list[dict]] = field(default_factory=dict)  # split -> as `writing` has them
    _first: dict[str, int] = field(default_factory=dict)  # split -> clips so far

    def take(self) -> Totals:
        """Chooses from the units, writes pieces/ and rejected.jsonl, and returns what there is."""
        (self.folder / PIECES).mkdir(exist_ok=True)
        rejected = self.folder / REJECTED
        with rejected.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for number in range(self.units.count):
                self._unit(number, file)
        return self.totals

    def finish(self, features: "FeaturesDict", description: str) -> None:
        """Gives the shards their names, and writes the metadata."""
        _write_json(self.folder / LICENCES, dict(self.totals.licences.most_common()))
        parts = self.units.folder
        name_shards(parts, self.folder, self._shards, self.blocks, features, description)

    def _unit(self, number: int, rejected: IO[str]) -> None:
        unit = self.units.read(number)
        lots: dict[str, list[tuple[int, int, str | None]]] = {lot: [] for lot in LOTS}
        rows: dict[str, list[dict]] = {lot: [] for lot in LOTS}
        for index, outcome in enumerate(unit["outcomes"]):
            place, written = (number, index), len(outcome.get("valid", ()))
            clips, split = self.choice.clips(place, outcome), None
            if clips:
                split = self.choice.split(outcome)
                self.totals.accept(outcome, split, clips)
                row = piece(outcome) | {"split": split, "clips": clips}
                rows[outcome["lot"]].append(row)
            elif self.choice.needed(place):
                reason, detail = self.choice.rejection(outcome)
                self.totals.reject(outcome["id"], reason, detail)
                line = dict(id=outcome["id"], reason=reason, detail=detail)
                rejected.write(json.dumps(line, ensure_ascii=False) + "\n")
            if written:
                lots[outcome["lot"]].append((clips, written, split))
        lines = []
        for lot, shards in unit["shards"].items():
            self._lot(shards, [each for clips in lots[lot] for each in _clips(*clips)])
        for row in (row for lot in LOTS for row in rows[lot]):
            row["first"] = self._first.get(row["split"], 0)
            self._first[row["split"]] = row["first"] + row["clips"]
            lines.append(json.dumps(row) + "\n")
        (self.folder / PIECES / f"{number:05d}.jsonl").write_text("".join(lines))

    def _lot(self, shards: list[dict], splits: list[str | None]) -> None:
        """Takes the shards of one lot; of each of its clips the split is given, or None."""
        start = 0
        for shard in shards:
            chosen = splits[start : start + shard["records"] // self.blocks]
            start += len(chosen)
            for split in sorted(set(chosen) - {None}):
                kept = [number for number, each in enumerate(chosen) if each == split]
                part = [shard] if len(kept) == len(chosen) else self._copy(shard, split, kept)
                self._shards.setdefault(split, []).extend(part)

    def _copy(self, shard: Mapping, split: str, clips: list[int]) -> list[dict]:
        """A shard with some of the clips of another one."""
        folder = self.units.folder
        copy = Shards(folder, f"{Path(shard['name']).stem}-{split}")
        places = [clip * self.blocks + block for clip in clips for block in range(self.blocks)]
        records = read_part(folder / shard["name"], places)
        for clip in zip(*[records] * self.blocks, strict=True):
            copy.write(clip)
        return copy.close()


def name_shards(
    parts: Path,
    folder: Path,
    shards: Mapping[str, Sequence[Mapping]],
    blocks: int,
    features: "FeaturesDict",
    description: str,
) -> None:
    """Makes a data set of shards that lie in `parts`: moves them and writes its metadata.

    Args:
        shards: split -> its shards in order, as `writing.Shards` describes them.
        blocks: records of a clip.
    """
    from data_pipeline._tf import tfds  # units are prepared before it is needed

    infos, checksums = [], {}
    for split, those in sorted(shards.items(), reverse=True):
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=NAME, split=split, filetype_suffix="array_record"
        )
        for number, shard in enumerate(those):
            name = template.sharded_filepath(shard_index=number, num_shards=len(those))
            if (parts / shard["name"]).exists():
                os.replace(parts / shard["name"], name)
            checksums[name.name] = shard["sha256"]
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard["records"] for shard in those],
                num_bytes=sum(shard["bytes"] for shard in those),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        version=VERSION,
        description=description,
        check_data=False,  # it would use as_dataset, which TFDS lacks for array_record
    )
    _write_json(folder / CHECKSUMS, checksums)
    _write_json(folder / LAYOUT, {"blocks": blocks})


def _clips(taken: int, written: int, split: str | None) -> Iterator[str | None]:
    """The split of each clip of a recording, None of those that are not taken."""
    for clip in range(written):
        yield split if clip < taken else None


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")
