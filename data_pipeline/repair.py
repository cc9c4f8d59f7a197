"""Drops clips from a data set: their shards are written again without them.

All that changes is written into a hidden folder first. Then a list of the files is put there, and
they are moved to their places, the metadata last. An interruption before the list is there leaves
the data set as it was. After one that comes later, `info` refuses the data set, and `finish` moves
the rest.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipeline.commit import CHECKSUMS
from data_pipeline.hashing import digest
from data_pipeline.layout import LICENCES, PIECES, REPAIR, REPAIRED, Info, info
from data_pipeline.reading import Clips
from data_pipeline.report import licence
from data_pipeline.validate import Report
from data_pipeline.writing import OPTIONS, as_os_error, read_part
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local, write_text

METADATA = "dataset_info.json"


def repair(report: Report, progress: Callable[[str], None] = print) -> None:
    """Drops the clips that `validate` has found to be bad, and those that are withdrawn.

    Raises:
        Refusal: nothing would be left of the training split, or a file cannot be written. The data
            set is then as before.
    """
    about, repairs = info(report.folder), report.repairs
    if not repairs.listed:
        raise Refusal(f"{about.folder / PIECES} cannot be repaired; copy it again.")
    drop = {
        split: repairs.bad.get(split, set()) | Clips(report.folder, split).withdrawn
        for split in about.examples
    }
    torn = repairs.torn | {
        (split, number)
        for split, lengths in about.shards.items()
        for number, clips in enumerate(_clips(about, lengths))
        if not drop[split].isdisjoint(clips)
    }
    if not torn and report.problems == repairs.lasting:
        progress("nothing to repair")
        return
    left = {split: count - len(drop[split]) for split, count in about.examples.items()}
    if not left.get("train"):
        raise Refusal(f"No clip of train in {report.folder} is good; prepare it again.")
    work = about.folder / REPAIR
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        _write(about, work, report, drop, torn, left)
        finish(report.folder)
    except OSError as error:
        raise Refusal(
            f"Writing {work} failed: {error.strerror or error}; free some space and repair again."
        ) from None
    for split, places in drop.items():
        progress(f"{split}: {len(places)} clips dropped, {left[split]} left")
    progress(
        f"{len(torn)} shards written again. The order of training is another one now: a run goes "
        "on with remap_data=True, without its files damaged-*.jsonl; encode latents again."
    )


def finish(folder: str) -> None:
    """Ends a repair that was interrupted while it moved files; otherwise it does nothing."""
    target, work = local(folder), local(folder) / REPAIR
    if not (work / REPAIRED).exists():
        return
    files = json.loads((work / REPAIRED).read_text())
    for name in files["deleted"]:
        (target / name).unlink(missing_ok=True)
    for name in files["moved"]:
        if (work / name).exists():
            os.replace(work / name, target / name)
    (work / REPAIRED).unlink()
    shutil.rmtree(work)


def _write(
    about: Info,
    work: Path,
    report: Report,
    drop: Mapping[str, set[int]],
    torn: set[tuple[str, int]],
    left: Mapping[str, int],
) -> None:
    """Writes all files that change, and the list of them last."""
    checksums, moved, deleted = dict(report.repairs.checksums), [], []
    lengths = {split: [*records] for split, records in about.shards.items() if left[split]}
    sizes: Counter[str] = Counter()
    for split, records in about.shards.items():
        for number, clips in enumerate(_clips(about, records)):
            path = about.shard(split, number)
            if not left[split]:
                deleted.append(path.name)
                checksums.pop(path.name, None)
                continue
            if (split, number) in torn:
                kept = [place - clips.start for place in clips if place not in drop[split]]
                _copy(path, work / path.name, kept, about.blocks)
                checksums[path.name] = digest(work / path.name)
                lengths[split][number] = len(kept) * about.blocks
                moved.append(path.name)
                path = work / path.name
            sizes[split] += path.stat().st_size
    licences = _write_pieces(about, work, drop)
    moved += [f"{PIECES}/{path.name}" for path in (work / PIECES).iterdir()]
    texts = {
        LICENCES: json.dumps(dict(licences.most_common()), indent=1),
        CHECKSUMS: json.dumps(checksums, indent=1),
        METADATA: json.dumps(_metadata(about, lengths, sizes), indent=2),
    }
    for name, text in texts.items():
        write_text(work / name, text + "\n")
    write_text(work / REPAIRED, json.dumps({"moved": [*moved, *texts], "deleted": deleted}))


def _clips(about: Info, records: Sequence[int]) -> Iterator[range]:
    """The places of the clips of each shard."""
    ends = (np.cumsum([0, *records]) // about.blocks).tolist()
    return map(range, ends, ends[1:])


def _copy(old: Path, new: Path, clips: Sequence[int], blocks: int) -> None:
    """A shard with these clips of another one, without reading the others."""
    places = [clip * blocks + block for clip in clips for block in range(blocks)]
    with as_os_error():
        writer = ArrayRecordWriter(str(new), OPTIONS)
        for record in read_part(old, places) if places else ():
            writer.write(record)
        writer.close()


def _write_pieces(about: Info, work: Path, drop: Mapping[str, set[int]]) -> Counter[str]:
    """Writes pieces/ anew, and counts the clips of the training split by licence."""
    (work / PIECES).mkdir()
    licences: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for path in sorted((about.folder / PIECES).glob("*.jsonl")):
        with open(path, encoding="utf-8") as old, open(work / PIECES / path.name, "w") as new:
            for row in map(json.loads, old):
                split, places = row["split"], range(row["first"], row["first"] + row["clips"])
                row["first"] = first[split]
                row["clips"] = sum(place not in drop[split] for place in places)
                first[split] += row["clips"]
                if row["clips"]:
                    new.write(json.dumps(row) + "\n")
                    if split == "train":
                        licences[licence(row.get("meta", {}))] += row["clips"]
    return licences


def _metadata(about: Info, lengths: Mapping[str, list[int]], sizes: Mapping[str, int]) -> dict:
    """The content of dataset_info.json, with other shards; the bytes are those of the files."""
    known = json.loads((about.folder / METADATA).read_text())
    splits = [split for split in known["splits"] if split["name"] in lengths]
    for split in splits:
        split["shardLengths"] = [str(length) for length in lengths[split["name"]]]
        split["numBytes"] = str(sizes[split["name"]])
    return known | {"splits": splits}
