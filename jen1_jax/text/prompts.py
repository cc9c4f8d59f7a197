"""The text side of a run: captions to tokens, and to embeddings where the encoder is frozen.

RUN/text holds `source.json` {"encoder", "max_length", "sha256"}. With a frozen encoder that is all: `encoder` is its folder or
hub name, and the hash refuses another model in its place. A trained one (`encoder` is "") adds its vocabulary `spiece.model` and
its layout `config.json`; its parameters live with the diffusion model.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.typing import DTypeLike
from jaxtyping import Array, Float16, Int32
from ml_collections import ConfigDict

from jen1_jax.errors import Refusal
from jen1_jax.run import write_text
from jen1_jax.text import t5
from jen1_jax.text.tokenizer import Tokenizer, train

_BATCH = 16  # captions embedded at once
_CACHED = 4096  # captions whose embeddings are kept


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A T5 encoder with its tokenizer; `params` are None where they are trained with the diffusion model."""

    encoder: str
    config: t5.T5Config
    tokenizer: Tokenizer
    params: dict | None = field(default=None, repr=False)
    dtype: DTypeLike = jnp.float32
    _cache: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise Refusal(
                f"The tokenizer of the text encoder {self.encoder!r} has {self.tokenizer.vocab_size} pieces, its embedding only"
                f" {self.config.vocab_size}: they belong to different models."
            )

    @classmethod
    def frozen(cls, encoder: str, max_length: int, dtype: DTypeLike = jnp.float32) -> "TextEncoder":
        """FLAN-T5 from a folder (config.json, model.safetensors or its shards, spiece.model) or by its Hugging Face hub name."""
        folder = find(encoder)
        config, params = t5.load(folder)
        return cls(_lasting(encoder), config, Tokenizer(folder / "spiece.model", max_length), params, dtype)

    @classmethod
    def create(
        cls, config: ConfigDict, folder: str | Path, captions: Iterable[str], dtype: DTypeLike = jnp.float32
    ) -> "TextEncoder":
        """What `config` (the section `text`) asks for, recorded in `folder` (RUN/text); opened where it is recorded already.

        `captions` are read only to train a vocabulary, where `config.encoder` is "".
        """
        folder = Path(folder)
        layout = t5.T5Config(**{name: config[name] for name in config if name not in ("encoder", "max_length")})
        if (folder / "source.json").is_file():
            text = cls.open(folder, dtype)
            held = (text.encoder, text.max_length, text.config)
            asked = (_lasting(config.encoder), config.max_length, text.config if config.encoder else layout)
            if held != asked:
                raise Refusal(
                    f"{folder} holds another text encoder, {held}, than the configuration asks for, {asked}: use another run."
                )
            return text
        folder.mkdir(parents=True, exist_ok=True)
        if config.encoder:
            text = cls.frozen(config.encoder, config.max_length, dtype)
        else:
            train(captions, folder / "spiece.model", layout.vocab_size)
            write_text(folder / "config.json", json.dumps(layout.to_json(), indent=1))
            text = cls("", layout, Tokenizer(folder / "spiece.model", config.max_length), dtype=dtype)
        source = {"encoder": text.encoder, "max_length": text.max_length, "sha256": text.fingerprint}
        write_text(folder / "source.json", json.dumps(source, indent=1))
        return text

    @classmethod
    def open(cls, folder: str | Path, dtype: DTypeLike = jnp.float32) -> "TextEncoder":
        """The text encoder recorded in `folder` (RUN/text); one whose fingerprint differs from the recorded one is refused."""
        folder = Path(folder)
        source = t5.read_json(folder, "source.json")
        if source["encoder"]:
            text = cls.frozen(source["encoder"], source["max_length"], dtype)
        else:
            layout = t5.T5Config.from_json(t5.read_json(folder, "config.json"), origin=str(folder / "config.json"))
            text = cls("", layout, Tokenizer(folder / "spiece.model", source["max_length"]), dtype=dtype)
        if text.fingerprint != source["sha256"]:
            raise Refusal(
                f"The text encoder {source['encoder'] or folder} has the fingerprint {text.fingerprint}, but"
                f" {folder / 'source.json'} records {source['sha256']}: put back the one that the run was trained with."
            )
        return text

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
        return jax.jit(self.module.init)(key, jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32))["params"]

    def tokenize(self, captions: Sequence[str]) -> tuple[Int32[np.ndarray, "captions tokens"], Int32[np.ndarray, " captions"]]:
        """Token ids [captions, max_length] and how many of each row are real; 0 for a caption without text."""
        return self.tokenizer(captions)

    def embed(
        self, captions: Sequence[str]
    ) -> tuple[Float16[np.ndarray, "captions tokens d_model"], Int32[np.ndarray, " captions"]]:
        """Frozen embeddings [captions, max_length, d_model], zero beyond the lengths: float16, as latent shards store them.

        Only captions not seen lately are computed, each at a padded length that is its own, whatever else is in the batch.
        """
        if self.trainable:
            raise ValueError("This encoder is trained with the diffusion model: apply `module` to that model's parameters.")
        found = {caption: self._cache[caption] for caption in captions if caption in self._cache}
        new = [caption for caption in dict.fromkeys(captions) if caption not in found]
        tokens, lengths = self.tokenize(new)
        padded = np.array([min(_power_of_two(max(length, 16)), self.max_length) for length in lengths.tolist()])
        for width in np.unique(padded):
            rows = np.flatnonzero(padded == width)
            for chunk in np.split(rows, range(_BATCH, len(rows), _BATCH)):
                batch = np.resize(chunk, _power_of_two(len(chunk)))  # few batch sizes, few compilations
                embedded = _embed(self.module, self.params, jnp.asarray(tokens[batch, :width]), jnp.asarray(lengths[batch]))
                for row, embedding in zip(chunk, np.asarray(embedded), strict=False):
                    found[new[row]] = embedding[: lengths[row]].copy()
        self._cache.update((caption, found[caption]) for caption in new)
        for caption in list(self._cache)[:-_CACHED]:
            del self._cache[caption]

        result = np.zeros((len(captions), self.max_length, self.features), np.float16)
        for row, caption in enumerate(captions):
            result[row, : len(found[caption])] = found[caption]
        return result, np.array([len(found[caption]) for caption in captions], np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over layout, maximum length, tokenizer and a frozen encoder's weights (sorted names, float32 little-endian)."""
        digest = hashlib.sha256(json.dumps([dataclasses.asdict(self.config), self.max_length], sort_keys=True).encode())
        digest.update(self.tokenizer.model)
        for path, weight in sorted(flatten_dict(self.params or {}).items()):
            digest.update("/".join(path).encode())
            digest.update(np.ascontiguousarray(weight, "<f4"))
        return digest.hexdigest()


@partial(jax.jit, static_argnums=0)
def _embed(
    module: t5.T5Encoder, params: dict, tokens: Int32[Array, "captions tokens"], lengths: Int32[Array, " captions"]
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
        raise Refusal(f"The text encoder's folder {encoder} does not exist: give a folder with a FLAN-T5, or a hub name.")
    import huggingface_hub

    files = ["config.json", "model*.safetensors", "model.safetensors.index.json", "spiece.model"]
    download = partial(huggingface_hub.snapshot_download, encoder, allow_patterns=files)
    try:
        local = Path(download(local_files_only=True))
        if (local / "spiece.model").is_file() and any(local.glob("model*.safetensors")):
            return local
    except Exception:  # not there yet, in the words of whichever release of the hub's client
        pass
    try:
        return Path(download())
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise Refusal(
            f"The text encoder {encoder!r} is neither a folder nor in the local Hugging Face cache, and could not be downloaded"
            f" ({reason}): on a machine with a connection run `hf download {encoder}`, copy the folder here and give its path."
        ) from None


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
