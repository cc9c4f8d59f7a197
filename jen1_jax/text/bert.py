"""BERT (Devlin et al. 2019, arXiv 1810.04805) in Flax, with the layout of Hugging Face's files.

The encoder alone: the states of the last layer, without the pooled one. Unlike T5, the norms come
after each sum, positions are learnt vectors, and all linear maps have a bias. Tokens attend in both
directions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jen1_jax.text.folder import layout
from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import WordPiece


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The layout, with the names and defaults of Hugging Face's config.json."""

    tokenizer_files: ClassVar[tuple[str, ...]] = WordPiece.files

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_json(cls, values: Mapping, origin: str) -> "BertConfig":
        """The layout in a parsed config.json; refuses, by its name `origin`, other models."""
        for key, known in (
            ("hidden_act", "gelu"),
            ("position_embedding_type", "absolute"),
            ("is_decoder", False),
        ):
            if values.get(key, known) != known:
                raise Refusal(
                    f"{origin} has {key} {values[key]!r}, but of BERT only {known!r} is supported:"
                    " choose another model, for example sentence-transformers/all-MiniLM-L6-v2."
                )
        config = layout(cls, values, origin)
        if config.hidden_size % config.num_attention_heads:
            raise Refusal(
                f"{origin} has hidden_size {config.hidden_size}, which is no multiple of its"
                f" num_attention_heads {config.num_attention_heads}: copy or download it again."
            )
        return config

    @property
    def features(self) -> int:
        return self.hidden_size

    def module(self, dtype: DTypeLike) -> "BertEncoder":
        return BertEncoder(self, dtype)

    def weight_names(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Without and with the prefix of a larger model; old files call a norm's gamma and beta."""
        if len(path) == 3:
            name = f"encoder.layer.{path[0].removeprefix('block_')}.{HF_BLOCK[path[1]]}"
        else:
            name = HF_TOP[path[0]]
        leaves = ("bias", "beta") if path[-1] == "bias" else ("weight", "gamma")
        return tuple(f"{prefix}{name}.{leaf}" for leaf in leaves for prefix in ("", "bert."))

    def tokenizer(self, folder: Path, max_length: int) -> WordPiece:
        if max_length > self.max_position_embeddings:
            raise Refusal(
                f"The maximum length is {max_length} tokens, but the BERT in {folder} has positions"
                f" for {self.max_position_embeddings}: set text.max_length (--text-max-length) to"
                " at most that."
            )
        return WordPiece(folder, max_length)


class Block(nn.Module):
    """Self-attention and a feed-forward network; each is added to its input, and normalised.

    The sums and norms are float32.
    """

    config: BertConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens features"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch tokens features"]:
        c = self.config
        dense = lambda features, name: nn.Dense(features, dtype=self.dtype, name=name)
        heads = (*x.shape[:2], c.num_attention_heads, c.hidden_size // c.num_attention_heads)
        q, k, v = (
            dense(c.hidden_size, name)(x).reshape(heads) for name in ("query", "key", "value")
        )
        y = jax.nn.dot_product_attention(
            q, k, v, key_value_seq_lengths=lengths
        )  # softmax in float32
        y = dense(c.hidden_size, "attention_out")(y.reshape(x.shape))
        x = _norm(c, "attention_norm")(x + y)
        y = nn.gelu(dense(c.intermediate_size, "ff_in")(x), approximate=False)
        return _norm(c, "ff_norm")(x + dense(c.hidden_size, "ff_out")(y))


class BertEncoder(nn.Module):
    """Tokens to one float32 vector each, zero from `lengths` on; padding changes no real token.

    All tokens have type 0. Products are in `dtype`, whatever the dtype of the parameters; norms,
    softmax and sums are float32.
    """

    config: BertConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch tokens"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch tokens features"]:
        c = self.config
        places = jnp.arange(tokens.shape[1])
        embed = lambda size, ids, name: nn.Embed(size, c.hidden_size, name=name)(ids).astype(
            jnp.float32
        )
        x = embed(c.vocab_size, tokens, "token")
        x += embed(c.max_position_embeddings, places, "position")
        x += embed(c.type_vocab_size, jnp.zeros_like(tokens), "token_type")
        x = _norm(c, "norm")(x)
        for i in range(c.num_hidden_layers):
            x = Block(c, self.dtype, name=f"block_{i}")(x, lengths)
        return x * (places < lengths[:, None])[..., None]


def _norm(config: BertConfig, name: str) -> nn.Module:
    return nn.LayerNorm(config.layer_norm_eps, use_fast_variance=False, name=name)


HF_TOP = {
    "token": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
HF_BLOCK = {
    **{name: f"attention.self.{name}" for name in ("query", "key", "value")},
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ff_in": "intermediate.dense",
    "ff_out": "output.dense",
    "ff_norm": "output.LayerNorm",
}
