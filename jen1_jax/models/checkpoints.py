"""Saves and restores training states by Orbax.

A checkpoint holds the whole `TrainState` and a JSON record with the resolved configuration, the
fingerprints and a description of the data. It can be restored onto any mesh and any number of
processes, since each leaf is read into the sharding that the caller gives.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jen1_jax.files import AnyPath, anywhere
from jen1_numpy.errors import Refusal

# Largest part of an array that is stored, and so read, as a whole. On another mesh the shares of
# the devices have other borders, and at each a device reads at most this much for nothing.
CHUNK = 2**24  # bytes
HELD_OUT = "held_out_loss"


class Damaged(Refusal):
    """A checkpoint that cannot be read."""


class Checkpoints:
    """The checkpoints in one folder; with `keep`, for the process that saves them.

    Kept are the newest `keep`, those of every `keep_every` steps (0: none), and the one with the
    lowest held-out loss. What a process that was killed has left unfinished is deleted. Saving runs
    in the background; its errors are raised by `raise_failure`, the next `save` and `close`.
    """

    def __init__(self, directory: AnyPath, keep: int | None = None, keep_every: int = 0):
        where = anywhere(directory)
        self.directory = where.absolute() if isinstance(where, Path) else where
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: -metrics[HELD_OUT],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        kept = [policies.LatestN(keep or 1), best]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        context = ocp.Context()
        context.array.saving.storage_options.chunk_byte_size = CHUNK
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            context=context,
            # The training loop decides when to save; the default of Orbax saves continuously.
            save_decision_policy=ocp.training.save_decision_policies.SpecificStepsPolicy([]),
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=keep is not None,
        )
        self._saving: Any = None  # the last save, until its end has been seen

    @classmethod
    def existing(cls, directory: AnyPath, missing: str) -> "Checkpoints":
        """The checkpoints in `directory`; raises `Refusal` with `missing` if there are none."""
        if not anywhere(directory).is_dir():
            raise Refusal(missing)
        checkpoints = cls(directory)
        if checkpoints.latest is None:
            raise Refusal(missing)
        return checkpoints

    @classmethod
    def newest(cls, directory: AnyPath) -> int:
        """The step of the newest checkpoint; -1 if there is none or the folder does not exist."""
        if not anywhere(directory).is_dir():
            return -1
        checkpoints = cls(directory)
        latest = checkpoints.latest
        checkpoints.close()
        return -1 if latest is None else latest

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, if there is one."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints that were kept, oldest first."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the lowest held-out loss, if one has a loss."""
        losses = {
            each.step: each.metrics[HELD_OUT]
            for each in self._checkpointer.checkpoints
            if each.metrics
        }
        return min(losses, key=losses.__getitem__, default=None)

    def save(
        self, step: int, state, record: Mapping[str, Any], held_out_loss: float | None = None
    ) -> None:
        """Saves `state` and the JSON `record`; returns as soon as the arrays have been copied."""
        if step != self.latest:
            self.raise_failure()
            record = {**record, "checksums": checksums(state)}
            known = held_out_loss is not None and math.isfinite(held_out_loss)
            self._saving = self._checkpointer.save_checkpointables_async(
                step,
                {"state": state, "record": record},
                force=True,
                metrics={HELD_OUT: held_out_loss} if known else None,
            )

    def raise_failure(self) -> None:
        """Raises the error of a save that has failed in the background; does not wait for one."""
        saving, self._saving = self._saving, None
        if saving is not None:
            try:
                saving.result(timeout=0)
            except TimeoutError:  # it has not ended yet
                self._saving = saving

    def restore(
        self,
        abstract_state: PyTree,
        check: Callable[[Mapping[str, Any]], None] = lambda record: None,
        warn: Callable[[str], None] = print,
    ) -> tuple[Any, dict[str, Any]]:
        """The newest state that can be read, sharded as `abstract_state`, and its record.

        All processes call this with shapes and shardings, and get the state of the same step.
        `check` may refuse a record before its state is read. The folders of damaged checkpoints
        that are newer are renamed, so that training can save their steps again. Raises `Refusal`
        if no checkpoint can be read; then nothing is renamed.
        """
        self._checkpointer.wait()  # for a save in the background
        damaged: dict[int, Damaged] = {}
        for step in reversed(self.steps):
            try:
                record = self._load_together({"record": None}, step)["record"]
                check(record)
                state = self._load_together({"state": abstract_state}, step)
                if checksums(state["state"]) != record.pop("checksums", None):
                    raise self._damaged(step, OSError("it holds other numbers than were saved"))
            except Damaged as error:
                damaged[step] = error
                continue
            for bad, reason in damaged.items():
                self._set_aside(bad)
                warn(f"WARNING: {reason} It was renamed, and step {step} is used instead.")
            return state["state"], record
        raise Refusal(" ".join(map(str, damaged.values())))

    def _set_aside(self, step: int) -> None:
        folder = self.directory / str(step)
        if jax.process_index() == 0:
            folder.rename(folder.with_name(f"damaged-{step}-{uuid4().hex[:8]}"))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoint renamed")
        self._checkpointer.reload()

    def record(self) -> dict[str, Any]:
        """The record of the newest checkpoint."""
        return self._load({"record": None}, None)["record"]

    def shapes(self, trainable: str) -> PyTree:
        """The shapes of the parameters of one trainable in the newest checkpoint."""
        held = self._held(None)
        shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return jax.tree.map(shape, held[_averaged(held)][trainable])

    def restore_ema(
        self, trainable: str, abstract_params: PyTree, step: int | None = None
    ) -> tuple[PyTree, dict[str, Any]]:
        """The EMA parameters of one trainable, and the record.

        Without an EMA (`ema_decay=0`) they are the parameters themselves. They are those of the
        checkpoint at `step` (default: the newest), and lie where the shapes say, or on the first
        local device. Parameters that `abstract_params` lacks, the other trainables and the
        optimiser state are not read.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shaped = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding or device
            ),
            abstract_params,
        )
        kept = _averaged(self._held(step))
        content = {"state": {kept: {trainable: shaped}}, "record": None}
        loaded = self._load(content, step, partial_load=True)
        return loaded["state"][kept][trainable], loaded["record"]

    def _held(self, step: int | None) -> Mapping[str, Any]:
        """Shapes of the whole state of a checkpoint."""
        try:
            return self._checkpointer.metadata(step).metadata
        except _UNREADABLE as error:
            raise self._damaged(step, error) from error

    def _load(
        self, abstract_content: dict[str, Any], step: int | None, partial_load: bool = False
    ) -> dict[str, Any]:
        """Reads the parts of a checkpoint that are keys of `abstract_content`.

        Each process reads by itself: if one cannot, the others do not wait for it.
        """
        context, process = ocp.Context(), jax.process_index()
        context.pytree.loading.partial_load = partial_load
        if jax.process_count() > 1:
            context.multiprocessing_options.active_processes = {process}
            context.multiprocessing_options.primary_host = process
            context.multiprocessing_options.barrier_sync_key_prefix = f"process_{process}"
        try:
            with context:
                return self._checkpointer.load_checkpointables(step, abstract_content)
        except _UNREADABLE as error:
            raise self._damaged(step, error) from error

    def _load_together(self, abstract_content: dict[str, Any], step: int) -> dict[str, Any]:
        """As `_load`, but raises `Damaged` in all processes if one cannot read its share."""
        found, error = {}, None
        try:
            found = self._load(abstract_content, step)
        except Damaged as damaged:
            error = damaged
        failed = np.array(error is not None)
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(failed)
        if failed.any():
            processes = ", ".join(map(str, np.flatnonzero(failed)))
            raise error or self._damaged(step, OSError(f"processes {processes} cannot read it"))
        return found

    def _damaged(self, step: int | None, error: BaseException) -> Damaged:
        while error.__cause__ is not None:
            error = error.__cause__
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        folder = self.directory / str(self.latest if step is None else step)
        return Damaged(f"The checkpoint {folder} cannot be read for this configuration: {reason}.")

    def close(self) -> None:
        """Waits until everything is saved."""
        self._checkpointer.close()


def checksums(state: PyTree) -> dict[str, int]:
    """A sum of the bits of each array: a storage that returns other numbers gives no error."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(total)
        for path, total in jax.tree.leaves_with_path(jax.device_get(_sums(state)))
    }


@jax.jit
def _sums(state: PyTree) -> PyTree:
    bits = lambda leaf: jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    return jax.tree.map(lambda leaf: jnp.sum(bits(leaf), dtype=jnp.uint32), state)


_UNREADABLE = (ValueError, KeyError, OSError)  # what Orbax raises


def _averaged(held: Mapping[str, Any]) -> str:
    """Which parameters of a state are the trained ones."""
    return "ema" if held.get("ema") else "params"
