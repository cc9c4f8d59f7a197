"""What runs beside training."""

from collections.abc import Mapping

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
