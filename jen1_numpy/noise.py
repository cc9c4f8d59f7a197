"""The noise from which windows start, given instead of drawn: arrays, a function, or a file.

The random numbers of JAX and PyTorch differ. The same noise gives the same music in both.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jen1_numpy.errors import Refusal
from jen1_numpy.files import whole_file

# One array [frames, k] for each window, in the order of sampling; or a function of the piece and of
# its window, both counted from 0.
Noise = Sequence[np.ndarray] | np.ndarray | Callable[[int, int], np.ndarray]


def by_window(
    noise: Noise, frames: int, k: int
) -> Callable[[int, int], Float32[np.ndarray, "frames k"]]:
    """A function of the piece and its window that raises `Refusal` for missing or unfit noise."""
    if not callable(noise):
        arrays = iter(noise)
        noise = lambda piece, window: next(arrays, None)

    def start(piece: int, window: int) -> Float32[np.ndarray, "frames k"]:
        found = noise(piece, window)
        if found is None:
            raise Refusal("There is less noise than there are windows; give one array for each.")
        array = np.asarray(found, np.float32)
        if array.shape != (frames, k):
            raise Refusal(
                f"The noise of window {window} of piece {piece} has the shape {list(array.shape)}; "
                f"it must be {[frames, k]}."
            )
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
