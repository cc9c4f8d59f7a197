"""Checkpoints by Orbax, behind the three calls that the project needs: save, restore, and the EMA alone.

A checkpoint holds the whole `TrainState` and a JSON record: the resolved configuration, fingerprints and what the data were. It
restores onto any mesh, because every leaf is read into the sharding that is asked for.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from jen1_jax.errors import Refusal


class Checkpoints:
    """The checkpoints in one folder; saving runs in the background and its errors surface at the next save or at `close`."""

    def __init__(self, directory: Path, keep: int = 1):
        self.directory = Path(directory).absolute()
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            # The loop decides when to save; Orbax's own default would save continuously.
            save_decision_policy=ocp.training.save_decision_policies.SpecificStepsPolicy([]),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        )

    @classmethod
    def existing(cls, directory: Path, missing: str) -> "Checkpoints":
        """Those of a trained part; raises `Refusal` with the sentence `missing` where there are none."""
        if not Path(directory).is_dir():
            raise Refusal(missing)
        checkpoints = cls(directory)
        if checkpoints.latest is None:
            raise Refusal(missing)
        return checkpoints

    @classmethod
    def newest(cls, directory: Path) -> int:
        """Step of the newest checkpoint in a folder that need not exist; -1 where there is none."""
        if not Path(directory).is_dir():
            return -1
        checkpoints = cls(directory)
        latest = checkpoints.latest
        checkpoints.close()
        return -1 if latest is None else latest

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    @property
    def steps(self) -> list[int]:
        """Those of all checkpoints that were kept, oldest first."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(self, step: int, state, record: Mapping[str, Any]) -> None:
        """Saves `state` and the JSON `record`; returns as soon as the arrays have been copied."""
        if step != self.latest:
            self._checkpointer.save_checkpointables_async(
                step, {"state": state, "record": dict(record)}, force=True
            )

    def record(self) -> dict[str, Any]:
        """That of the newest checkpoint, without its state."""
        return self._checked(
            lambda: self._checkpointer.load_checkpointables(None, {"record": None})
        )["record"]

    def restore(self, abstract_state) -> tuple[Any, dict[str, Any]]:
        """The newest state, laid out as `abstract_state` (shapes with shardings), and its record."""
        loaded = self._load(abstract_state)
        return loaded["state"], loaded["record"]

    def restore_ema(
        self, player: str, abstract_params: PyTree, step: int | None = None
    ) -> tuple[PyTree, dict[str, Any]]:
        """One player's EMA parameters of the checkpoint at `step` (default: the newest), on the first device, and its record.

        Nothing else is read: neither the other players nor the optimiser need to be known.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shaped = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            abstract_params,
        )
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = self._load({"ema": {player: shaped}}, step)
        return loaded["state"]["ema"][player], loaded["record"]

    def _load(self, abstract_state, step: int | None = None) -> dict[str, Any]:
        return self._checked(
            lambda: self._checkpointer.load_checkpointables(
                step, {"state": abstract_state, "record": None}
            )
        )

    def _checked(self, load: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return load()
        except (ValueError, KeyError, FileNotFoundError, OSError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise Refusal(
                f"The checkpoint in {self.directory} cannot be read for this configuration: {first}"
            ) from error

    def close(self) -> None:
        """Waits for what is being saved."""
        self._checkpointer.close()
