"""What training reports: means over an interval, its speed, and what its time was spent on."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jen1_jax.files import AnyPath
from jen1_jax.models.metrics import WRITERS, Lines
from jen1_jax.training.utilisation import Utilisation

MAX_NAMED = 5  # steps in a row
AHEAD = 2  # steps that the host may have given to the device without waiting
SPENT = ("compile", "data", "checkpoint", "evaluation")  # what time is spent on beside steps
PARTS = "grad_norm/"  # logged of an interval's last step alone


class Log:
    """Collects metrics on the device and reads them an interval at a time.

    Attributes:
        utilisation: counts the operations of a step, for the MFU.
        skipped: the steps in a row before the last `write` that were skipped.
    """

    def __init__(
        self,
        name: str,
        directory: AnyPath,
        start: int,
        *,
        mesh: Mesh,
        training: ConfigDict,
        schedule: Callable,
        audio_seconds: float,
        progress: Callable[[str], None],
    ):
        self._name, self._steps, self._schedule = name, training.steps, schedule
        self._batch_hours = training.batch_size * audio_seconds / 3600
        self.utilisation, self._progress = Utilisation(mesh), progress
        makers = [WRITERS[each] for each in training.writers]
        writes = jax.process_index() == 0
        self._writers = [make(directory, start) for make in makers if writes]
        self._bad = Lines(directory / "skipped.jsonl", start) if writes else None
        self._pending: list[dict[str, jax.Array]] = []
        self._indices: list[np.ndarray] = []
        self._figures: dict[str, float] = {}
        self._seconds = dict.fromkeys(SPENT, 0.0)
        self._began, self._compiled = time.monotonic(), False
        self._last, self._timed = start, 0  # step of the last record, and steps since then
        self.skipped = 0

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts the time of a block as spent on `what`, and not on steps."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] += time.monotonic() - began

    def add(self, metrics: dict[str, jax.Array], index: np.ndarray) -> None:
        self._pending.append(metrics)
        if len(self._pending) > AHEAD:  # so that a signal, or a hung step, is noticed in time
            jax.block_until_ready(self._pending[-AHEAD - 1]["loss"])
        self._indices.append(index)
        if self._compiled:
            self._timed += 1
        else:  # the first step compiles; it does not count in the speed
            jax.block_until_ready(metrics)
            elapsed = time.monotonic() - self._began
            self._seconds["compile"] = elapsed - sum(self._seconds.values())
            self._compiled = True

    def add_figures(self, figures: Mapping[str, float]) -> None:
        """Adds `figures` to the next record."""
        self._figures |= figures

    def write(self, step: int) -> None:
        """Writes a record of the steps since the last one."""
        norms = {name: value for name, value in self._pending[-1].items() if PARTS in name}
        values = [
            {key: float(value) for key, value in metrics.items()}
            for metrics in jax.device_get(
                [{k: v for k, v in each.items() if k not in norms} for each in self._pending]
            )
        ]
        self._report_skipped(values)
        good = [value for value in values if not value["skipped"]]
        found = {
            key: [value[key] for value in good if not math.isnan(value[key])] for key in values[0]
        }  # NaN: no example of the batch has this loss
        means = {key: float(np.mean(some)) for key, some in found.items() if some}
        means |= {key: sum(value[key] for value in values) for key in ("skipped", "exploded")}
        means |= {key: float(value) for key, value in jax.device_get(norms).items()}
        means["updates"] = values[-1]["updates"]
        means["learning_rate"] = float(self._schedule(means["updates"]))
        means |= self._timing() | _memory()
        self._last = step
        figures, self._figures = self._figures, {}
        for writer in self._writers:
            writer.write(step, means | figures)
        if jax.process_index() == 0:
            self._progress(self._line(step, means, figures))

    def _timing(self) -> dict[str, float]:
        """Speed of the interval, and `seconds/...`: what its time was spent on."""
        now = time.monotonic()
        seconds, total = self._seconds, now - self._began
        seconds["step"] = total - sum(seconds.values())
        # Evaluating and compiling do not count in the speed.
        training = max(total - seconds["evaluation"] - seconds["compile"], 1e-9)
        speed = self._timed / training
        self._began, self._timed = now, 0
        self._seconds = dict.fromkeys(SPENT, 0.0)
        return {
            "steps_per_second": speed,
            "audio_hours_per_second": speed * self._batch_hours,
            "data_wait": seconds["data"] / training,
            **{f"seconds/{what}": value for what, value in seconds.items()},
            **self.utilisation.figures(speed),
        }

    def _report_skipped(self, values: list[dict[str, float]]) -> None:
        steps = range(self._last, self._last + len(values))
        for step, value, index in zip(steps, values, self._indices, strict=True):
            self.skipped = self.skipped + 1 if value["skipped"] else 0
            if value["skipped"]:
                self._name_skipped(step, value, index)
        self._pending.clear()
        self._indices.clear()

    def _name_skipped(self, step: int, value: Mapping[str, float], index: np.ndarray) -> None:
        """Writes the examples of a skipped batch, and prints those of the first ones in a row."""
        if jax.process_count() > 1:  # each process knows its own part of the batch
            # Processes that split a model have the same examples.
            index = np.unique(multihost_utils.process_allgather(index))
        if self._bad is None:
            return
        norm = value["grad_norm"]
        reason, problem = "not finite", f"the loss of step {step} was not finite"
        if value["exploded"]:
            reason, problem = "exploded", f"the gradient of step {step} exploded ({norm:.3g})"
        known = norm if math.isfinite(norm) else None
        record = {"step": step, "reason": reason, "norm": known, "ids": index.tolist()}
        self._bad.append(record)
        if self.skipped <= MAX_NAMED:
            some = ", ".join(map(str, index[:16])) + (", ..." if len(index) > 16 else "")
            self._progress(f"{self._name}: {problem}; skipped its batch, records {some}")

    def _line(self, step: int, means: Mapping[str, float], figures: Mapping[str, float]) -> str:
        losses = " ".join(
            f"{key.removeprefix('loss/')} {value:.3f}"
            for key, value in means.items()
            if key.startswith("loss/") and key.count("/") == 1
        )
        speed, skipped = means["steps_per_second"], means["skipped"]
        left = (self._steps - step) / speed if speed > 0 else 0
        found = "".join(f"{key} {value:.3f}  " for key, value in figures.items())
        peak = f"{self.utilisation.peak / 1e12:.0f} TFLOP/s"
        used = f", MFU {means['mfu']:.1%} of {peak}" if "mfu" in means else ""
        note = f", {skipped:.0f} steps skipped" if skipped else ""
        return (
            f"{self._name} {step}/{self._steps}  loss {means.get('loss', float('nan')):.4f} "
            f"({losses})  {found}{speed:.2f} steps/s{used}, {_duration(left)} left{note}"
        )

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
        if self._bad is not None:
            self._bad.close()


def _memory() -> dict[str, float]:
    """Memory held by this process and on its first device, in GiB, where it is known."""
    found = {"resident_gib": _resident_gib()}
    known = jax.local_devices()[0].memory_stats() or {}
    names = {"device_gib": "bytes_in_use", "device_peak_gib": "peak_bytes_in_use"}
    return found | {name: known[key] / 2**30 for name, key in names.items() if key in known}


def _resident_gib() -> float:
    """Memory held by this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * 4096 / 2**30


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
