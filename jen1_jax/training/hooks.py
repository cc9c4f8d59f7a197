"""What runs beside training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from jen1_jax.errors import Refusal
from jen1_jax.training.step import TrainState


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
    """Writes a trace of `steps` (first, number of them; empty: none) to `directory`/profile."""

    def __init__(self, directory: Path, steps: Sequence[int]):
        if len(steps) not in (0, 2) or (steps and (steps[0] < 0 or steps[1] < 1)):
            raise Refusal(
                f"profile is a first step and a number of steps, or (); {tuple(steps)} is not."
            )
        self._directory, self._running = directory / "profile", False
        self._first, self._last = (steps[0], sum(steps)) if steps else (-1, -1)

    def start(self, step: int) -> None:
        self.after_step(step)

    def after_step(self, step: int) -> None:
        if step == self._first:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif step == self._last:
            self.close()

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
