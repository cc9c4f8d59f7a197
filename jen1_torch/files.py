"""Reads an exported folder. Its files are data: names, sizes and types are checked first."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jen1_numpy.errors import Refusal
from jen1_numpy.folder import open_arrays, read_json

FORMAT = 1  # of config.json
# Entries of a list, blocks of all levels, and numbers.
MOST_ENTRIES, MOST_BLOCKS, LARGEST = 64, 1024, 2**20
LIMITS = {"window": 2**16, "short_window": 2**16, "head_dim": 1024, "num_layers": 256}
LIMITS |= {"max_length": 4096, "seconds": 3600, "phase_iterations": 4096}
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}

# The fields of the configuration that generation reads, each with a value of its type.
FIELDS: dict[str, dict[str, Any]] = {
    "audio": {"sample_rate": 48_000},
    "autoencoder": {
        **{name: [1] for name in ("strides", "channels", "dilations")},
        **dict.fromkeys(("compress", "kernel_size", "latent_channels", "window"), 1),
        **dict.fromkeys(("short_window", "phase_iterations"), 1),
        **dict.fromkeys(("weight_norm", "causal"), True),
        "activation": "snake",
        "quietest": -80.0,
    },
    "whitening": {"keep": 0.9},
    "unet": {
        **dict.fromkeys(("channels", "head_dim", "ff_multiplier", "text_features"), 1),
        **{name: [1] for name in ("multipliers", "factors", "num_blocks", "attentions")},
        "null_text": "token",
        "qk_norm": True,
    },
    "diffusion": {
        **dict.fromkeys(("schedule", "objective", "sampler", "times"), "name"),
        **dict.fromkeys(("times_mean", "times_std"), 1.0),
        **dict.fromkeys(("num_steps", "reference_frames", "sample_steps"), 1),
        **dict.fromkeys(("beta_start", "beta_end", "eta", "guidance_scale"), 1.0),
        **dict.fromkeys(("guidance_rescale", "guidance_parallel", "guidance_limit"), 1.0),
        "zero_terminal_snr": True,
        "guidance_interval": [1.0],
    },
    "tasks": {"max_generated": 0.8},
    "data": {"seconds": 10.24, "short_rate": 0.1},
}

# The layout of the small text encoder, in text/config.json.
LAYOUT = dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"), 1)


def read_about(folder: Path) -> dict[str, Any]:
    """The folder's config.json; raises `Refusal` where a field is missing or out of range."""
    path = folder / "config.json"
    about = read_json(path)
    if about.get("format") != FORMAT:
        raise Refusal(
            f"{path} has the format {about.get('format')!r}, and this code reads {FORMAT}: use the "
            "code that lies beside it."
        )
    for name, example in {
        "config": {},
        "conditioning": {},
        "fingerprints": {"autoencoder": "", "text": ""},
        "measured": {"margin": 1, "loudest": [1.0]},
    }.items():
        _check(about.get(name), example, f"{path}: {name}")
    for name, size in about["conditioning"].items():
        _check(size, 1, f"{path}: conditioning.{name}")
    for section, fields in FIELDS.items():
        _check(about["config"].get(section), fields, f"{path}: config.{section}")
    return about


def read_source(folder: Path) -> dict[str, Any]:
    """What text/source.json says of the text encoder."""
    path = folder / "text" / "source.json"
    source = read_json(path)
    _check(source, {"encoder": "", "max_length": 1, "dtype": "", "files": {}}, str(path))
    for name, digest in source["files"].items():
        _check(digest, "", f"{path}: files.{name}")
    if source["max_length"] < 1:
        raise Refusal(f"{path}: max_length is out of range: copy or export the file again.")
    return source


def read_layout(path: Path) -> dict[str, int]:
    """The layout of the small text encoder."""
    layout = read_json(path)
    _check(layout, LAYOUT, str(path))
    return {name: layout[name] for name in LAYOUT}


def _check(value: Any, example: Any, where: str) -> None:
    """Refuses a value of another type than the example's, or out of range."""
    if isinstance(example, dict):
        if not isinstance(value, dict):
            raise Refusal(f"{where} is no section: copy or export the file again.")
        for name, each in example.items():
            _check(value.get(name), each, f"{where}.{name}")
        return
    several = isinstance(example, list)
    name = where.rpartition(".")[2]
    most = LIMITS.get(name, LARGEST)
    one = example[0] if several else example
    entries = value if several and isinstance(value, list) else [value]
    numbers = (int, float) if isinstance(one, float) else (type(one),)
    fits = isinstance(value, list) == several and all(
        type(each) in numbers
        and (isinstance(each, str | bool) or (math.isfinite(each) and abs(each) <= most))
        and (type(one) is not int or each >= 0)
        for each in entries
    )
    # An autoencoder of samples has no loudest levels, and one of levels has many.
    if several and name != "loudest":
        fits = fits and 0 < len(entries) <= MOST_ENTRIES
    if name in ("num_blocks", "attentions"):
        fits = fits and sum(entries) <= MOST_BLOCKS
    if not fits:
        raise Refusal(f"{where} is missing or out of range: copy or export the file again.")


class Arrays:
    """The arrays in the .safetensors files of a folder, by name; only headers are read at first."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, open_arrays(folder, "pt")

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Refuses other names and shapes than those of `expected`, and other types.

        Float64 is for float64 alone; other parameters may be stored in half precision.
        """
        if extra := sorted(self._files.keys() - expected.keys()):
            raise Refusal(
                f"{self._folder} holds {extra[0]}, which its config.json does not have: the files "
                "belong to different models."
            )
        for name, tensor in expected.items():
            if name not in self._files:
                raise Refusal(f"{self._folder} has no {name}: copy or download it again.")
            stored = self._files[name].get_slice(name)
            shape, kind = tuple(stored.get_shape()), stored.get_dtype()
            if shape != tuple(tensor.shape):
                raise Refusal(
                    f"{name} in {self._folder} has the shape {shape}, and its config.json says "
                    f"{tuple(tensor.shape)}: the files belong to different models."
                )
            double = tensor.dtype == torch.float64
            if kind not in TYPES or (kind == "F64") != double:
                raise Refusal(
                    f"{name} in {self._folder} is stored as {kind}, and must be "
                    f"{'F64' if double else 'F32, F16 or BF16'}: save it in that type."
                )

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """An array in memory of its own, so that the file may be replaced."""
        return self._files[name].get_tensor(name).to(dtype, copy=True)


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuses a folder in which a file has another SHA-256 than that of its name."""
    for name, expected in digests.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise Refusal(f"{name} is missing in {folder}: copy or download it again.")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise Refusal(
                f"{path} has the SHA-256 {found}, and the model was trained with {expected}: put "
                "that file back."
            )
