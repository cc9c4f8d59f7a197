"""The source that yields the synthesiser's clips."""

from collections.abc import Iterator
from functools import partial

from data_pipeline import synthesis
from data_pipeline.sources.items import Item


def from_synthesiser(clips: int, seconds: float, seed: int) -> Iterator[Item]:
    """`clips` clips of `seconds`, each rendered only when its audio is read."""
    for index in range(clips):
        style, caption = synthesis.describe(seed, index)
        yield Item(
            f"synthetic-{seed}-{index:06d}",
            partial(_render, seed, index, seconds),
            caption,
            style.truth | {"source": "synthetic"},
        )


def _render(seed: int, index: int, seconds: float):
    return synthesis.clip(seed, index, seconds).audio
