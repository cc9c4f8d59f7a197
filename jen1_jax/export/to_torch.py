"""Writes a run as a folder that generates with PyTorch alone.

```
OUT/config.json             format, configuration, fingerprints, measurements, versions
OUT/model-*.safetensors     parameters, with model.safetensors.index.json; or model.safetensors
OUT/text/                   source.json and the vocabulary; or the frozen encoder in text/encoder
OUT/README.md               the model card
OUT/modeling_jen1.py  generate.py  requirements.txt  jen1_torch/  jen1_numpy/
```

Parameters are read, converted and written in groups, so that memory does not grow with the model.
"""

import dataclasses
import hashlib
import importlib.util
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jen1_jax import __version__, conditioning
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.conditioning import conditioner
from jen1_jax.export.card import card
from jen1_jax.export.names import places, stored_shape, to_torch
from jen1_jax.files import whole_folder
from jen1_jax.models import weights
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.diffusion import abstract_diffusion, check_autoencoder, make_unet
from jen1_jax.models.run import Run
from jen1_jax.text.hub import encoder_files, find
from jen1_jax.text.prompts import TextEncoder
from jen1_numpy.errors import Refusal
from jen1_numpy.files import write_text

FORMAT = 1  # of an exported folder: raised when an older program could not read a newer folder
SHARD = 2**30  # bytes of parameters in a file, at most; a larger parameter has its own file
GROUP = 64 * 2**20  # bytes of parameters that are read at once, about
BESIDE = ("modeling_jen1.py", "generate.py", "requirements.txt")  # of jen1_torch, at the top


class Stored(NamedTuple):
    """An array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def kind(self) -> str:
        """As .safetensors files name it: F32 or F64."""
        return f"F{8 * self.dtype.itemsize}"


def export_torch(
    run: Run,
    out: str,
    *,
    step: str = "",
    text_by_name: str | None = None,
    licence: str = "",
    reports: Sequence[str] = (),
) -> None:
    """Writes the averaged weights of a trained `run`, and all that they need, to the folder `out`.

    Args:
        step: of the diffusion model's checkpoint; or "best" by held-out loss, "" for the newest.
        text_by_name: leaves the folder of a frozen text encoder out, and gives its name on the hub;
            "" is the name that the run has. None copies the folder.
        licence: of the weights, as the hub names licences, for the model card.
        reports: files report.json of evaluations, whose figures go into the model card.

    Raises:
        Refusal: the run is not trained to its end, or its parts do not belong together; its text
            encoder has no name on the hub; `out` holds something already.
    """
    if not re.fullmatch(r"[A-Za-z0-9.+-]*", licence):
        raise Refusal(f"{licence!r} is no name of a licence; give one like apache-2.0.")
    config, codec = run.config, load_codec(run)
    missing = (
        f"The run {run.path} has no trained diffusion model yet; train it with "
        f"`jen1 train diffusion --workdir {run.path}`."
    )
    weights.check(run, "diffusion", missing)
    text = TextEncoder.open(run.text)
    if not text.trainable:  # they have been compared with the record, and are copied as files
        text = dataclasses.replace(text, params={})
    if text.fingerprint != run.record["fingerprints"].get("text"):
        raise Refusal(
            f"{run.text} is not the text encoder that the run {run.path} was trained with; "
            "put that one back."
        )
    unet = make_unet(config, codec.k, text)
    shapes = abstract_diffusion(unet, text)
    at = weights.step_of(run, "diffusion", step)
    first = next(_groups(shapes))
    _, trained = weights.restore(run, "diffusion", first, at)
    check_autoencoder(run, trained, codec)
    plain = run.record["config"]
    # Sampling depends on it. The run's configuration may have been edited since the training.
    plain["data"]["short_rate"] = trained["config"]["data"]["short_rate"]
    plain["data"]["dir"] = ""  # paths of this machine
    for part in ("autoencoder", "diffusion"):
        plain[f"train_{part}"]["init_from"] = ""
    about = {
        "format": FORMAT,
        "config": plain,
        "conditioning": _features(unet.conditioning),
        "fingerprints": {"autoencoder": codec.fingerprint, "text": text.fingerprint},
        "measured": json.loads(run.measured.read_text()),
        "data": _data(trained),
        "versions": run.record["versions"] | {"jen1-jax": __version__},
    }
    stored = _stored(codec, shapes)
    counts = {name: math.prod(each.shape) for name, each in stored.items()}
    readme = card(run, trained, about, counts, licence, reports)
    with whole_folder(out) as folder:
        plain["text"]["encoder"] = _write_text(run, folder, text, text_by_name)
        _write_code(folder)
        if text.trainable:
            _drop_requirement(folder / "requirements.txt", "transformers")
        write_text(folder / "config.json", json.dumps(about, indent=1))
        _write_parameters(folder, stored, _arrays(run, codec, shapes, at))
        write_text(folder / "README.md", readme)


def _data(trained: Mapping[str, Any]) -> dict[str, Any]:
    """What others learn of the training data: its name, examples by split, clips by licence."""
    data = trained.get("data", {})
    counts = {name: dict(data.get(name, {})) for name in ("examples", "licences")}
    return {"dir": Path(data.get("dir", "")).name} | counts


def _write_parameters(
    folder: Path, stored: Mapping[str, Stored], arrays: Iterator[tuple[str, np.ndarray]]
) -> None:
    """Writes `arrays`, in the order of `stored`, to files of at most `SHARD` bytes.

    There is an index if there are several.
    """
    files: list[dict[str, Stored]] = [{}]
    room = SHARD
    for name, each in stored.items():
        if files[-1] and each.size > room:
            files.append({})
            room = SHARD
        files[-1][name] = each
        room -= each.size
    index = {}
    for number, held in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}" if len(files) > 1 else "model"
        _write_file(folder / f"{name}.safetensors", held, arrays)
        index |= dict.fromkeys(held, f"{name}.safetensors")
    if len(files) > 1:
        total = sum(each.size for each in stored.values())
        content = {"metadata": {"total_size": total}, "weight_map": index}
        write_text(folder / "model.safetensors.index.json", json.dumps(content, indent=1))


def _write_file(
    path: Path, stored: Mapping[str, Stored], arrays: Iterator[tuple[str, np.ndarray]]
) -> None:
    """Writes the next arrays as a .safetensors file, one after the other.

    The format's library would need all of them in memory, twice.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, each in stored.items():
        places = [end, end := end + each.size]
        header[name] = {"dtype": each.kind, "shape": each.shape, "data_offsets": places}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in stored:
            file.write(next(arrays)[1].data)


