"""The loop around the step: batches in, checkpoints and metrics out.

Invariants:
- The batch of step s depends on s alone, and so does the step's randomness: a restart needs the state and nothing else.
- The host never waits for the step that it has just started; what it logs is what earlier steps computed. At a
  checkpoint it waits, to copy the state and to evaluate it.
- Metrics describe the parameters before the update of their step.
- A checkpoint at step s holds the state after s batches.
"""

import ctypes
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.errors import Refusal
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.metrics import MetricsWriter
from jen1_jax.sharding import BATCH_AXES, put_batch, shardings
from jen1_jax.training.step import Player, TrainState, init_state, make_step

MAX_SKIPPED = 50  # steps in a row
MAX_NAMED = 5  # of them


@runtime_checkable
class Data(Protocol):
    """What training reads. Batches are dictionaries of numpy arrays, this process's slice of the global batch."""

    description: Mapping[str, Any]  # what the data are, for the checkpoint's record

    def batches(self, start_step: int) -> Iterator[dict[str, Any]]:
        """Endless training batches from `start_step` on; batch s is the same whatever the start."""

    def sweep(self, split: str) -> Iterator[dict[str, Any]]:
        """One pass over a split, in order; the last batch may be short."""


Evaluate = Callable[
    [int, PyTree], Mapping[str, float]
]  # (step, every player's EMA parameters) -> figures by name


class Interrupted(Exception):
    """Training was asked to stop (SIGINT, SIGTERM); its state has been saved."""


def fit(
    name: str,
    *,
    directory: Path,
    players: Mapping[str, Player],
    draw: Callable,
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]],
    config: ConfigDict,
    schedule: Callable[[int], Any],
    mesh: Mesh,
    rules,
    seed: int,
    record: Mapping[str, Any],
    frozen: PyTree = None,
    start_from: Mapping[str, PyTree] | None = None,
    check: Callable[[Mapping[str, Any]], None] = lambda record: None,
    evaluate: Evaluate = lambda step, ema: {},
    progress: Callable[[str], None] = print,
) -> TrainState:
    """Trains to `config.steps` from the newest checkpoint in `directory`, or from the start; returns the final state.

    `config` is a `train_*` section. A batch's `index`, its examples' places in the data, stays on the host, to name what was left
    out. `start_from` holds players' parameters to begin with instead of fresh ones; `check` may refuse the record of a checkpoint
    that training goes on from. What `evaluate` finds, every `checkpoint_every` steps and at the end, goes into the next record of
    metrics; every process calls it. Raises `Interrupted` after a signal, and `Refusal` when the loss stays non-finite.
    """
    if min(config.log_every, config.checkpoint_every, config.microbatches) < 1:
        raise Refusal("log_every, checkpoint_every and microbatches must be at least 1.")
    shares = math.prod(mesh.shape[axis] for axis in BATCH_AXES) * config.microbatches
    if config.batch_size % shares:
        raise Refusal(
            f"A batch of {config.batch_size} cannot be cut into {shares} (mesh axes {' x '.join(BATCH_AXES)} x microbatches); "
            "set batch_size to a multiple, or give devices to mesh.axes.tensor."
        )
    if mesh.devices.flat[0].platform == "cpu":
        keep_freed_memory()
    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(lambda: init_state(players, jax.random.key(seed)))
        layout = shardings(abstract, mesh, rules)
        abstract = jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
            abstract,
            layout,
        )
        checkpoints = Checkpoints(directory / "checkpoints", config.keep_checkpoints)
        if checkpoints.latest is None:
            begin = lambda key, given: init_state(players, key, given)
            given = jax.device_get(dict(start_from or {}))  # which may lie on one device of many
            state = jax.jit(begin, out_shardings=layout)(jax.random.key(seed), given)
        else:
            check(checkpoints.record())  # before the state, which may have another shape
            state, _ = checkpoints.restore(abstract)
            progress(f"{name}: going on from step {checkpoints.latest}")
        start = int(state.step)
        if start >= config.steps:
            checkpoints.close()
            return state

        step_fn = jax.jit(
            make_step(
                players,
                draw,
                ema_decay=config.ema_decay,
                microbatches=config.microbatches,
                seed=seed,
            ),
            donate_argnums=0,
            out_shardings=(layout, None),
        )
        frozen = jax.device_put(frozen, NamedSharding(mesh, PartitionSpec()))
        log = _Log(name, directory, start, config.steps, schedule, progress)
        with _stop_signal() as stopped:
            try:
                stream = batches(start)
                for step in range(start, config.steps):
                    batch = dict(next(stream))
                    index = np.asarray(batch.pop("index", ()))
                    state, metrics = step_fn(state, put_batch(batch, mesh), frozen)
                    if step > start and step % config.log_every == 0:
                        log.write(
                            step
                        )  # only now: what it waits for was computed before the step that has just begun
                    log.add(metrics, index)
                    done = step + 1
                    if done % config.checkpoint_every == 0 or done == config.steps or stopped():
                        checkpoints.save(done, state, record)
                    if done % config.checkpoint_every == 0 or done == config.steps:
                        began = time.monotonic()  # the checkpoint has already waited for the step
                        log.evaluated(evaluate(done, state.ema), time.monotonic() - began)
                    if done == config.steps or stopped():
                        log.write(done)
                    if stopped():
                        raise Interrupted(
                            f"{name} stopped at step {done}; the same command goes on from there."
                        )
            finally:
                log.close()
                checkpoints.close()
        return state


