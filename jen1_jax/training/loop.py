"""The loop around the step: batches in, checkpoints and metrics out.

Invariants:
- The batch of step s depends on s alone, and so do the step's random numbers. So training can go on
  from a checkpoint that holds nothing but the state.
- The host does not wait for the step that it has just started; it logs what earlier steps computed.
  It waits at a checkpoint, where the state is copied, and where a hook reads it.
- Metrics describe the parameters before the update of their step.
- A checkpoint at step s holds the state after s batches.
"""

import ctypes
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.batch import Clips
from jen1_jax.errors import Refusal
from jen1_jax.models.checkpoints import HELD_OUT, Checkpoints
from jen1_jax.models.metrics import MetricsWriter
from jen1_jax.models.run import Run
from jen1_jax.sharding import BATCH_AXES, put_batch
from jen1_jax.training.start import begin
from jen1_jax.training.step import Trainable, TrainState, make_step

MAX_SKIPPED = 50  # steps in a row
MAX_NAMED = 5  # of them


@runtime_checkable
class Data(Protocol):
    """What training reads: numpy arrays, this process's part of the global batch."""

    description: Mapping[str, Any]  # what the data are, for the checkpoint's record

    def captions(self) -> list[str]:
        """The distinct captions of the training split."""

    def batches(self, start_step: int, around: int = 0) -> Iterator[Clips]:
        """Endless training batches from `start_step` on; batch s is the same from any start.

        Of waveforms `around` samples of audio on both sides come with each clip, if the data have
        them.
        """

    def sweep(self, split: str, around: int = 0) -> Iterator[Clips]:
        """One pass over a split, in order; the last batch may be smaller."""


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


class Interrupted(Exception):
    """Training was asked to stop (SIGINT, SIGTERM); its state has been saved."""


def fit(
    name: str,
    *,
    directory: Path,
    trainables: Mapping[str, Trainable],
    draw: Callable,
    batches: Callable[[int, int], Iterator[Mapping[str, Any]]],
    training: ConfigDict,
    schedule: Callable[[int], Any],
    mesh: Mesh,
    rules,
    seed: int,
    record: Mapping[str, Any],
    frozen: PyTree = None,
    start_from: Mapping[str, PyTree] | None = None,
    init_from: Run | None = None,
    check: Callable[[Mapping[str, Any]], None] = lambda record: None,
    held_out: Callable[[PyTree, PyTree], Any] | None = None,
    hooks: Sequence[Hook] = (),
    progress: Callable[[str], None] = print,
) -> TrainState:
    """Trains to `training.steps` from the newest checkpoint in `directory`, or from the start.

    Args:
        batches: (first step, number of its batch) -> what `draw` takes. The two are the same
            unless the batch size has changed (resume.py). A batch's `index` stays on the host: it
            names the examples of a batch that is skipped.
        training: a section `train_*`.
        record: kept beside every checkpoint.
        frozen: parameters that the losses need and nothing changes.
        start_from: parameters of trainables to begin with instead of fresh ones.
        init_from: a run whose parameters of the same part to begin with, as far as they fit.
        check: may refuse the record of a checkpoint from which training would go on.
        held_out: (averaged parameters of all trainables, `frozen`) -> loss on held-out data. The
            checkpoint with the lowest one is kept.

    Returns:
        The final state.

    Raises:
        Interrupted: after a signal.
        Refusal: the loss stays non-finite, or the batch does not fit the mesh.
    """
    if min(training.log_every, training.checkpoint_every, training.microbatches) < 1:
        raise Refusal("log_every, checkpoint_every and microbatches must be at least 1.")
    shares = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * training.microbatches
    if training.batch_size % shares:
        raise Refusal(
            f"A batch of {training.batch_size} cannot be split into {shares} parts (mesh axes "
            f"{' x '.join(BATCH_AXES)} x microbatches); set batch_size to a multiple, or give "
            "devices to mesh.axes.tensor."
        )
    if mesh.devices.flat[0].platform == "cpu":
        keep_freed_memory()
    with jax.set_mesh(mesh):
        checkpoints = Checkpoints(
            directory / "checkpoints", training.keep_checkpoints, training.keep_every
        )
        state, position = begin(
            name,
            directory=directory,
            checkpoints=checkpoints,
            trainables=trainables,
            training=training,
            mesh=mesh,
            rules=rules,
            seed=seed,
            record=record,
            init_from=init_from,
            start_from=start_from or {},
            check=check,
            progress=progress,
        )
        record = dict(record) | {"position": position}
        layout = jax.tree.map(lambda leaf: leaf.sharding, state)
        start = int(state.step)
        if start >= training.steps:
            checkpoints.close()
            return state

        step_fn = jax.jit(
            make_step(
                trainables,
                draw,
                ema_decay=training.ema_decay,
                microbatches=training.microbatches,
                seed=seed,
            ),
            donate_argnums=0,
            out_shardings=(layout, None),
        )
        frozen = jax.device_put(frozen, NamedSharding(mesh, PartitionSpec()))
        with _stop_signal() as stopped, ExitStack() as stack:
            stack.callback(checkpoints.close)
            log = _Log(name, directory, start, training.steps, schedule, progress)
            stack.callback(log.close)
            for hook in hooks:
                hook.start(start)
                stack.callback(hook.close)
            stream = batches(start, start + position["offset"])
            for step in range(start, training.steps):
                batch = dict(next(stream))
                index = np.asarray(batch.pop("index", ()))
                state, metrics = step_fn(state, put_batch(batch, mesh), frozen)
                if step > start and step % training.log_every == 0:
                    log.write(step)  # waits for earlier steps alone, not for this one
                log.add(metrics, index)
                done, stop = step + 1, stopped()
                checkpoints.raise_failure()
                if stop:  # at once, since there may be little time
                    checkpoints.save(done, state, record)
                elif done % training.checkpoint_every == 0 or done == training.steps:
                    found = {}
                    if held_out:
                        jax.block_until_ready(state)
                        began = time.monotonic()
                        found = {HELD_OUT: float(held_out(state.averaged, frozen))}
                        log.add_figures(found, began)
                    checkpoints.save(done, state, record, found.get(HELD_OUT))
                for hook in hooks:
                    hook.after_step(done)
                    if hook.due(done):
                        jax.block_until_ready(state)
                        began = time.monotonic()
                        log.add_figures(hook.evaluate(done, state), began)
                if done == training.steps or stop:
                    log.write(done)
                if stop:
                    raise Interrupted(
                        f"{name} stopped at step {done}; the same command goes on from there."
                    )
        return state


