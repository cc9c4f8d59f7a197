"""The loop around the step: batches in, checkpoints and metrics out.

Invariants:
- The batch of step s depends on s alone, and so do the step's random numbers. So training can go on
  from a checkpoint that holds nothing but the state.
- The host does not wait for the step that it has just started; it logs what earlier steps computed.
  It waits at a checkpoint, where the state is copied, and where a hook reads it.
- Metrics describe the parameters before the update of their step.
- A checkpoint at step s holds the state after s batches, or after a roll-back an earlier state that
  goes on with batch s. None is saved while steps are skipped, but by the last step and by a signal.
- All processes decide alike: by the state, by metrics that they all have, or by what they agree on.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.batch import Clips
from jen1_jax.files import AnyPath
from jen1_jax.models.checkpoints import HELD_OUT, Checkpoints
from jen1_jax.models.run import Run
from jen1_jax.sharding import local_rows, put, put_batch, shardings
from jen1_jax.training.hooks import Hook, Profiler
from jen1_jax.training.log import Log
from jen1_jax.training.start import begin
from jen1_jax.training.step import Trainable, TrainState, jit_step
from jen1_jax.training.survival import Interrupted, RollBack, Watchdog, agreed_stop
from jen1_numpy.errors import Refusal


@runtime_checkable
class Data(Protocol):
    """What training reads, as numpy arrays."""

    description: Mapping[str, Any]  # what the data are, for the checkpoint's record

    def captions(self) -> list[str]:
        """The distinct captions of the training split."""

    def batches(
        self, start_step: int, around: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[Clips]:
        """Endless training batches from `start_step` on; batch s is the same from any start.

        Of each batch only the `rows` are read, those of this process (default: all). Of waveforms
        `around` samples of audio on both sides come with each clip, if the data have them.
        """

    def sweep(
        self, split: str, around: int = 0, limit: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Clips]:
        """One pass over a split, in order; the last batch may be smaller.

        With a `limit` it reads at most so many examples, evenly spread. A `share` (i, n) is that of
        process i of n; together the n shares are the whole pass.
        """


def fit(
    name: str,
    *,
    directory: AnyPath,
    trainables: Mapping[str, Trainable],
    draw: Callable,
    batches: Callable[[int, int, Sequence[int]], Iterator[Mapping[str, Any]]],
    training: ConfigDict,
    schedule: Callable[[int], Any],
    mesh: Mesh,
    placement: ConfigDict,
    seed: int,
    audio_seconds: float,
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
        batches: (first step, number of its batch, rows of each batch that this process loads) ->
            these rows of what `draw` takes. Step and number are the same unless the batch size has
            changed (resume.py). A batch's `index` stays on the host: it names the examples of a
            batch that is skipped.
        training: a section `train_*`.
        placement: the section `mesh`.
        audio_seconds: of an example, for the speed.
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
        Refusal: steps are skipped again and again, or the batch does not fit the mesh.
    """
    for field in ("log_every", "checkpoint_every", "microbatches", "roll_back_after"):
        if training[field] < 1:
            raise Refusal(f"{field} must be at least 1; {training[field]} is not.")
    if placement.reduce_dtype not in ("float32", "bfloat16"):
        raise Refusal(
            f"mesh.reduce_dtype is float32 or bfloat16; {placement.reduce_dtype!r} is not."
        )
    if not 0 <= training.ema_decay < 1 or 0 < training.largest_jump <= 1:
        raise Refusal(
            "ema_decay lies between 0 and 1, and largest_jump is 0 or above 1; "
            f"{training.ema_decay} and {training.largest_jump} do not fit."
        )
    rows = local_rows(mesh, training.batch_size, training.microbatches)
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
            rules=placement.rules,
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

        step_fn = jit_step(
            trainables,
            draw,
            training,
            mesh=mesh,
            layout=layout,
            placement=placement,
            seed=seed,
        )
        frozen = put(frozen, shardings(frozen, mesh, placement.rules))
        with agreed_stop(mesh) as stopped, ExitStack() as stack:
            stack.callback(checkpoints.close)
            log = Log(
                name,
                directory,
                start,
                mesh=mesh,
                training=training,
                schedule=schedule,
                audio_seconds=audio_seconds,
                progress=progress,
            )
            stack.callback(log.close)
            watchdog = Watchdog(directory, training.hang_after)
            hooks = (*hooks, Profiler(directory, *training.profile), watchdog)
            for hook in hooks:
                hook.start(start)
                stack.callback(hook.close)
            roll_back = RollBack(name, checkpoints, progress)
            stream, due = batches(start, start + position["offset"], rows.tolist()), False
            for step in range(start, training.steps):
                with log.timed("data"):
                    batch = dict(next(stream))
                    index = np.asarray(batch.pop("index", ()))
                    batch = put_batch(batch, mesh, rows, training.batch_size)
                if step == start:
                    log.utilisation.count(trainables, draw, state, batch, frozen)
                state, metrics = step_fn(state, batch, frozen)
                done, last, stop = step + 1, step + 1 == training.steps, stopped()
                if step > start and step % training.log_every == 0:
                    log.write(step)  # waits for earlier steps alone, not for this one
                    if log.skipped >= training.roll_back_after:
                        state = roll_back(state, done)
                        log.skipped = 0
                log.add(metrics, index)
                due = due or done % training.checkpoint_every == 0
                checkpoints.raise_failure()
                if stop:  # at once, since there may be little time
                    checkpoints.save(done, state, record)
                elif last or (due and not metrics["skipped"]):
                    due, found = False, {}
                    if held_out:
                        jax.block_until_ready(state)
                        with log.timed("evaluation"):
                            found = {HELD_OUT: float(held_out(state.averaged, frozen))}
                        log.add_figures(found)
                    with log.timed("checkpoint"):
                        checkpoints.save(done, state, record, found.get(HELD_OUT))
                for hook in hooks:
                    hook.after_step(done)
                    if hook.due(done) and not stop:
                        jax.block_until_ready(state)
                        with log.timed("evaluation"):
                            log.add_figures(hook.evaluate(done, state))
                if last or stop:
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
