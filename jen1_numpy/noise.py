"""The noise from which windows start, given instead of drawn: arrays, a function, or a file.

The random numbers of JAX and PyTorch differ. The same noise gives the same music in both.
"""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jen1_numpy.errors import Refusal
from jen1_numpy.files import whole_file

LARGEST = 2**30  # bytes of a file; an hour of music needs a tenth

# One array [frames, k] for each window, in the order of sampling; or a function of the piece and of
# its window, both counted from 0.
Noise = list[np.ndarray] | tuple[np.ndarray, ...] | np.ndarray | Callable[[int, int], np.ndarray]


def by_window(
    noise: Any, frames: int, k: int
) -> Callable[[int, int], Float32[np.ndarray, "frames k"]]:
    """A function of the piece and its window; raises `Refusal` for what is no `Noise` or unfit."""
    if not callable(noise):
        if not isinstance(noise, list | tuple | np.ndarray):
            raise Refusal(f"{noise!r} is no noise; give an array of [{frames}, {k}] for a window.")
        given = dict(enumerate(noise))
        order = count()
        noise = lambda piece, window: given.get(next(order))

    def start(piece: int, window: int) -> Float32[np.ndarray, "frames k"]:
        found, which = noise(piece, window), f"window {window} of piece {piece}"
        if found is None:
            raise Refusal(
                f"The noise ends before {which}; give an array of [{frames}, {k}] for each window."
            )
        try:
            with np.errstate(over="ignore"):  # it becomes infinity
                array = np.asarray(found, np.float32)
        except (TypeError, ValueError):
            raise Refusal(f"The noise of {which} is no array of numbers.") from None
        if array.shape != (frames, k):
            raise Refusal(
                f"The noise of {which} has the shape {list(array.shape)}; it must be {[frames, k]}."
            )
        if not np.isfinite(array).all():
            raise Refusal(f"The noise of {which} holds NaN or infinity.")
        return array

    return start


def write_noise(path: str | os.PathLike, noise: Float[np.ndarray, "windows frames k"]) -> None:
    """Writes the noise of a piece's windows as the tensor `noise` of a safetensors file."""
    with whole_file(path) as partial:
        save_file({"noise": np.ascontiguousarray(noise, np.float32)}, partial)


def read_noise(path: str | os.PathLike) -> Float32[np.ndarray, "windows frames k"]:
    """Reads what `write_noise` wrote; raises `Refusal` for any other file."""
    try:
        if not Path(path).is_file():  # a pipe would block
            raise FileNotFoundError("there is no such file")
        if Path(path).stat().st_size > LARGEST:
            raise OSError(f"it is larger than {LARGEST} bytes")
        with safe_open(path, "numpy") as file:
            kind, shape = file.get_slice("noise").get_dtype(), file.get_slice("noise").get_shape()
            if kind != "F32" or len(shape) != 3:
                raise SafetensorError(f"its noise is {kind} {shape}")
            return file.get_tensor("noise")
    except (OSError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise Refusal(
            f"{path} holds no noise ({reason}); give a safetensors file with the float32 tensor "
            "noise [windows, frames, k]."
        ) from None
