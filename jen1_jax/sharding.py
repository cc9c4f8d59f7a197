"""The mesh of devices, and how the batch and the parameters are sharded over it.

The same code runs on one device and on a pod.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.errors import Refusal

BATCH_AXES = ("data", "fsdp")  # parameters are split over fsdp and tensor


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh.axes` over `devices` (default: all).

    An axis of size -1 gets all devices that the other axes do not use. Raises `Refusal` if the
    sizes do not fit the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(config.mesh.axes)
    fixed = math.prod(size for size in sizes.values() if size > 0)
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or len(devices) % fixed or (not free and fixed != len(devices)):
        raise Refusal(
            f"The mesh {sizes} does not fit {len(devices)} devices; choose sizes whose product is "
            "that number, with at most one -1."
        )
    sizes.update({name: len(devices) // fixed for name in free})
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )


def shardings(tree, mesh: Mesh, rules: Sequence[tuple[str, Sequence[str]]]):
    """A `NamedSharding` for every leaf of `tree` (arrays or shapes).

    A rule is (pattern, mesh axes). The first rule whose pattern is found in the path of the leaf is
    used; its axes belong to the last dimensions of the leaf, in reverse order. An axis that does
    not divide its dimension is left out. A leaf without a rule is replicated. The paths of
    optimiser moments and EMA contain the path of their parameter, so they are sharded like it.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = next((axes for pattern, axes in rules if re.search(pattern, name)), ())
        spec: list[str | None] = [None] * leaf.ndim
        for dimension, axis in zip(reversed(range(leaf.ndim)), axes, strict=False):
            if axis and leaf.shape[dimension] % mesh.shape[axis] == 0:
                spec[dimension] = axis
        return NamedSharding(mesh, P(*spec))

    return jax.tree_util.tree_map_with_path(place, tree)


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """What the compiler is told about a training step on `mesh`.

    Of a TPU's, that it computes the gradient of a sharded kernel at once and then scatters the sum.
    By default it cuts the product into a loop of permutes, which is slower and sums in bfloat16.
    """
    if mesh.devices.flat[0].platform != "tpu":
        return {}
    return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def local_layout(config: ConfigDict) -> Callable:
    """The layout of parameters that each process uses alone, on its own devices.

    The result is a function from shapes to shardings by `config.mesh.rules`, where all local
    devices form the axis `fsdp`. It serves the frozen text encoder, which cannot use the global
    mesh: each process embeds other captions.
    """
    axes = dict.fromkeys(config.mesh.axes, 1) | {"fsdp": jax.local_device_count()}
    devices = np.array(jax.local_devices()).reshape(*axes.values())
    mesh = Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    return partial(shardings, mesh=mesh, rules=config.mesh.rules)


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """The global batch on the mesh, from the part of this process; arrays are split by examples."""
    sharding = NamedSharding(mesh, P(BATCH_AXES))
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), batch)
