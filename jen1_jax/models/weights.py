"""A run's trained parameters: from its newest checkpoint, or from the file of a release.

A release is a run folder that holds float16 weights (RUN/PART/weights.safetensors) instead of the
checkpoints, which also hold the optimiser and the parameters before the average.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jen1_jax.errors import Refusal
from jen1_jax.files import whole_file
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run


def check(run: Run, part: str, missing: str) -> None:
    """Raises `Refusal` with `missing` if this part of the run has no parameters."""
    if not run.weights(part).is_file():
        Checkpoints.existing(run.checkpoints(part), missing).close()


def restore(run: Run, part: str, shapes: PyTree) -> tuple[PyTree, Mapping[str, Any]]:
    """The averaged parameters (EMA) of a part of the run, in float32, and the record beside them.

    Raises `Refusal` for a file that does not hold parameters of these `shapes`.
    """
    path = run.weights(part)
    if path.is_file():
        return _read(path, shapes)
    checkpoints = Checkpoints(run.checkpoints(part))
    found = checkpoints.restore_ema(part, shapes)
    checkpoints.close()
    return found


def half(params: PyTree) -> PyTree:
    """The parameters as a release has them: rounded to float16."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), jax.device_get(params))


def write(path: Path, params: PyTree, record: Mapping[str, Any]) -> None:
    """Writes parameters under their paths, whole or not at all."""
    flat = {"/".join(names): np.asarray(leaf) for names, leaf in flatten_dict(params).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_bytes(save(flat, {"record": json.dumps(record)}))


def _read(path: Path, shapes: PyTree) -> tuple[PyTree, Mapping[str, Any]]:
    wanted, params = flatten_dict(shapes), {}
    try:
        with safe_open(path, "numpy") as file:
            record = json.loads(file.metadata()["record"])
            names = {"/".join(names): names for names in wanted}
            if set(file.keys()) != set(names):
                raise ValueError("it holds other parameters")
            for name, place in names.items():
                if tuple(file.get_slice(name).get_shape()) != wanted[place].shape:
                    raise ValueError(f"{name} has another shape")
                params[place] = file.get_tensor(name).astype(np.float32)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(
            f"{path} does not hold the parameters of this run's configuration ({error}); copy the "
            "release again."
        ) from None
    return jax.device_put(unflatten_dict(params), jax.local_devices()[0]), record
