"""The text side of a run: captions to tokens, and to embeddings where the encoder is frozen.

RUN/text holds `source.json` {"encoder", "max_length", "dtype", "sha256"}. With a frozen encoder that is all: `encoder` is its
folder or hub name, and the hash refuses another model in its place. A trained one (`encoder` is "") adds its vocabulary
`spiece.model` and its layout `config.json`; its parameters live with the diffusion model.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import Array, Float16, Int32, PyTree
from ml_collections import ConfigDict

from jen1_jax.errors import Refusal
from jen1_jax.files import write_text
from jen1_jax.text import t5
from jen1_jax.text.tokenizer import Tokenizer, train

log = logging.getLogger(__name__)

Layout = Callable[
    [PyTree], PyTree
]  # shapes of parameters -> where each lies: a sharding, or None for the default device

_BATCH = 16  # captions embedded at once
_CACHED = 4096  # captions whose embeddings are kept
_NO_MESH = Mesh(np.empty((), object), ())


def _on_one_device(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda shape: None, shapes)


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A T5 encoder with its tokenizer; `params` are None where they are trained with the diffusion model.

    `dtype` ("float32" or "bfloat16") is the arithmetic's, and what the matrices of a frozen encoder are held in. `fingerprint` is
    the SHA-256 of all that embeddings depend on: layout, maximum length, dtype where it is not float32, tokenizer, and a frozen
    encoder's weights as they are stored (in the order of their paths, float32 little-endian).
    """

    encoder: str
    config: t5.T5Config
    tokenizer: Tokenizer
    dtype: str
    fingerprint: str
    params: PyTree = field(default=None, repr=False)
    _cache: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):  # and T5 overflows in float16
            raise Refusal(
                f"A text encoder cannot be computed in {self.dtype!r}; set text.dtype to float32 or bfloat16."
            )
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise Refusal(
                f"The tokenizer of the text encoder {self.encoder!r} has {self.tokenizer.vocab_size} pieces, its embedding only"
                f" {self.config.vocab_size}: they belong to different models."
            )

    @classmethod
    def frozen(
        cls, encoder: str, max_length: int, dtype: str = "float32", layout: Layout = _on_one_device
    ) -> "TextEncoder":
        """FLAN-T5 from a folder (config.json, model.safetensors or its shards, spiece.model) or by its Hugging Face hub name.

        Its weights go from the file to where `layout` has them one at a time: no device needs to hold them all.
        """
        folder = find(encoder)
        config, weights = t5.load(folder)
        text = cls._without_params(
            _lasting(encoder), config, folder, max_length, dtype
        )  # refuses before a weight is read
        digest, params = _digest(config, text.tokenizer, dtype), {}
        places = flatten_dict(layout(t5.abstract_params(config)))
        for path, weight in weights:
            digest.update("/".join(path).encode())
            digest.update(np.ascontiguousarray(weight, "<f4"))
            held = (
                dtype if weight.ndim > 1 else jnp.float32
            )  # the norms' scales are few, and used in float32
            params[path] = jax.device_put(weight.astype(held), places[path])
        return dataclasses.replace(
            text, fingerprint=digest.hexdigest(), params=unflatten_dict(params)
        )

    @classmethod
    def _without_params(
        cls, encoder: str, config: t5.T5Config, folder: Path, max_length: int, dtype: str
    ) -> "TextEncoder":
        tokenizer = Tokenizer(folder / "spiece.model", max_length)
        return cls(encoder, config, tokenizer, dtype, _digest(config, tokenizer, dtype).hexdigest())

    @classmethod
    def create(
        cls,
        config: ConfigDict,
        folder: str | Path,
        captions: Iterable[str],
        layout: Layout = _on_one_device,
    ) -> "TextEncoder":
        """What `config` (the section `text`) asks for, recorded in `folder` (RUN/text); opened where it is recorded already.

        `captions` are read only where `config.encoder` is "": for its vocabulary, and to say how many are cut.
        """
        folder, captions = Path(folder), () if config.encoder else list(captions)
        ours = t5.T5Config(
            **{
                name: config[name]
                for name in config
                if name not in ("encoder", "max_length", "dtype")
            }
        )
        if (folder / "source.json").is_file():
            text = cls.open(folder, layout)
            held = (text.encoder, text.max_length, text.dtype, text.config)
            asked = (
                _lasting(config.encoder),
                config.max_length,
                config.dtype,
                text.config if config.encoder else ours,
            )
            if held != asked:
                raise Refusal(
                    f"{folder} holds another text encoder, {held}, than the configuration asks for, {asked}: use another run."
                )
            text._tell_cut(captions)
            return text
        folder.mkdir(parents=True, exist_ok=True)
        if config.encoder:
            text = cls.frozen(config.encoder, config.max_length, config.dtype, layout)
        else:
            train(captions, folder / "spiece.model", ours.vocab_size)
            write_text(folder / "config.json", json.dumps(ours.to_json(), indent=1))
            text = cls._without_params("", ours, folder, config.max_length, config.dtype)
            text._tell_cut(captions)
        source = {
            "encoder": text.encoder,
            "max_length": text.max_length,
            "dtype": text.dtype,
            "sha256": text.fingerprint,
        }
        write_text(folder / "source.json", json.dumps(source, indent=1))
        return text

    @classmethod
    def open(cls, folder: str | Path, layout: Layout = _on_one_device) -> "TextEncoder":
        """The text encoder recorded in `folder` (RUN/text); one whose fingerprint differs from the recorded one is refused."""
        folder = Path(folder)
        source = t5.read_json(folder, "source.json")
        max_length, dtype = source["max_length"], source["dtype"]
        if source["encoder"]:
            text = cls.frozen(source["encoder"], max_length, dtype, layout)
        else:
            config = t5.T5Config.from_json(
                t5.read_json(folder, "config.json"), origin=str(folder / "config.json")
            )
            text = cls._without_params("", config, folder, max_length, dtype)
        if text.fingerprint != source["sha256"]:
            raise Refusal(
                f"The text encoder {source['encoder'] or folder} has the fingerprint {text.fingerprint}, but"
                f" {folder / 'source.json'} records {source['sha256']}: put back the one that the run was trained with."
            )
        return text

    def _tell_cut(self, captions: Sequence[str]) -> None:
        if cut := sum(map(self.tokenizer.truncated, captions)):
            log.warning(
                "%d of %d captions are longer than %d tokens: cut there.",
                cut,
                len(captions),
                self.max_length,
            )

    @property
    def trainable(self) -> bool:
        return self.params is None

    @property
    def features(self) -> int:
        return self.config.d_model

    @property
    def max_length(self) -> int:
        return self.tokenizer.max_length

    @property
    def module(self) -> t5.T5Encoder:
        return t5.T5Encoder(self.config, self.dtype)

    def init_params(self, key: jax.Array) -> dict:
        """Random float32 parameters for `module`, with T5's scales."""
        return jax.jit(self.module.init)(key, jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32))[
            "params"
        ]

    def tokenize(
        self, captions: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "captions tokens"], Int32[np.ndarray, " captions"]]:
        """Token ids [captions, max_length] and how many of each row are real; 0 for a caption without text."""
        return self.tokenizer(captions)

    def embed(
        self, captions: Sequence[str]
    ) -> tuple[Float16[np.ndarray, "captions tokens d_model"], Int32[np.ndarray, " captions"]]:
        """Frozen embeddings [captions, max_length, d_model], zero beyond the lengths: float16, as latent shards store them.

        Only captions not seen lately are computed, each at a padded length that is its own, whatever else is in the batch.
        """
        if self.trainable:
            raise ValueError(
                "This encoder is trained with the diffusion model: apply `module` to that model's parameters."
            )
        found = {caption: self._cache[caption] for caption in captions if caption in self._cache}
        new = [caption for caption in dict.fromkeys(captions) if caption not in found]
        tokens, lengths = self.tokenize(new)
        padded = np.array(
            [min(_power_of_two(max(length, 16)), self.max_length) for length in lengths.tolist()]
        )
        for width in np.unique(padded):
            rows = np.flatnonzero(padded == width)
            for chunk in np.split(rows, range(_BATCH, len(rows), _BATCH)):
                batch = np.resize(
                    chunk, _power_of_two(len(chunk))
                )  # few batch sizes, few compilations
                with jax.set_mesh(
                    _NO_MESH
                ):  # the training step's spans all processes, which have other captions
                    embedded = _embed(
                        self.module, self.params, tokens[batch, :width], lengths[batch]
                    )
                for row, embedding in zip(chunk, np.asarray(embedded), strict=False):
                    found[new[row]] = embedding[: lengths[row]].copy()
        self._cache.update((caption, found[caption]) for caption in new)
        for caption in list(self._cache)[:-_CACHED]:
            del self._cache[caption]

        result = np.zeros((len(captions), self.max_length, self.features), np.float16)
        for row, caption in enumerate(captions):
            result[row, : len(found[caption])] = found[caption]
        return result, np.array([len(found[caption]) for caption in captions], np.int32)