def _groups(shapes: PyTree) -> Iterator[PyTree]:
    """The shapes of the diffusion model, some parameters of about `GROUP` bytes at a time."""
    group: dict[tuple[str, ...], Any] = {}
    size = 0
    for path, leaf in flatten_dict(shapes).items():
        if group and size + 4 * leaf.size > GROUP:
            yield unflatten_dict(group)
            group, size = {}, 0
        group[path] = leaf
        size += 4 * leaf.size
    yield unflatten_dict(group)


def _stored(codec: Codec, shapes: PyTree) -> dict[str, Stored]:
    """All arrays of an export, in its order."""
    stored = {name: Stored(array.shape, array.dtype) for name, array in _fixed(codec)}
    for path, leaf in flatten_dict(shapes).items():
        for name, block in places(path, leaf.shape):
            stored[name] = Stored(stored_shape(path, leaf.shape, block), np.dtype(np.float32))
    return stored


def _arrays(
    run: Run, codec: Codec, shapes: PyTree, step: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays of an export, in the order of `_stored`."""
    yield from _fixed(codec)
    for group in _groups(shapes):
        yield from _converted(weights.restore(run, "diffusion", group, step)[0])


def _fixed(codec: Codec) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of the autoencoder, which is small, and of the whitening, in float64."""
    for name, array in codec.whitening.arrays().items():
        yield f"whitening.{name}", np.ascontiguousarray(array)
    yield from _converted({"autoencoder": jax.device_get(codec.params)})


def _converted(params: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    for path, array in flatten_dict(params).items():
        for name, block in places(path, array.shape):
            yield name, to_torch(path, np.asarray(array, np.float32), block)


def _features(names: Sequence[str]) -> dict[str, int]:
    """The conditioners' names and the width of their vectors."""
    conditioners = conditioning.chosen(names)
    one = {name: dict.fromkeys(each.names, np.ones(1)) for name, each in conditioners.items()}
    vectors = conditioner.embed(conditioners, one)
    return {name: vector.shape[-1] for name, vector in vectors.items()}


def _write_text(run: Run, folder: Path, text: TextEncoder, by_name: str | None) -> str:
    """Writes the folder `text` (see the top of this file); returns the encoder's name."""
    source, target = json.loads((run.text / "source.json").read_text()), folder / "text"
    name = by_name or source["encoder"]
    if text.trainable and by_name is not None:
        raise Refusal(
            f"The text encoder of {run.path} was trained with the model and is part of it; "
            "leave --text-by-name out."
        )
    if by_name is not None and Path(name).is_absolute():
        raise Refusal(
            f"The text encoder of {run.path} is the folder {name}, which others do not have; give "
            "its name: --text-by-name sentence-transformers/all-MiniLM-L6-v2."
        )
    original, held, files = target, target, list[str]()
    if text.trainable:
        original, files = run.text, ["spiece.model", "config.json"]
    elif by_name is None:
        original, held = find(source["encoder"]), target / "encoder"
        files = encoder_files(original)
        name = Path(name).name if Path(name).is_absolute() else name
    held.mkdir(parents=True)
    digests = {}
    for each in files:
        (held / each).write_bytes((original / each).read_bytes())
        with (held / each).open("rb") as file:
            digests[each] = hashlib.file_digest(file, "sha256").hexdigest()
    described = source | {"encoder": name, "files": digests}
    write_text(target / "source.json", json.dumps(described, indent=1))
    return name


def _write_code(folder: Path) -> None:
    """Copies `jen1_torch` and `jen1_numpy`, and puts the files `BESIDE` beside them."""
    for package in ("jen1_torch", "jen1_numpy"):
        found = importlib.util.find_spec(package)
        assert found and found.submodule_search_locations
        code = Path(found.submodule_search_locations[0])
        (folder / package).mkdir()
        for file in sorted(code.glob("*")):
            if file.suffix in (".py", ".txt"):
                target = folder if file.name in BESIDE else folder / package
                shutil.copyfile(file, target / file.name)


def _drop_requirement(path: Path, name: str) -> None:
    """Takes the line of a package out of a requirements.txt."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(name)))
