"""The kinds of text encoder: a folder's config.json names its kind.

A kind is one file with a dataclass that has the form of `EncoderConfig`, and a line in `ENCODERS`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

from jen1_jax.text.bert import BertConfig
from jen1_jax.text.folder import read_weights
from jen1_jax.text.t5 import T5Config
from jen1_numpy.errors import Refusal
from jen1_numpy.folder import read_json
from jen1_numpy.tokenizer import Tokenizer


@runtime_checkable
class EncoderConfig(Protocol):
    """The layout of an encoder, a dataclass, and what belongs to its kind."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    tokenizer_files: ClassVar[tuple[str, ...]]  # a folder holds one of them

    @property
    def vocab_size(self) -> int: ...

    @property
    def features(self) -> int:
        """The width of the embeddings."""
        ...

    @classmethod
    def from_json(cls, values: Mapping, origin: str) -> "EncoderConfig":
        """The layout in a parsed config.json; refuses, by its name `origin`, unsupported ones."""
        ...

    def module(self, dtype: DTypeLike) -> nn.Module:
        """Maps tokens [batch, tokens] and lengths [batch] to float32 [batch, tokens, features].

        The result is zero from `lengths` on. Products are in `dtype`.
        """
        ...

    def weight_names(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The names that Hugging Face's files may give the parameter at `path`, likeliest first."""
        ...

    def tokenizer(self, folder: Path, max_length: int) -> Tokenizer: ...


ENCODERS: dict[str, type[EncoderConfig]] = {"t5": T5Config, "mt5": T5Config, "bert": BertConfig}


def read_config(folder: Path) -> EncoderConfig:
    """The layout in the folder's config.json, of the kind that its `model_type` names."""
    values, origin = read_json(folder / "config.json"), str(folder / "config.json")
    kind = values.get("model_type")
    if kind not in list(ENCODERS):
        raise Refusal(
            f"{origin} has model_type {kind!r}, but only {', '.join(map(repr, ENCODERS))} are"
            " supported: choose a FLAN-T5 or a BERT, for example google/flan-t5-large or"
            " sentence-transformers/all-MiniLM-L6-v2."
        )
    return ENCODERS[kind].from_json(values, origin)


def abstract_params(config: EncoderConfig) -> PyTree:
    """Shapes of the encoder's parameters."""
    tokens, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    init = config.module("float32").init
    return jax.eval_shape(init, jax.random.key(0), tokens, lengths)["params"]


def load(
    folder: str | Path,
) -> tuple[EncoderConfig, Iterator[tuple[tuple[str, ...], np.ndarray]]]:
    """The layout of a folder in Hugging Face's format, and its weights (see `read_weights`)."""
    config = read_config(Path(folder))
    return config, read_weights(Path(folder), abstract_params(config), config.weight_names)
