"""Turns an exported folder, perhaps with parameters that PyTorch has changed, into a run.

The folder is data: nothing in it is executed, its code is not read, and names, shapes and types are
checked before an array is read.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import fingerprint
from jen1_jax.autoencoder.whitening import Whitening
from jen1_jax.config import from_plain
from jen1_jax.export.names import from_torch, places, stored_shape
from jen1_jax.export.to_torch import FORMAT
from jen1_jax.files import whole_folder
from jen1_jax.models import weights
from jen1_jax.models.autoencoder import check_measured, init_autoencoder, make_autoencoder
from jen1_jax.models.diffusion import abstract_diffusion, check_sampling, make_unet
from jen1_jax.models.run import Run
from jen1_jax.text.hub import encoder_files
from jen1_jax.text.prompts import TextEncoder
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local, write_text
from jen1_numpy.folder import open_arrays, read_json

TYPES = ("F32", "F16", "BF16")  # of parameters; they become float32
# Of a configuration: entries of a list, blocks of all levels, and whole numbers.
MOST_ENTRIES, MOST_BLOCKS, LARGEST = 64, 1024, 2**20
LIMITS = {"window": 2**16, "short_window": 2**16, "head_dim": 1024, "max_length": 4096}
SOURCE = {"encoder": str, "max_length": int, "dtype": str, "sha256": str}  # of text/source.json


def import_torch(exported: str, out: str) -> None:
    """Writes the run `out` of a folder that `export_torch` has written.

    It is a release, with weights in float32. A training of the diffusion model starts from it by
    `train_diffusion.init_from`.

    Raises:
        Refusal: the folder is damaged or of another version, or its parts do not belong together;
            `out` holds something already.
    """
    folder = local(exported)
    about = _about(folder)
    config = from_plain(about["config"], f"`config` of {folder / 'config.json'}")
    _check_bounds(config, folder)
    encoder, text = _text(folder, about, config)
    check_sampling(config.diffusion)
    model, latent = make_autoencoder(config), config.autoencoder.latent_channels
    try:
        check_measured(about["measured"], model)
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(
            f"`measured` of {folder / 'config.json'} does not fit its configuration ({error}); "
            "export the run again."
        ) from None
    arrays = _Arrays(folder)
    k = (*arrays.shape("whitening.scale"), 0)[0]
    whitening = {"mean": (latent,), "basis": (latent, k), "scale": (k,)}
    init = partial(init_autoencoder, model=model)
    shapes = {"autoencoder": jax.eval_shape(init, jax.random.key(0))}
    shapes |= abstract_diffusion(make_unet(config, k, text), text)
    arrays.check({f"whitening.{name}": shape for name, shape in whitening.items()}, shapes)
    fitted = Whitening(**{name: arrays.read(f"whitening.{name}") for name in whitening})
    params = arrays.params(shapes)
    autoencoder = params.pop("autoencoder")
    identity = fingerprint(autoencoder, fitted, sample_rate=config.audio.sample_rate, hop=model.hop)
    if identity != about["fingerprints"]["autoencoder"]:
        raise Refusal(
            f"The autoencoder in {folder} has the fingerprint {identity}, but its config.json "
            f"holds {about['fingerprints']['autoencoder']}: the file comes from another model; "
            "export or copy the folder again. (`save_pretrained` records a changed autoencoder.)"
        )
    with whole_folder(out) as target, config.unlocked():
        run = Run(Path(target))
        run.text.mkdir()
        if not encoder:
            for name in ("spiece.model", "config.json"):
                shutil.copyfile(folder / "text" / name, run.text / name)
        elif encoder == str(copied := (folder / "text" / "encoder").absolute()):
            (run.text / "encoder").mkdir()
            for name in encoder_files(copied):
                shutil.copyfile(copied / name, run.text / "encoder" / name)
            encoder = str(Path(out).absolute() / "text" / "encoder")
        config.text.encoder = encoder
        run.write(config, about["fingerprints"])
        source = read_json(folder / "text" / "source.json")
        described = {name: source[name] for name in SOURCE} | {"encoder": encoder}
        write_text(run.text / "source.json", json.dumps(described, indent=1))
        run.measured.parent.mkdir()
        fitted.save(run.whitening)
        write_text(run.measured, json.dumps(about["measured"]))
        record = run.record | {"data": about["data"]}
        weights.write(run.weights("autoencoder"), autoencoder, record)
        weights.write(run.weights("diffusion"), params, record)


def _about(folder: Path) -> dict[str, Any]:
    """The folder's config.json, of which the values other than `config` are checked."""
    path, about = folder / "config.json", read_json(folder / "config.json")
    if about.get("format") != FORMAT:
        raise Refusal(
            f"{path} has the format {about.get('format')!r}, and this version of jen1-jax reads "
            f"{FORMAT}; use the version that wrote it, or a newer one."
        )
    parts = {"config": dict, "fingerprints": dict, "measured": dict, "data": dict}
    prints = about.get("fingerprints")
    whole = isinstance(prints, dict) and all(
        isinstance(prints.get(name), str) for name in ("autoencoder", "text")
    )
    if not whole or not all(isinstance(about.get(name), kind) for name, kind in parts.items()):
        raise Refusal(f"{path} lacks {', '.join(parts)}, or they are damaged; export it again.")
    _check_data(about["data"], path)
    return about


