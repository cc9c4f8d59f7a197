"""One unit of recordings to its shards and its outcomes: a pure function, run in any process.

The unit is complete when its file UNIT.json is there:
    shards: of each lot, name, records, bytes and SHA-256 of each shard.
    outcomes: what became of each recording, in order. A rejected one has `reason` and `detail`, and
        if it is denied, `sha256` and `fingerprint`. An accepted one has its lot, the valid samples
        of each of its clips, and what pieces/ says.
The lots become splits when all units are there (`commit`): `train` and `test`, where the source
says so, and `undecided-train` and `undecided-test`, by a hash of the group or of the id.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from data_pipeline.captioning import Template, composed
from data_pipeline.clips import Dropped, Recording, cut
from data_pipeline.hashing import hashed
from data_pipeline.layout import SAMPLE_RATE, blocks_of
from data_pipeline.listing import read_lines
from data_pipeline.rights import DENIED, FIELDS, Rights
from data_pipeline.sources import About, Item, Rejection, Source
from data_pipeline.sources.held import held
from data_pipeline.writing import Shards, serialise
from jen1_numpy.errors import Refusal
from jen1_numpy.files import write_text

ENTRIES = "entries.jsonl"
LOTS = ("train", "undecided-train", "undecided-test", "test")


@dataclass(frozen=True)
class Plan:
    """What all units of a data set share.

    `folder` holds the entries, and gets the shards and the outcomes. The rest is as for `prepare`.
    """

    source: Source
    folder: Path
    seconds: float
    seed: int
    test_fraction: float
    loudness: float | None
    rights: Rights
    templates: Sequence[Template]


@dataclass(frozen=True)
class Unit:
    """Some recordings: where their lines begin, and those that cannot be decoded: id -> reason."""

    number: int
    lines: Sequence[int]
    unusable: Mapping[str, str]


def outcomes_file(folder: Path, number: int) -> Path:
    """The file that completes a unit."""
    return folder / f"{number:05d}.json"


# On several threads BLAS rounds otherwise, and the same source must give the same data set.
@threadpool_limits.wrap(limits=1)
def prepare_unit(plan: Plan, unit: Unit, alive: Callable[[str], None]) -> None:
    """Decodes the recordings of a unit and writes its shards and its outcomes.

    `alive` is called with the id of a recording when it begins, and before each of its blocks.
    A unit that is complete is left as it is.
    """
    if outcomes_file(plan.folder, unit.number).exists():
        return
    lots = {lot: Shards(plan.folder, f"{unit.number:05d}-{lot}") for lot in LOTS}
    outcomes = []
    for id, entries, rejected in read_lines(plan.folder / ENTRIES, unit.lines):
        outcomes += map(asdict, rejected)
        if entries and id in unit.unusable:
            outcomes.append(asdict(Rejection(id, unit.unusable[id])))
        elif entries:
            alive(id)
            with held(plan.source, id, entries, plan.folder) as item:
                outcomes.append(_recording(plan, item, lots, lambda id=id: alive(id)))
    shards = {lot: shards.close() for lot, shards in lots.items() if shards.done}
    text = json.dumps({"shards": shards, "outcomes": outcomes})
    write_text(outcomes_file(plan.folder, unit.number), text)


def _recording(
    plan: Plan, item: Item | Rejection, lots: Mapping[str, Shards], alive: Callable[[], None]
) -> dict:
    """The outcome of one recording, whose clips are written.

    One that is denied is decoded too: its copies are rejected when all recordings are known.
    """
    if isinstance(item, Rejection):
        return asdict(item)
    id, first = item.id, item.stretches[0][0] if item.stretches else 0.0
    item, outcome = replace(item, about=partial(_captioned, item, plan.templates)), {"id": id}
    try:
        refusal = plan.rights.refusal(id, item.about(first, first + plan.seconds).meta)
        if refusal and refusal.reason != DENIED:
            return asdict(refusal)
        made = cut(item, plan.seconds, loudness=plan.loudness, folder=plan.folder, alive=alive)
        if refusal or isinstance(made, Rejection):
            sound = _sound(made) if isinstance(made, Recording) else {}
            return asdict(refusal or made) | sound
        outcome |= _found(plan, item, made)
        for clip in _clips(made, outcome):
            if clip["id"] in plan.rights.denied:
                outcome["dropped"]["denied"] += clip["valid_samples"] / SAMPLE_RATE
                continue
            lots[outcome["lot"]].write([serialise(block) for block in in_blocks(clip)])
            outcome["valid"].append(clip["valid_samples"])
    # Clips that are written already are dropped by the commit.
    except Refusal as error:
        return outcome | asdict(Rejection(id, "cannot be rendered", str(error)))
    except MemoryError:
        return outcome | asdict(Rejection(id, "too large", "it does not fit in memory"))
    if not outcome["valid"]:
        return asdict(Rejection(id, "nothing left", "all its pieces are silent or too short"))
    outcome["captions"] = list(outcome["captions"])
    return outcome


def _captioned(item: Item, templates: Sequence[Template], start: float, stop: float) -> About:
    """What is said about a stretch; where no caption is given, some are written."""
    about = item.about(start, stop)
    if any(about.captions):
        return about
    return replace(about, captions=composed(about.meta, item.id, templates) or ("",))


def _found(plan: Plan, item: Item, made: Recording) -> dict:
    verdict = made.verdict
    mono = "mono" if made.channels == 1 else "mono as stereo" if verdict.mono else "stereo"
    return dict(
        lot=_lot(plan, item),
        valid=[],
        captions={},
        dropped=Counter(),
        seconds=made.seconds,
        stretches=item.stretches,
        group=item.group,
        loudness=verdict.loudness,
        peak=verdict.peak,
        clipped=verdict.clipped,
        channels=mono,
        sample_rate=made.sample_rate,
        **_sound(made),
    )


def _sound(made: Recording) -> dict:
    """By which copies of a recording are found."""
    fingerprint = base64.b64encode(made.verdict.fingerprint).decode()
    return dict(sha256=made.digest, fingerprint=fingerprint)


def _lot(plan: Plan, item: Item) -> str:
    if item.split:
        return item.split
    place = hashed(f"split:{plan.seed}:{item.group or item.id}") / 2**64
    return "undecided-test" if place < plan.test_fraction else "undecided-train"


def _clips(made: Recording, outcome: dict) -> Iterator[dict]:
    """The clips of a recording; notes their captions, the first metadata, and what is dropped."""
    for piece in made.pieces:
        if isinstance(piece, Dropped):
            outcome["dropped"][piece.reason] += piece.seconds
            continue
        outcome.setdefault("meta", json.loads(piece["meta"]))
        outcome["captions"] |= dict.fromkeys(piece["captions"])
        yield piece


def in_blocks(clip: Mapping) -> Iterator[dict]:
    """The records of a waveform clip."""
    for block, audio in enumerate(np.split(clip["audio"], blocks_of(len(clip["audio"])))):
        yield clip | dict(audio=audio, block=block)


def piece(outcome: Mapping) -> dict:
    """What pieces/ says of an accepted recording, but for its split and its place there."""
    names = ("id", "captions", "seconds", "group", "loudness", "peak", "sha256", "fingerprint")
    rights = {name: outcome["meta"][name] for name in FIELDS if name in outcome["meta"]}
    return {name: outcome[name] for name in (*names, "stretches")} | {"meta": rights}
