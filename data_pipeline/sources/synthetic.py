"""The source that yields the synthesiser's clips."""

from collections.abc import Iterator
from functools import partial

from data_pipeline import synthesis
from data_pipeline.sources.items import About, Item


def from_synthesiser(clips: int, seconds: float, seed: int) -> Iterator[Item]:
    """`clips` clips of `seconds`, each rendered only when its audio is read."""
    for index in range(clips):
        yield Item(
            f"synthetic-{seed}-{index:06d}",
            partial(_render, seed, index, seconds),
            partial(_about, seed, index),
        )


def _about(seed: int, index: int, start: float, stop: float) -> About:
    style, caption = synthesis.describe(seed, index)
    return About((caption,), style.truth | {"source": "synthetic"})


def _render(seed: int, index: int, seconds: float):
    return synthesis.clip(seed, index, seconds).audio
