"""The text side of a run: captions to tokens, and to embeddings where the encoder is frozen.

RUN/text holds `source.json` {"encoder", "max_length", "dtype", "sha256"}. For a frozen encoder that
is all: `encoder` is its folder or hub name, and another model in its place is refused by the hash.
A trained one is a small T5: `encoder` is "", and the folder also holds its vocabulary
`spiece.model` and its layout `config.json`; its parameters are stored with the diffusion model.
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

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import Array, Float16, Int32, PyTree
from ml_collections import ConfigDict

from jen1_jax.files import AnyPath, anywhere, fetched, write_text
from jen1_jax.text.encoders import EncoderConfig, abstract_params, load, read_config
from jen1_jax.text.hub import find
from jen1_jax.text.t5 import T5Config
from jen1_jax.text.vocabulary import train
from jen1_numpy.errors import Refusal
from jen1_numpy.folder import read_json
from jen1_numpy.tokenizer import Tokenizer

log = logging.getLogger(__name__)

# Shapes of parameters -> the sharding of each, or None for the default device.
Layout = Callable[[PyTree], PyTree]

_BATCH = 16  # captions embedded at once
_CACHED = 4096  # captions whose embeddings are kept
_NO_MESH = Mesh(np.empty((), object), ())


def _on_one_device(shapes: PyTree) -> PyTree:
    return jax.tree.map(lambda shape: None, shapes)


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """An encoder with its tokenizer; `params` is None if it is trained with the diffusion model.

    `dtype` ("float32" or "bfloat16") is that of the arithmetic and of a frozen encoder's matrices.
    `fingerprint` is the SHA-256 of all that embeddings depend on: layout, maximum length, dtype
    unless it is float32, tokenizer, and a frozen encoder's weights as they are stored (in the order
    of their paths, float32 little-endian).
    """

    encoder: str
    config: EncoderConfig
    tokenizer: Tokenizer
    dtype: str
    fingerprint: str
    params: PyTree = field(default=None, repr=False)
    _cache: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):  # T5 overflows in float16
            raise Refusal(
                f"A text encoder cannot be computed in {self.dtype!r};"
                " set text.dtype to float32 or bfloat16."
            )
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise Refusal(
                f"The tokenizer of the text encoder {self.encoder!r} has"
                f" {self.tokenizer.vocab_size} pieces, its embedding only"
                f" {self.config.vocab_size}: they belong to different models."
            )

    @classmethod
    def frozen(
        cls, encoder: str, max_length: int, dtype: str = "float32", layout: Layout = _on_one_device
    ) -> "TextEncoder":
        """A pretrained encoder from a folder, or by its name on the Hugging Face hub.

        The folder holds config.json, model.safetensors or its shards, and spiece.model (FLAN-T5),
        or tokenizer.json or vocab.txt (BERT). Weights go from the file to the devices of `layout`
        one at a time: no device needs to hold them all.
        """
        folder = find(encoder)
        config, weights = load(folder)
        # Raises its refusals before a weight is read.
        text = cls._without_params(_absolute(encoder), config, folder, max_length, dtype)
        digest, params = _digest(config, text.tokenizer, dtype), {}
        places = flatten_dict(layout(abstract_params(config)))
        for path, weight in weights:
            digest.update("/".join(path).encode())
            digest.update(np.ascontiguousarray(weight, "<f4"))
            # The norms' scales and all biases are few; the scales are used in float32.
            weight = weight.astype(dtype if weight.ndim > 1 else jnp.float32)
            params[path] = jax.device_put(weight, places[path])
        return dataclasses.replace(
            text, fingerprint=digest.hexdigest(), params=unflatten_dict(params)
        )

    @classmethod
    def _without_params(
        cls, encoder: str, config: EncoderConfig, folder: Path, max_length: int, dtype: str
    ) -> "TextEncoder":
        tokenizer = config.tokenizer(folder, max_length)
        return cls(encoder, config, tokenizer, dtype, _digest(config, tokenizer, dtype).hexdigest())

    @classmethod
    def create(
        cls,
        config: ConfigDict,
        folder: str | AnyPath,
        captions: Iterable[str],
        layout: Layout = _on_one_device,
    ) -> "TextEncoder":
        """The encoder of `config` (the section `text`), which is recorded in `folder` (RUN/text).

        One that is recorded there already is opened. `captions` are read only if `config.encoder`
        is "": for the vocabulary, and to warn about captions that are too long.
        """
        folder, captions = anywhere(folder), () if config.encoder else list(captions)
        ours = T5Config(
            **{
                name: config[name]
                for name in config
                if name not in ("encoder", "max_length", "dtype")
            }
        )
        if (folder / "source.json").is_file():
            text = cls.open(folder, layout)
            recorded = (text.encoder, text.max_length, text.dtype, text.config)
            configured = (
                _absolute(config.encoder),
                config.max_length,
                config.dtype,
                text.config if config.encoder else ours,
            )
            if recorded != configured:
                raise Refusal(
                    f"{folder} holds another text encoder, {recorded}, than the configuration,"
                    f" {configured}: use another run."
                )
            text._warn_of_long(captions)
            return text
        folder.mkdir(parents=True, exist_ok=True)
        if config.encoder:
            text = cls.frozen(config.encoder, config.max_length, config.dtype, layout)
        else:
            train(captions, folder / "spiece.model", ours.vocab_size)
            write_text(folder / "config.json", json.dumps(ours.to_json(), indent=1))
            with fetched(folder) as copy:
                text = cls._without_params("", ours, copy, config.max_length, config.dtype)
            text._warn_of_long(captions)
        source = {
            "encoder": text.encoder,
            "max_length": text.max_length,
            "dtype": text.dtype,
            "sha256": text.fingerprint,
        }
        write_text(folder / "source.json", json.dumps(source, indent=1))
        return text

    @classmethod
    def open(cls, folder: str | AnyPath, layout: Layout = _on_one_device) -> "TextEncoder":
        """The text encoder that is recorded in `folder` (RUN/text).

        Refuses one whose fingerprint differs from the recorded one.
        """
        folder = anywhere(folder)
        with fetched(folder) as copy:
            source = read_json(copy / "source.json")
            max_length, dtype = source["max_length"], source["dtype"]
            if source["encoder"]:
                text = cls.frozen(source["encoder"], max_length, dtype, layout)
            else:
                text = cls._without_params("", read_config(copy), copy, max_length, dtype)
        if text.fingerprint != source["sha256"]:
            raise Refusal(
                f"The text encoder {source['encoder'] or folder} has the fingerprint"
                f" {text.fingerprint}, but {folder / 'source.json'} records {source['sha256']}:"
                " put back the one that the run was trained with."
            )
        return text

    def _warn_of_long(self, captions: Sequence[str]) -> None:
        if long := sum(map(self.tokenizer.truncated, captions)):
            message = "%d of %d captions are longer than %d tokens and are cut."
            log.warning(message, long, len(captions), self.max_length)

    @property
    def trainable(self) -> bool:
        return self.params is None

    @property
    def features(self) -> int:
        return self.config.features

    @property
    def max_length(self) -> int:
        return self.tokenizer.max_length

    @property
    def module(self) -> nn.Module:
        return self.config.module(self.dtype)

    def init_params(self, key: jax.Array) -> dict:
        """Random float32 parameters for `module`, with T5's scales."""
        return jax.jit(self.module.init)(key, jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32))[
            "params"
        ]

    def tokenize(
        self, captions: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "captions tokens"], Int32[np.ndarray, " captions"]]:
        """Token ids [captions, max_length] and the length of each, 0 for a caption without text."""
        return self.tokenizer(captions)

    def embed(
        self, captions: Sequence[str]
    ) -> tuple[Float16[np.ndarray, "captions tokens features"], Int32[np.ndarray, " captions"]]:
        """Frozen embeddings [captions, max_length, features] and their lengths.

        They are zero beyond the lengths, and float16, as latent shards store them. The latest ones
        are kept, so that a caption is not computed twice. Each caption is padded to a length that
        depends on it alone, so that its embedding does not depend on the others.
        """
        if self.trainable:
            raise ValueError(
                "This encoder is trained with the diffusion model:"
                " apply `module` to that model's parameters."
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
                # Few batch sizes are compiled.
                batch = np.resize(chunk, _power_of_two(len(chunk)))
                # The training step's mesh spans all processes, which have other captions.
                with jax.set_mesh(_NO_MESH):
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


def _digest(config: EncoderConfig, tokenizer: Tokenizer, dtype: str):
    """The hash of the fingerprint without the weights."""
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
    module: nn.Module,
    params: dict,
    tokens: Int32[Array, "captions tokens"],
    lengths: Int32[Array, " captions"],
) -> Float16[Array, "captions tokens features"]:
    return module.apply({"params": params}, tokens, lengths).astype(jnp.float16)


def _absolute(encoder: str) -> str:
    """A folder's absolute path, or the hub name: valid in any working directory."""
    return os.path.abspath(encoder) if os.path.isdir(encoder) else encoder


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