def keep_freed_memory() -> None:
    """Makes the C library of this process keep freed memory for later allocations.

    On a CPU the arrays of every step are allocated anew. Memory that comes from the system each
    time is cleared page by page, which takes up to a seventh of a step. (Blocks over 64 MiB of
    other threads than the main one still come from the system.)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap as well
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: and the heap is not given back


class _Log:
    """Collects metrics on the device and reads them an interval at a time."""

    def __init__(self, name: str, directory: Path, start: int, steps: int, schedule, progress):
        self._name, self._steps, self._schedule = name, steps, schedule
        self._progress = progress
        self._writer = MetricsWriter(directory, start) if jax.process_index() == 0 else None
        self._pending: list[dict[str, jax.Array]] = []
        self._indices: list[np.ndarray] = []
        self._last, self._skipped = start, 0
        self._clock = 0.0
        self._timed_from: int | None = None  # the step at which `_clock` was read
        self._figures: dict[str, float] = {}

    def add(self, metrics: dict[str, jax.Array], index: np.ndarray) -> None:
        self._pending.append(metrics)
        self._indices.append(index)
        if self._timed_from is None:  # the first step compiles; it does not count in the speed
            jax.block_until_ready(metrics)
            self._clock, self._timed_from = time.monotonic(), self._last + 1

    def add_figures(self, figures: Mapping[str, float], began: float) -> None:
        """Adds `figures` to the next record; the time since `began` does not count in the speed."""
        self._figures |= figures
        self._clock += time.monotonic() - began

    def write(self, step: int) -> None:
        values = [
            {key: float(value) for key, value in metrics.items()}
            for metrics in jax.device_get(self._pending)
        ]
        self._report_skipped(values)
        good = [value for value in values if not value["skipped"]]
        found = {
            key: [value[key] for value in good if not math.isnan(value[key])] for key in values[0]
        }  # NaN: no example of the batch has this loss
        means = {key: float(np.mean(some)) for key, some in found.items() if some}
        now = time.monotonic()
        speed = (step - (self._timed_from or 0)) / max(now - self._clock, 1e-9)
        self._clock, self._timed_from, self._last = now, step, step
        means |= {
            "skipped": sum(value["skipped"] for value in values),
            "learning_rate": float(self._schedule(step)),
            "steps_per_second": speed,
            "resident_gib": _resident_gib(),
        }
        figures, self._figures = self._figures, {}
        if self._writer is not None:
            self._writer.write(step, means | figures)
            self._progress(self._line(step, means, figures))

    def _report_skipped(self, values: list[dict[str, float]]) -> None:
        """Names the first of the skipped batches in a row; refuses to go on after many."""
        steps = range(self._last, self._last + len(values))
        for step, value, index in zip(steps, values, self._indices, strict=True):
            self._skipped = self._skipped + 1 if value["skipped"] else 0
            if value["skipped"] and self._skipped <= MAX_NAMED:
                some = ", ".join(map(str, index[:16])) + (", ..." if len(index) > 16 else "")
                self._progress(
                    f"{self._name}: the loss of step {step} was not finite; skipped its batch, "
                    f"records {some}"
                )
        self._pending.clear()
        self._indices.clear()
        if self._skipped >= MAX_SKIPPED:
            raise Refusal(
                f"The loss of {self._name} has not been finite for {self._skipped} steps; the last "
                "checkpoint is whole: lower the learning rate, or look for bad data with "
                "`jen1 data validate`."
            )

    def _line(self, step: int, means: Mapping[str, float], figures: Mapping[str, float]) -> str:
        losses = " ".join(
            f"{key.removeprefix('loss/')} {value:.3f}"
            for key, value in means.items()
            if "loss/" in key
        )
        speed, skipped = means["steps_per_second"], means["skipped"]
        left = (self._steps - step) / speed if speed > 0 else 0
        found = "".join(f"{key} {value:.3f}  " for key, value in figures.items())
        note = f", {skipped:.0f} steps skipped (non-finite)" if skipped else ""
        return (
            f"{self._name} {step}/{self._steps}  loss {means.get('loss', float('nan')):.4f} "
            f"({losses})  {found}{speed:.2f} steps/s, {_duration(left)} left{note}"
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def _stop_signal():
    """Turns SIGINT and SIGTERM into a flag that the loop reads between steps.

    A second SIGINT raises KeyboardInterrupt at once.
    """
    received = []

    def handle(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, handle) for number in signals}
    except ValueError:  # not the main thread, which alone may handle signals
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
