"""Reads a model's folder in Hugging Face's format: JSON, and the names of its weights' files."""

import json
from pathlib import Path
from typing import Any

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
