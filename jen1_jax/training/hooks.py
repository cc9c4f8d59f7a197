"""What runs beside training."""

from collections.abc import Mapping
from pathlib import Path

import jax

from jen1_jax.files import AnyPath
from jen1_jax.training.step import TrainState
from jen1_numpy.errors import Refusal


class Hook:
    """Something that runs beside training: evaluation, demos, a watchdog, a profiler.

    Every process calls every hook. A subclass defines what it needs of the methods.
    """

    def start(self, step: int) -> None:
        """Called once, before step `step`, the first one."""

    def after_step(self, step: int) -> None:
        """Called when `step` batches have been given to the device, which may still compute."""

    def due(self, step: int) -> bool:
        """Whether `evaluate` is called after `step` batches."""
        return False

    def evaluate(self, step: int, state: TrainState) -> Mapping[str, float]:
        """Reads the state after `step` batches; what it returns is logged with the metrics.

        The device is idle meanwhile, and the time does not count in the speed of training.
        """
        return {}

    def close(self) -> None:
        """Called once after `start`, when training has ended, was stopped, or has failed."""


class Profiler(Hook):
    """Writes a trace of `count` steps from step `first` on to `directory`/profile."""

    def __init__(self, directory: AnyPath, first: int, count: int):
        self._directory, self._running = directory / "profile", False
        if count > 0 and not isinstance(directory, Path):
            raise Refusal("A profile is written to local folders alone; leave train_*.profile out.")
        self._first, self._end = (first, first + count) if count > 0 else (-1, -1)

    def start(self, step: int) -> None:
        self.after_step(step)

    def after_step(self, step: int) -> None:
        if step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif step == self._end:
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
