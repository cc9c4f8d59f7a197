"""Reads a model's folder in Hugging Face's format: its layout and its weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open

from jen1_numpy.errors import Refusal
from jen1_numpy.folder import weight_files

T = TypeVar("T")
MOST_LAYERS = 256  # the shapes of more would take very long to compute


def layout(kind: type[T], values: Mapping, origin: str) -> T:
    """The dataclass `kind` from its fields in a parsed config.json.

    Refuses, by the name `origin`, a field that is missing or is no number above 0.
    """
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    values = {name: values[name] for name in known if name in values}
    for name, value in values.items():
        if not isinstance(value, int if known[name] is int else (int, float)) or value <= 0:
            raise Refusal(
                f"{origin} has {name} {value!r}, which must be a number above 0:"
                " copy or download it again."
            )
        if name.endswith("layers") and value > MOST_LAYERS:
            raise Refusal(f"{origin} has {name} {value}, but at most {MOST_LAYERS} are supported.")
    try:
        return kind(**values)
    except TypeError as error:
        raise Refusal(f"{origin} does not describe a whole encoder: {error}.") from None


def read_weights(
    folder: Path, shapes: PyTree, names: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Pairs (path in the parameters, array on the host), one by one, in the order of their paths.

    Needs model.safetensors, or shards with model.safetensors.index.json; refuses pickled weights
    before the first pair. `names` gives the names that the weight at a path may have; other weights
    are not read. The arrays have their stored dtype; a `kernel` is the transpose of its weight.
    """
    files = _open(folder)

    def pairs():
        for path, expected in sorted(flatten_dict(shapes).items()):
            name = next((name for name in names(path) if name in files), None)
            if name is None:
                raise Refusal(
                    f"{folder} has no weight {names(path)[0]!r}:"
                    " it does not hold the encoder that its config.json describes."
                )
            weight = files[name].get_tensor(name)
            weight = weight.T if path[-1] == "kernel" else weight
            if weight.shape != expected.shape:
                stored = tuple(files[name].get_slice(name).get_shape())
                raise Refusal(
                    f"{name!r} in {folder} has the shape {stored}, which does not fit the layout"
                    " in its config.json: the two files belong to different models."
                )
            yield path, weight

    return pairs()


def _open(folder: Path) -> dict[str, safe_open]:
    """Each weight's name -> the open file that holds it."""
    files = {}
    for name in weight_files(folder):
        if not (folder / name).is_file():
            if pickled := sorted(folder.glob("pytorch_model*.bin")):
                raise Refusal(
                    f"{folder} holds its weights only as {pickled[0].name}, and pickled files are"
                    " not opened: load it with transformers and call save_pretrained to get"
                    " model.safetensors."
                )
            raise Refusal(f"{name} is missing in {folder}.")
        try:
            file = safe_open(folder / name, framework="numpy")
        except SafetensorError as error:
            raise Refusal(
                f"{folder / name} is damaged ({error}): copy or download it again."
            ) from None
        files |= dict.fromkeys(file.keys(), file)
    return files
