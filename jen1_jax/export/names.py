"""The names and layouts of parameters in PyTorch.

A parameter keeps the names on its way, joined by dots. Of a module that `unet.scan` stacks, each
block has a module of its own, with its number at the end of its name, as without `unet.scan`. A
`kernel` is stored as PyTorch's `weight`: [in, out] becomes [out, in], and [taps, in, out] becomes
[out, in, taps]. An `embedding` is a `weight`, too. All else stays as it is.
"""

from typing import NamedTuple

import numpy as np

from jen1_jax.unet import STACKED

Path = tuple[str, ...]


class Place(NamedTuple):
    """Where a parameter, or one block of a stacked one, is stored: its name and its block."""

    name: str
    block: int | None


def places(path: Path, shape: tuple[int, ...]) -> list[Place]:
    """The names of the parameter at `path`, of the shape `shape`: several for stacked blocks."""
    *modules, leaf = path
    leaf = "weight" if leaf in ("kernel", "embedding") else leaf
    for level, module in enumerate(modules):
        if STACKED.search(module):
            before, after = modules[:level], modules[level + 1 :]
            return [
                Place(".".join([*before, f"{module}_{block}", *after, leaf]), block)
                for block in range(shape[0])
            ]
    return [Place(".".join([*modules, leaf]), None)]


def to_torch(path: Path, array: np.ndarray, block: int | None) -> np.ndarray:
    """The array as PyTorch has it, of one block if the parameter is stacked."""
    array = array if block is None else array[block]
    return np.ascontiguousarray(array.T if path[-1] == "kernel" else array)


def from_torch(path: Path, arrays: list[np.ndarray], stacked: bool) -> np.ndarray:
    """The parameter at `path` of its arrays in PyTorch, one for each block if it is stacked."""
    back = [array.T if path[-1] == "kernel" else array for array in arrays]
    # In the order of its own shape, in which files are written: `stack` keeps that of its parts.
    return np.ascontiguousarray(np.stack(back) if stacked else back[0])


def stored_shape(path: Path, shape: tuple[int, ...], block: int | None) -> tuple[int, ...]:
    """The shape of `to_torch`'s result."""
    shape = shape if block is None else shape[1:]
    return shape[::-1] if path[-1] == "kernel" else shape
