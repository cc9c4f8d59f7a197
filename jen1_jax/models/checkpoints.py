"""Saves and restores training states by Orbax.

A checkpoint holds the whole `TrainState` and a JSON record with the resolved configuration, the
fingerprints and a description of the data. It can be restored onto any mesh, since each leaf is
read into the sharding that the caller gives.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jen1_jax.errors import Refusal

UNREADABLE = (ValueError, KeyError, OSError)  # what Orbax raises for a damaged checkpoint


class Checkpoints:
    """The checkpoints in one folder; with `keep`, for the process that saves them.

    The newest `keep` are kept, and what a process that was killed has left unfinished is deleted.
    Saving runs in the background; its errors are raised by the next `save` or by `close`.
    """

    def __init__(self, directory: Path, keep: int | None = None):
        self.directory = Path(directory).absolute()
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            # The training loop decides when to save; the default of Orbax saves continuously.
            save_decision_policy=ocp.training.save_decision_policies.SpecificStepsPolicy([]),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=keep is not None,
        )

    @classmethod
    def existing(cls, directory: Path, missing: str) -> "Checkpoints":
        """The checkpoints in `directory`; raises `Refusal` with `missing` if there are none."""
        if not Path(directory).is_dir():
            raise Refusal(missing)
        checkpoints = cls(directory)
        if checkpoints.latest is None:
            raise Refusal(missing)
        return checkpoints

    @classmethod
    def newest(cls, directory: Path) -> int:
        """The step of the newest checkpoint; -1 if there is none or the folder does not exist."""
        if not Path(directory).is_dir():
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

    def save(self, step: int, state, record: Mapping[str, Any]) -> None:
        """Saves `state` and the JSON `record`; returns as soon as the arrays have been copied."""
        if step != self.latest:
            content = {"state": state, "record": dict(record)}
            self._checkpointer.save_checkpointables_async(step, content, force=True)

    def record(self) -> dict[str, Any]:
        """The record of the newest checkpoint; the state is not read."""
        return self._load({"record": None})["record"]

    def restore(self, abstract_state) -> tuple[Any, dict[str, Any]]:
        """The newest state, sharded as `abstract_state` (shapes with shardings), and its record."""
        self._checkpointer.wait()  # for a save in the background
        loaded = self._load({"state": abstract_state, "record": None})
        return loaded["state"], loaded["record"]

    def shapes(self, trainable: str) -> PyTree:
        """The shapes of the parameters of one trainable in the newest checkpoint."""
        try:
            found = self._checkpointer.metadata().metadata["ema"]
        except UNREADABLE as error:
            raise self._refusal(error) from error
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), found[trainable]
        )

    def restore_ema(
        self, trainable: str, abstract_params: PyTree, step: int | None = None
    ) -> tuple[PyTree, dict[str, Any]]:
        """The EMA parameters of one trainable, and the record.

        They are those of the checkpoint at `step` (default: the newest), and lie where the shapes
        say, or on the first local device. Parameters that `abstract_params` lacks, the other
        trainables and the optimiser state are not read.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shaped = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding or device
            ),
            abstract_params,
        )
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = self._load({"state": {"ema": {trainable: shaped}}, "record": None}, step)
        return loaded["state"]["ema"][trainable], loaded["record"]

    def _load(self, abstract_content: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        """Reads the parts of a checkpoint that are keys of `abstract_content`."""
        try:
            return self._checkpointer.load_checkpointables(step, abstract_content)
        except UNREADABLE as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> Refusal:
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        return Refusal(
            f"The checkpoint in {self.directory} cannot be read for this configuration: {reason}"
        )

    def close(self) -> None:
        """Waits until everything is saved."""
        self._checkpointer.close()
