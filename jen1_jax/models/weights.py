"""A run's trained parameters: from its newest checkpoint, or from the file of a release.

A release is a run folder that holds float16 weights (RUN/PART/weights.safetensors) instead of the
checkpoints, which also hold the optimiser and the parameters before the average.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jen1_jax.files import AnyPath, fetched, whole_file
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal


def check(run: Run, part: str, missing: str) -> None:
    """Raises `Refusal` with `missing` if this part of the run has no parameters."""
    if not run.weights(part).is_file():
        Checkpoints.existing(run.checkpoints(part), missing).close()


def step_of(run: Run, part: str, name: str) -> int | None:
    """The step of the checkpoint `name`: a number, "best" by held-out loss, or "" for the newest.

    Raises `Refusal` for one that the run does not have.
    """
    if not name:
        return None
    kept: dict[str, int | None] = {}
    if not run.weights(part).is_file():
        with closing(Checkpoints(run.checkpoints(part))) as checkpoints:
            kept = {"best": checkpoints.best}
            kept |= {str(step): step for step in checkpoints.steps}
    if kept.get(name) is None:
        known = ", ".join(key for key, step in kept.items() if step is not None)
        raise Refusal(f"{run.path} has no checkpoint {name!r}; it has {known or 'none to choose'}.")
    return kept[name]


def held(run: Run, part: str) -> PyTree:
    """The shapes of all parameters that a part of the run has."""
    path = run.weights(part)
    if path.is_file():
        return _shapes(path)
    with closing(Checkpoints(run.checkpoints(part))) as checkpoints:
        return checkpoints.shapes(part)


def restore(
    run: Run, part: str, shapes: PyTree, step: int | None = None
) -> tuple[PyTree, Mapping[str, Any]]:
    """The averaged parameters (EMA) of a part of the run, in float32, and the record beside them.

    They are those of the checkpoint at `step` (default: the newest), or of the release. They lie
    where `shapes` say, or on the first local device. Raises `Refusal` for a file that does not hold
    parameters of these `shapes`.
    """
    path = run.weights(part)
    if path.is_file():
        return _read(path, shapes)
    with closing(Checkpoints(run.checkpoints(part))) as checkpoints:
        return checkpoints.restore_ema(part, shapes, step)


def half(params: PyTree) -> PyTree:
    """The parameters as a release has them: rounded to float16."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), jax.device_get(params))


def write(path: AnyPath, params: PyTree, record: Mapping[str, Any]) -> None:
    """Writes parameters under their paths, whole or not at all."""
    # The library writes memory as it lies, whatever the order of an array's axes there.
    flat = {"/".join(n): np.ascontiguousarray(leaf) for n, leaf in flatten_dict(params).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_bytes(save(flat, {"record": json.dumps(record)}))


def _shapes(path: AnyPath) -> PyTree:
    with _opened(path) as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    shape = lambda sizes: jax.ShapeDtypeStruct(tuple(sizes), np.float32)
    return unflatten_dict({tuple(name.split("/")): shape(found[name]) for name in found})


def _read(path: AnyPath, shapes: PyTree) -> tuple[PyTree, Mapping[str, Any]]:
    wanted, params = flatten_dict(shapes), {}
    with _opened(path) as file:
        record = json.loads(file.metadata()["record"])
        for names, leaf in wanted.items():
            array = file.get_tensor("/".join(names))
            if array.shape != leaf.shape:
                raise ValueError(f"{'/'.join(names)} has another shape")
            params[names] = _placed(array.astype(np.float32), leaf.sharding)
    return unflatten_dict(params), record


def _placed(array: np.ndarray, sharding: Sharding | None) -> jax.Array:
    """The array on the devices of `sharding`, or on the first local device."""
    sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@contextmanager
def _opened(path: AnyPath) -> Iterator[Any]:
    """The file; what fails in the block, since the file is damaged, becomes a `Refusal`."""
    try:
        with fetched(path) as copy, safe_open(copy, "numpy") as file:
            yield file
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(
            f"{path} does not hold the parameters of this run's configuration ({error}); copy the "
            "release again."
        ) from None