def keep_freed_memory() -> None:
    """Has the C library keep what is freed for what is allocated next, in this process from now on. On a CPU the arrays of every
    step are allocated anew; fetched from the system each time, which clears page after page, they cost up to a seventh of a step.
    (Blocks over 64 MiB of other threads than the main one are fetched all the same.)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap as well
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: and the heap is not given back


class _Log:
    """Collects metrics on the device and reads them an interval at a time."""

    def __init__(self, name: str, directory: Path, start: int, steps: int, schedule, progress):
        self._name, self._steps, self._schedule, self._progress = name, steps, schedule, progress
        self._writer = MetricsWriter(directory, start) if jax.process_index() == 0 else None
        self._pending: list[dict[str, jax.Array]] = []
        self._indices: list[np.ndarray] = []
        self._last, self._clock, self._skipped = start, None, 0
        self._evaluated: dict[str, float] = {}

    def add(self, metrics: dict[str, jax.Array], index: np.ndarray) -> None:
        self._pending.append(metrics)
        self._indices.append(index)
        if self._clock is None:  # the first step compiles; it does not count in the speed
            jax.block_until_ready(metrics)
            self._clock, self._timed_from = time.monotonic(), self._last + 1

    def evaluated(self, figures: Mapping[str, float], seconds: float) -> None:
        """Adds `figures` to the next record; the time that they took does not count in the speed."""
        self._evaluated |= figures
        self._clock += seconds

    def write(self, step: int) -> None:
        values = [
            {key: float(value) for key, value in metrics.items()}
            for metrics in jax.device_get(self._pending)
        ]
        good = [value for value in values if not value["skipped"]]
        for step_before, value, index in zip(
            range(self._last, step), values, self._indices, strict=True
        ):
            self._skipped = self._skipped + 1 if value["skipped"] else 0
            if value["skipped"] and self._skipped <= MAX_NAMED:
                some = ", ".join(map(str, index[:16])) + (", ..." if len(index) > 16 else "")
                self._progress(
                    f"{self._name}: the loss of step {step_before} was not finite; skipped its batch, records {some}"
                )
        self._pending.clear()
        self._indices.clear()
        if self._skipped >= MAX_SKIPPED:
            raise Refusal(
                f"The loss of {self._name} has not been finite for {self._skipped} steps; the last checkpoint is whole: "
                "lower the learning rate, or look for bad data with `jen1 data validate`."
            )
        found = {
            key: [value[key] for value in good if not math.isnan(value[key])] for key in values[0]
        }
        means = {
            key: float(np.mean(some)) for key, some in found.items() if some
        }  # a batch without a task says nothing of it
        now = time.monotonic()
        speed = (step - self._timed_from) / max(now - self._clock, 1e-9)
        self._clock, self._timed_from, self._last = now, step, step
        means["skipped"] = sum(value["skipped"] for value in values)
        means |= {
            "learning_rate": float(self._schedule(step)),
            "steps_per_second": speed,
            "resident_gib": _resident_gib(),
        }
        evaluated, self._evaluated = self._evaluated, {}
        if self._writer is not None:
            self._writer.write(step, means | evaluated)
            terms = " ".join(
                f"{key.removeprefix('loss/')} {value:.3f}"
                for key, value in means.items()
                if "loss/" in key
            )
            left = (self._steps - step) / speed if speed > 0 else 0
            found = "".join(f"{key} {value:.3f}  " for key, value in evaluated.items())
            skipped = (
                f", {means['skipped']:.0f} steps skipped (non-finite)" if means["skipped"] else ""
            )
            self._progress(
                f"{self._name} {step}/{self._steps}  loss {means.get('loss', float('nan')):.4f} ({terms})  "
                f"{found}{speed:.2f} steps/s, {_duration(left)} left{skipped}"
            )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def _stop_signal():
    """Turns SIGINT and SIGTERM into a flag that the loop reads between steps; a second SIGINT is not held back."""
    received = []

    def handle(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        previous = {
            number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not the main thread: signals belong to whoever runs there
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
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )
