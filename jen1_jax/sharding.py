"""The mesh of devices, and how the batch and the parameters are sharded over it.

The same code runs on one device and on a pod.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree
from ml_collections import ConfigDict

from jen1_numpy.errors import Refusal

BATCH_AXES = ("data", "fsdp")  # parameters are split over fsdp and tensor


def make_mesh(config: ConfigDict, devices: Sequence | None = None) -> Mesh:
    """The mesh of `config.mesh.axes` over `devices` (default: all).

    An axis of size -1 gets all devices that the other axes do not use. Devices of several TPU
    slices are joined along `data`, since the network between slices is slow and only gradients
    cross this axis. Raises `Refusal` if the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(config.mesh.axes)
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise Refusal(f"The sizes of mesh.axes are at least 1, or -1 for the rest, not {sizes}.")
    fixed = math.prod(size for size in sizes.values() if size > 0)
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or len(devices) % fixed or (not free and fixed != len(devices)):
        raise Refusal(
            f"The mesh {sizes} does not fit {len(devices)} devices; choose sizes whose product is "
            "that number, with at most one -1."
        )
    sizes.update({name: len(devices) // fixed for name in free})
    names, types = tuple(sizes), (AxisType.Auto,) * len(sizes)
    slices = len({getattr(each, "slice_index", 0) for each in devices if each.platform == "tpu"})
    # An axis of 16 chips in a torus of 8 x 8 x 8 needs a part of a dimension.
    split = {"allow_split_physical_axes": True}
    if slices <= 1:
        arranged = create_device_mesh(tuple(sizes.values()), devices, **split)
        return Mesh(arranged, names, axis_types=types)
    if sizes["data"] % slices:
        raise Refusal(
            f"The mesh {sizes} does not fit {slices} slices; set mesh.axes.data to a multiple of "
            f"{slices}."
        )
    within, across = sizes | {"data": sizes["data"] // slices}, {"data": slices}
    arranged = create_hybrid_device_mesh(
        tuple(within.values()),
        tuple(across.get(name, 1) for name in names),
        devices,
        **split,
    )
    return Mesh(arranged, names, axis_types=types)


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


def _sizes() -> dict[str, int]:
    """The sizes of the mesh axes over which the compiler splits arrays."""
    mesh = jax.sharding.get_abstract_mesh()
    return {name: size for name, size in mesh.shape.items() if name not in mesh.manual_axes}


def constrain(x: Array, axis: int = 0) -> Array:
    """`x`, with its dimension `axis` split over the batch axes of the mesh, and the others whole.

    Without it the compiler may move activations between the devices instead of weights. Without a
    mesh, or where the mesh does not divide the dimension, `x` is unchanged.
    """
    shape = _sizes()
    shares = math.prod(shape.get(name, 1) for name in BATCH_AXES)
    if shares == 1 or x.shape[axis] % shares:
        return x
    return jax.lax.with_sharding_constraint(x, P(*[None] * axis, BATCH_AXES))


def gathered(kernel: Array) -> Array:
    """A kernel for a product: whole on every device, but for its features along `tensor`."""
    shape = _sizes()
    if math.prod(shape.values()) == 1:
        return kernel
    features = None if kernel.shape[-1] % shape.get("tensor", 1) else "tensor"
    return jax.lax.with_sharding_constraint(kernel, P(*[None] * (kernel.ndim - 1), features))


def split_gradients(
    gradients: Callable[[Array, Array, Array], tuple[Array, Array]],
    x: Array,
    kernel: Array,
    g: Array,
) -> tuple[Array, Array]:
    """`gradients(x, kernel, g)`, those of `x` and of the kernel, each device for its own examples.

    Only the sum over examples needs other devices. It is asked for as a reduce-scatter over `fsdp`
    along the kernel's second last dimension, if that can be split: left to itself, the TPU's
    compiler sends each device the whole gradient. (On a slice without closed rings, like v5e:4x4,
    it still does.)
    """
    shape = _sizes()
    shares = math.prod(shape.get(name, 1) for name in BATCH_AXES)
    if shares == 1 or len(x) % shares:
        return gradients(x, gathered(kernel), g)
    rows = kernel.ndim - 2
    splits = kernel.shape[rows] % shape["fsdp"] == 0

    def part(x, kernel, g):
        dx, dkernel = gradients(x, kernel, g)
        if not splits:
            return dx, jax.lax.psum(dkernel, BATCH_AXES)
        dkernel = jax.lax.psum_scatter(dkernel, "fsdp", scatter_dimension=rows, tiled=True)
        return dx, jax.lax.psum(dkernel, "data")

    # With an axis of size 1 left out, XLA on a CPU fails to sum bfloat16.
    axes = {name for name, size in shape.items() if name in BATCH_AXES or size == 1}
    examples, stored = P(BATCH_AXES), P(*[None] * rows, "fsdp" if splits else None)
    return jax.shard_map(
        part,
        in_specs=(examples, P(), examples),
        out_specs=(examples, stored),
        axis_names=axes,
        check_vma=False,
    )(x, gathered(kernel), g)


_reduce_dtype = ContextVar("reduce_dtype", default="float32")


@contextmanager
def reducing_in(dtype: str) -> Iterator[None]:
    """While gradients are traced within it, those of kernels are summed over devices in `dtype`."""
    token = _reduce_dtype.set(dtype)
    try:
        yield
    finally:
        _reduce_dtype.reset(token)


def gradient_dtype(x: Array) -> jnp.dtype:
    """The type in which the gradient of a kernel is computed that multiplies `x`."""
    return jnp.promote_types(x.dtype, _reduce_dtype.get())


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


def local_rows(
    mesh: Mesh, batch_size: int, microbatches: int = 1, process: int | None = None
) -> Int[np.ndarray, " rows"]:
    """The rows of the global batch that a process (default: this one) loads, in rising order.

    A device computes the rows of its place along `BATCH_AXES`. `jax.make_mesh` orders devices by
    the network between them, so that these need not be a process's turn among the processes, and
    processes that differ along other axes load the same rows. Raises `Refusal` if the batch cannot
    be split.
    """
    shares = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size % (shares * microbatches):
        raise Refusal(
            f"A batch of {batch_size} cannot be split into {shares * microbatches} parts (mesh "
            f"axes {' x '.join(BATCH_AXES)} x microbatches); set batch_size to a multiple, or give "
            "devices to mesh.axes.tensor."
        )
    process = jax.process_index() if process is None else process
    first = [mesh.axis_names.index(axis) for axis in BATCH_AXES]
    by_share = np.moveaxis(mesh.devices, first, range(len(first))).reshape(shares, -1)
    own = [any(device.process_index == process for device in devices) for devices in by_share]
    return np.arange(batch_size).reshape(shares, -1)[own].ravel()


def put_batch(batch: PyTree, mesh: Mesh, rows: Int[np.ndarray, " rows"], batch_size: int) -> PyTree:
    """The global batch on the mesh, split by examples.

    `batch` holds this process's `rows`, as `local_rows` gives them.
    """
    sharding = NamedSharding(mesh, P(BATCH_AXES))

    def put(array):
        if len(array) != len(rows):
            raise ValueError(f"the data gave {len(array)} rows for the {len(rows)} of this process")

        def part(index):
            start, stop, _ = index[0].indices(batch_size)
            first = np.searchsorted(rows, start)
            return array[first : first + stop - start]

        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(put, batch)


def put(tree: PyTree, layout: PyTree) -> PyTree:
    """Arrays that each process holds whole, in the shardings of `layout`."""

    def place(leaf, sharding):
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, jax.device_get(tree), layout)
