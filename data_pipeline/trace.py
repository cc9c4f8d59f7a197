"""The steps of a training that have read a recording or a clip.

They follow from the run's record, since the order of the examples depends on the seed and on the
sizes of the data sets alone. No audio is read.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from data_pipeline._tf import tf
from data_pipeline.layout import info
from data_pipeline.order import Order
from data_pipeline.withdraw import clips_of, places

AT_ONCE = 1 << 20  # examples


@dataclass
class Traced:
    """What a training has read of some clips, by data set and epoch."""

    clips: int  # of the training split
    until: int  # the steps before it are traced
    epochs: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # steps, rising
    untraced: list[str] = field(default_factory=list)  # sentences about other steps

    def __str__(self) -> str:
        reads = sum(map(len, self.epochs.values()))
        clips = f"{self.clips} clips of the training split"
        lines = [f"{clips}, read {reads} times before step {self.until}"]
        lines += [f"{epoch}: steps {_ranges(steps)}" for epoch, steps in self.epochs.items()]
        return "\n".join([*lines, *self.untraced])


def trace(folder: str, names: Collection[str], position: Mapping[str, Any], until: int) -> Traced:
    """The steps before `until` that have read any of the clips that are named.

    A step that has read two of them, or one twice, is listed twice. It is listed, too, if the clip
    was damaged or withdrawn then, and so had no weight in it.

    Args:
        folder: the data set of the training, or several with commas between them.
        names: as for `withdraw`.
        position: in the record of the checkpoint at step `until` (training/resume.py).

    Raises:
        Refusal: none of the data sets has one of the names.
    """
    folders = folder.split(",")
    found = [list(places(each, names)) for each in folders]
    known = {name for those in found for name, _, _ in those}
    for each in set(names) - known:
        clips_of(folders[0], [each])  # refuses it
    chosen = [
        np.unique([place for _, split, place in those if split == "train"]).astype(np.int64)
        for those in found
    ]
    sizes = [info(each).examples.get("train", 0) for each in folders]
    traced, first = Traced(sum(map(len, chosen)), until), 0
    for part in (*position.get("earlier", ()), {**position, "until": until}):
        data = part["data"]
        mixture = data.get("mixture", {"shares": [], "examples": [data["examples"].get("train")]})
        if mixture["examples"] == sizes:
            shares = mixture["shares"] or [1] * len(folders)
            order = Order(sizes, shares, data["limit"], part["seed"])
            _add(traced, folders, chosen, order, part, first)
        else:
            traced.untraced.append(
                f"steps {first} to {part['until'] - 1} have read other data than {folder} holds"
            )
        first = part["until"]
    if "earlier" not in position and position["offset"]:
        traced.untraced.append(
            "the batch size was changed by a version that does not record when: earlier steps are "
            "traced as if it had always been the last one"
        )
    return traced


def _add(
    traced: Traced,
    folders: Sequence[str],
    chosen: Sequence[np.ndarray],
    order: Order,
    part: Mapping[str, Any],
    first: int,
) -> None:
    """Adds the steps from `first` to the end of a part, in which the batch size was the same."""
    size, offset = part["batch_size"], part["offset"]
    start, stop = (first + offset) * size, (part["until"] + offset) * size
    for begin in range(start, stop, AT_ONCE):
        g = np.arange(begin, min(begin + AT_ONCE, stop))
        sets, clips, epochs = (each.numpy() for each in order(tf.constant(g, tf.int64)))
        for number, wanted in enumerate(chosen):
            hits = np.flatnonzero((sets == number) & np.isin(clips, wanted))
            for hit in hits.tolist():
                name = f"{folders[number]}, epoch {epochs[hit]}"
                traced.epochs[name].append(int(g[hit]) // size - offset)


def _ranges(steps: Sequence[int]) -> str:
    """Rising numbers in words: "3, 5-8, 11"."""
    parts = []
    for _, run in groupby(enumerate(sorted(set(steps))), lambda pair: pair[1] - pair[0]):
        numbers = [step for _, step in run]
        parts.append(f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}")
    return ", ".join(parts)