def _digest(config: t5.T5Config, tokenizer: Tokenizer, dtype: str):
    """The fingerprint so far: all but the weights."""
    named = [] if dtype == "float32" else [dtype]
    digest = hashlib.sha256(
        json.dumps(
            [dataclasses.asdict(config), tokenizer.max_length, *named], sort_keys=True
        ).encode()
    )
    digest.update(tokenizer.model)
    return digest


@partial(jax.jit, static_argnums=0)
def _embed(
    module: t5.T5Encoder,
    params: dict,
    tokens: Int32[Array, "captions tokens"],
    lengths: Int32[Array, " captions"],
) -> Float16[Array, "captions tokens d_model"]:
    return module.apply({"params": params}, tokens, lengths).astype(jnp.float16)


def _lasting(encoder: str) -> str:
    """A name that holds in any working directory."""
    return os.path.abspath(encoder) if os.path.isdir(encoder) else encoder


def find(encoder: str) -> Path:
    """The folder of a text encoder: itself, or the local copy of a hub name, downloaded where it is not there yet."""
    if os.path.isdir(encoder):
        return Path(encoder)
    if encoder.startswith((".", "/", "~")) or encoder.count("/") > 1:
        raise Refusal(
            f"The text encoder's folder {encoder} does not exist: give a folder with a FLAN-T5, or a hub name."
        )
    import huggingface_hub

    files = ["config.json", "model*.safetensors", "model.safetensors.index.json", "spiece.model"]
    missing, reason = ["config.json", "model.safetensors", "spiece.model"], ""
    for local in (True, False):
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    encoder, allow_patterns=files, local_files_only=local
                )
            )
        except Exception as error:  # in the words of whichever release of the hub's client
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            continue
        missing = [
            name
            for name in ("config.json", *t5.weight_files(folder), "spiece.model")
            if not (folder / name).is_file()
        ]
        if not missing:
            return folder
        reason = "it has no such file, or there is no connection"
    raise Refusal(
        f"The text encoder {encoder!r} is not a folder, the local Hugging Face cache lacks its {', '.join(missing)}, and the hub"
        f" did not give it ({reason}): on a machine with a connection run `hf download {encoder}`, copy the folder here and give"
        " its path."
    )


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