def _check_data(data: Mapping[str, Any], path: Path) -> None:
    """Refuses what `to_torch` does not write about the training data."""
    counts = lambda each: isinstance(each, dict) and all(type(n) is int for n in each.values())
    if (
        data.keys() != {"dir", "examples", "licences"}
        or not isinstance(data["dir"], str)
        or not counts(data["examples"])
        or not counts(data["licences"])
    ):
        raise Refusal(f"`data` of {path} is damaged; export it again.")


def _check_bounds(config: ConfigDict, folder: Path) -> None:
    """Refuses sizes with which even the shapes of a network would take very long to compute."""
    if not 0 < config.data.seconds <= 3600:
        raise Refusal(f"{folder / 'config.json'} has data.seconds {config.data.seconds}.")
    for section in ("autoencoder", "unet", "text"):
        for name, value in config[section].items():
            entries = value if isinstance(value, tuple) else (value,)
            most = LIMITS.get(name, LARGEST)
            large = any(isinstance(each, int) and each > most for each in entries)
            large |= name in ("num_blocks", "attentions") and sum(entries) > MOST_BLOCKS
            if large or len(entries) > MOST_ENTRIES:
                raise Refusal(
                    f"{folder / 'config.json'} has {section}.{name} {value}, more than any model "
                    "of this program has; export the run again."
                )


def _text(folder: Path, about: Mapping[str, Any], config: ConfigDict) -> tuple[str, TextEncoder]:
    """The text encoder, and what it is called in a run: a folder, a hub name, or "" if trained."""
    source = read_json(folder / "text" / "source.json")
    if not all(isinstance(source.get(name), kind) for name, kind in SOURCE.items()):
        raise Refusal(f"{folder / 'text' / 'source.json'} is damaged; export the run again.")
    copied = folder / "text" / "encoder"
    if not source["encoder"]:
        encoder, text = "", TextEncoder.open(folder / "text")
    else:
        encoder = str(copied.absolute()) if copied.is_dir() else source["encoder"]
        text = TextEncoder.frozen(encoder, source["max_length"], source["dtype"])
    if text.fingerprint != about["fingerprints"]["text"]:
        raise Refusal(
            f"The text encoder of {folder} has the fingerprint {text.fingerprint}, but its "
            f"config.json holds {about['fingerprints']['text']}; put the one back that the model "
            "was trained with."
        )
    return encoder, text


class _Arrays:
    """The arrays in a folder's .safetensors files, by name."""

    def __init__(self, folder: Path):
        self._folder, self._files = folder, open_arrays(folder, "numpy")

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._files:
            raise Refusal(f"{self._folder} has no {name}; copy or export it again.")
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def check(self, doubles: Mapping[str, tuple[int, ...]], shapes: PyTree) -> None:
        """Refuses another set of arrays than these, other shapes and other types."""
        wanted: dict[str, tuple[tuple[int, ...], Sequence[str]]]
        wanted = {name: (shape, ("F64",)) for name, shape in doubles.items()}
        for path, leaf in flatten_dict(shapes).items():
            for name, block in places(path, leaf.shape):
                wanted[name] = (stored_shape(path, leaf.shape, block), TYPES)
        if extra := sorted(self._files.keys() - wanted.keys()):
            raise Refusal(
                f"{self._folder} holds {extra[0]}, which its configuration does not have; copy or "
                "export it again."
            )
        for name, (shape, types) in wanted.items():
            if self.shape(name) != shape:
                raise Refusal(
                    f"{name} in {self._folder} has the shape {self.shape(name)}, and its "
                    f"configuration says {shape}; copy or export it again."
                )
            if (kind := self._files[name].get_slice(name).get_dtype()) not in types:
                raise Refusal(
                    f"{name} in {self._folder} holds {kind} and not {' or '.join(types)}; save it "
                    "in another type."
                )

    def params(self, shapes: PyTree) -> PyTree:
        """The parameters of these shapes, in float32."""
        found = {}
        for path, leaf in flatten_dict(shapes).items():
            stored = places(path, leaf.shape)
            arrays = [self.read(name).astype(np.float32) for name, _ in stored]
            found[path] = from_torch(path, arrays, stacked=stored[0].block is not None)
        return unflatten_dict(found)
