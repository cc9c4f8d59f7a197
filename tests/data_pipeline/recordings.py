"""A source for tests of preparation: noise, rendered anywhere, with a note of what is rendered."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_pipeline import prepare as module
from data_pipeline.sources import About, Entry, Item, Rejection
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, SECONDS

OPTIONS = dict(seconds=SECONDS, test_fraction=0.3)


@dataclass(frozen=True)
class Recordings:
    """`count` recordings of one to three clips, of which every fifth refuses.

    `log` gets a line for each that is rendered. `harm` is what some do: kill, hang or grow.
    """

    log: Path
    count: int = 80
    seconds: float = 0.0  # that each takes
    harm: tuple[tuple[str, str], ...] = ()  # id, what it does

    def entries(self) -> Iterator[Entry | Rejection]:
        yield Rejection("x", "missing")
        for number in range(self.count):
            yield Entry(str(number))

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        about = partial(_about, int(id))
        return Item(id, partial(self.render, int(id)), about, group=f"of {int(id) // 3}")

    def render(self, number: int) -> np.ndarray:
        with open(self.log, "a") as log:
            log.write(f"{number}\n")
        time.sleep(self.seconds)
        harm = dict(self.harm).get(str(number))
        if harm == "kill":
            os.kill(os.getpid(), signal.SIGSEGV)
        if harm == "hang":
            time.sleep(1000)
        if harm == "grow":
            np.zeros(2**37, np.uint8)
        if number % 5 == 4:
            raise Refusal("No notes.")
        rng = np.random.default_rng(number)
        length = SAMPLES * (1 + number % 3) + (1000 if number % 2 else 0)  # some with a tail
        return rng.uniform(-0.5, 0.5, (length, 2)).astype(np.float32)

    def rendered(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


def _about(number: int, start: float, stop: float) -> About:
    meta = {"number": number, "licence": "AB"[number % 2]}
    return About((f"piece {number}", f"from {start}"), meta)


def prepared(source: Recordings, out: Path, **options):
    """The report of a preparation of `source`."""
    given = module.open_source
    module.open_source = lambda *_, **__: source
    try:
        return module.prepare("here", str(out), **OPTIONS | options)
    finally:
        module.open_source = given


def main():
    """Prepares with LOG and OUT from the command line."""
    log, out = map(Path, sys.argv[1:])
    prepared(Recordings(log, seconds=0.02), out, jobs=2)
