"""The source that yields the synthesiser's clips."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from data_pipeline import synthesis
from data_pipeline.sources.items import About, Entry, Item


@dataclass(frozen=True)
class Synthesiser:
    """`clips` clips of `seconds`, each rendered only when its audio is read."""

    clips: int
    seconds: float
    seed: int

    def entries(self) -> Iterator[Entry]:
        for index in range(self.clips):
            yield Entry(f"synthetic-{self.seed}-{index:06d}", index)

    def item(self, id: str, entries: Sequence[Entry]) -> Item:
        index = entries[0].place
        render = partial(_render, self.seed, index, self.seconds)
        return Item(id, render, partial(_about, self.seed, index))


def _about(seed: int, index: int, start: float, stop: float) -> About:
    style, caption = synthesis.describe(seed, index)
    return About((caption,), style.truth | {"source": "synthetic"})


def _render(seed: int, index: int, seconds: float):
    return synthesis.clip(seed, index, seconds).audio
