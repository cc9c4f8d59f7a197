"""Which of the recordings in finished units a data set holds, and in which splits.

It depends on the units' outcomes and their order alone.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path

from data_pipeline.judging import duplicates
from data_pipeline.layout import SAMPLE_RATE
from data_pipeline.units import outcomes_file

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Units:
    """The first `count` units of a data set, which are finished, and the folder that holds them."""

    folder: Path
    count: int

    def read(self, number: int) -> dict:
        """The shards and the outcomes of a unit."""
        return json.loads(outcomes_file(self.folder, number).read_text())

    def outcomes(self) -> Iterator[tuple[tuple[int, int], dict]]:
        """Each outcome in order, and its place: the number of the unit and that in the unit."""
        for number in range(self.count):
            for index, outcome in enumerate(self.read(number)["outcomes"]):
                yield (number, index), outcome


@dataclass(frozen=True)
class Choice:
    """What becomes of the recordings: see `choose`."""

    seconds: float  # of all clips that are taken
    decided: bool  # whether the source says which recording is in which split
    _same: Mapping[str, str]  # id of a duplicate -> why it is one
    _end: tuple[int, int] | None  # place of the recording that reaches the limit
    _clips: int  # of that one are taken
    _splits: Mapping[str, str]  # group -> split
    _others: str | None  # the split of all other groups; None is that of the lot

    @property
    def limited(self) -> bool:
        """Whether the limit is reached, so that recordings may be left over."""
        return self._end is not None

    def needed(self, place: tuple[int, int]) -> bool:
        """Whether a recording comes before the limit is reached."""
        return self._end is None or place <= self._end

    def rejection(self, outcome: Mapping) -> tuple[str, str] | None:
        """The reason and the detail if a recording is rejected."""
        if "reason" in outcome:
            return outcome["reason"], outcome["detail"]
        same = self._same.get(outcome["id"])
        return ("duplicate", same) if same else None

    def clips(self, place: tuple[int, int], outcome: Mapping) -> int:
        """How many of a recording's clips are taken."""
        if not self.needed(place) or self.rejection(outcome):
            return 0
        return self._clips if place == self._end else len(outcome["valid"])

    def split(self, outcome: Mapping) -> str:
        """The split of an accepted recording."""
        stated = self._splits.get(_group(outcome), self._others)
        return stated or _split(outcome["lot"])


def choose(units: Units, test_fraction: float, limit: float = inf) -> Choice:
    """Takes recordings in order, without duplicates, until they have `limit` seconds of clips.

    A group is in one split. If the source says of any recording which split it is in, a group is
    in the split test if it holds a recording that the source has put there, and otherwise in train.
    If not, the hash of the group decides; but of several groups one is in each split, the first one
    if need be, unless the test fraction is 0.

    It takes about 500 bytes of memory a recording.
    """
    same = _duplicates(units)
    seconds, first, several, decided = 0.0, None, False, False
    splits, held_out, end, clips = set(), set(), None, 0
    for place, outcome in units.outcomes():
        if "reason" in outcome or outcome["id"] in same:
            continue
        group, lot = _group(outcome), outcome["lot"]
        first = first or group
        several |= group != first
        decided |= lot in SPLITS
        splits.add(_split(lot))
        if lot == "test":
            held_out.add(group)
        for clips in range(1, len(outcome["valid"]) + 1):
            seconds += outcome["valid"][clips - 1] / SAMPLE_RATE
            if seconds >= limit:
                end = place
                break
        if end:
            break
    choice = partial(Choice, seconds, decided, same, end, clips)
    if decided:
        return choice(dict.fromkeys(held_out, "test"), "train")
    if not several:
        return choice({}, "train")
    lacking = {"train", "test"} - splits if test_fraction > 0 else ()
    return choice(dict(zip((first,), lacking, strict=False)), None)


def _group(outcome: Mapping) -> str:
    return outcome["group"] or outcome["id"]


def _split(lot: str) -> str:
    return lot.removeprefix("undecided-")


def _duplicates(units: Units) -> dict[str, str]:
    """Of each recording that is an earlier or a denied one again: its id, and why it is one."""
    files: dict[bytes, str] = {}
    same: dict[str, str] = {}

    def known(rejected: bool) -> Iterator[tuple[str, bytes]]:
        for _, outcome in units.outcomes():
            if ("reason" in outcome) != rejected or "fingerprint" not in outcome:
                continue
            if outcome["sha256"]:
                digest = bytes.fromhex(outcome["sha256"])
                earlier = files.setdefault(digest, outcome["id"])
                if earlier != outcome["id"]:
                    same[outcome["id"]] = f"the same bytes as {earlier}"
                    continue
            if outcome["fingerprint"]:
                yield outcome["id"], base64.b64decode(outcome["fingerprint"])

    # What is denied comes first, so that its copies are duplicates of it.
    heard = duplicates(chain(known(True), known(False)))
    return same | {id: f"it sounds like {earlier}" for id, earlier in heard.items()}
