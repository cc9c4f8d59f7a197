"""Reads a model's folder in Hugging Face's format: JSON, and the names of its weights' files."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from jen1_numpy.errors import Refusal

LARGEST_JSON = 2**24  # bytes; the indices of weights are the longest files


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises `Refusal` for a missing or damaged one by its name."""
    if not path.is_file():  # reading a device or a pipe might never end
        raise Refusal(f"{path.name} is missing in {path.parent}: copy it there.")
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has more than {LARGEST_JSON:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(f"{path} is not valid JSON ({error}): copy or download it again.") from None
    if not isinstance(found, dict):
        raise Refusal(f"{path} does not hold a JSON object: copy or download it again.")
    return found


def weight_files(folder: Path) -> list[str]:
    """Names of the files that should hold the weights: one, or the shards that an index lists."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return ["model.safetensors"]
    shards = read_json(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise Refusal(f"{index} does not list files of its folder: copy or download it again.")
    return sorted(set(names))


def open_arrays(folder: Path, framework: str) -> dict[str, Any]:
    """Of each array in a folder's .safetensors files, by its name, the file as it is opened.

    Only headers are read. `framework` is "numpy" or "pt", as safetensors names them. Raises
    `Refusal` for a file that is missing or damaged, and for a name that stands in two files.
    """
    files: dict[str, Any] = {}
    for name in weight_files(folder):
        path = folder / name
        if not path.is_file():
            raise Refusal(f"{name} is missing in {folder}: copy or download it again.")
        try:
            file = safe_open(path, framework)
        except (SafetensorError, OSError) as error:
            raise Refusal(f"{path} is damaged ({error}): copy or download it again.") from None
        for key in file.keys():  # noqa: SIM118
            if key in files:
                raise Refusal(f"{folder} holds {key} twice: copy or download it again.")
            files[key] = file
    return files
