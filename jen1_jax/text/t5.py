"""The encoder of T5 v1.1 and FLAN-T5 in Flax, with the layout of Hugging Face's files.

Raffel et al. 2020 (arXiv 1910.10683) with the gated feed-forward of Shazeer 2020 (arXiv
2002.05202). Unlike most transformers: attention is not scaled by 1 / sqrt(d); positions are only a
bias on its scores, one table for all layers; no linear map has a bias; the norms do not centre;
`num_heads * d_kv` need not be `d_model`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jen1_jax.layers.norms import RMSNorm
from jen1_jax.text.folder import layout
from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import SentencePiece


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The layout, with the names and defaults of Hugging Face's config.json."""

    tokenizer_files: ClassVar[tuple[str, ...]] = SentencePiece.files

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_json(cls, values: Mapping, origin: str) -> "T5Config":
        """The layout in a parsed config.json; refuses, by its name `origin`, other models."""
        form = values.get("feed_forward_proj")
        if form != "gated-gelu":
            raise Refusal(
                f"{origin} has feed_forward_proj {form!r}, but of T5 only 'gated-gelu' (T5 v1.1,"
                " FLAN-T5) is supported: choose a FLAN-T5, for example google/flan-t5-large."
            )
        return layout(cls, values, origin)

    def to_json(self) -> dict:
        """The config.json from which transformers builds the same encoder."""
        return {
            "model_type": "t5",
            "architectures": ["T5EncoderModel"],
            "feed_forward_proj": "gated-gelu",
            **asdict(self),
        }

    @property
    def features(self) -> int:
        return self.d_model

    def module(self, dtype: DTypeLike) -> "T5Encoder":
        return T5Encoder(self, dtype)

    def weight_names(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """One name, and for the tokens' table, which some models share with the decoder, two."""
        if len(path) == 3:
            block = path[0].removeprefix("block_")
            return (f"encoder.block.{block}.{HF_BLOCK[path[1]]}.weight",)
        return tuple(f"{name}.weight" for name in HF_TOP[path[0]])

    def tokenizer(self, folder: Path, max_length: int) -> SentencePiece:
        return SentencePiece(folder, max_length)


def position_buckets(length: int, config: T5Config) -> np.ndarray:
    """Buckets of the distances from query i to key j, int32 [length, length].

    Small distances have a bucket each; large ones share logarithmic buckets.
    """
    # One half of the buckets is for keys before the query, the other for keys after it.
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    ratio = np.log(np.maximum(np.abs(distance), 1) / exact) / np.log(
        config.relative_attention_max_distance / exact
    )
    # With 1e-6 exact powers fall into the upper bucket, as in exact arithmetic.
    far = exact + np.floor(ratio * (half - exact) + 1e-6)
    near = np.abs(distance) < exact
    return np.where(near, np.abs(distance), np.minimum(far, half - 1)).astype(np.int32) + half * (
        distance > 0
    ).astype(np.int32)


class Block(nn.Module):
    """Self-attention and a gated feed-forward network.

    Each reads the normalised sum of what precedes it and is added to this sum, which is float32.
    """

    config: T5Config
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens d_model"],
        bias: Float[Array, "1 heads tokens tokens"],
        lengths: Int[Array, " batch"],
    ) -> Float[Array, "batch tokens d_model"]:
        c = self.config
        # T5's initial scales: attention is not scaled, so queries start 1 / sqrt(d_kv) smaller.
        dense = lambda features, variance, name: nn.Dense(
            features,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(variance**-0.5),
            name=name,
        )
        norm = lambda name: RMSNorm(c.layer_norm_epsilon, self.dtype, name=name)
        inner = c.num_heads * c.d_kv

        y = norm("attention_norm")(x)
        q, k, v = (
            dense(inner, variance, name)(y).reshape(*x.shape[:2], c.num_heads, c.d_kv)
            for name, variance in (("q", c.d_model * c.d_kv), ("k", c.d_model), ("v", c.d_model))
        )
        y = jax.nn.dot_product_attention(
            q, k, v, bias=bias, scale=1.0, key_value_seq_lengths=lengths
        )  # softmax in float32
        x = x + dense(c.d_model, inner, "o")(y.reshape(*x.shape[:2], inner))

        y = norm("ff_norm")(x)
        y = nn.gelu(dense(c.d_ff, c.d_model, "wi_0")(y), approximate=True) * dense(
            c.d_ff, c.d_model, "wi_1"
        )(y)
        return x + dense(c.d_model, c.d_ff, "wo")(y)


class T5Encoder(nn.Module):
    """Tokens to one float32 vector each, zero from `lengths` on; padding changes no real token.

    Products are in `dtype`, whatever the dtype of the parameters; norms, softmax and the sum
    through the blocks are float32.
    """

    config: T5Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch tokens"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch tokens d_model"]:
        c = self.config
        length = tokens.shape[1]
        x = nn.Embed(
            c.vocab_size, c.d_model, embedding_init=nn.initializers.normal(1.0), name="token"
        )(tokens)
        x = x.astype(jnp.float32)
        bias_init = nn.initializers.normal(c.d_model**-0.5)
        bias = nn.Embed(
            c.relative_attention_num_buckets, c.num_heads, embedding_init=bias_init, name="position"
        )(position_buckets(length, c))
        bias = bias.astype(jnp.float32).transpose(2, 0, 1)[None]
        for i in range(c.num_layers):
            x = Block(c, self.dtype, name=f"block_{i}")(x, bias, lengths)
        x = RMSNorm(c.layer_norm_epsilon, name="norm")(x)
        return x * (jnp.arange(length) < lengths[:, None])[..., None]


HF_BLOCK = {
    "attention_norm": "layer.0.layer_norm",
    **{name: f"layer.0.SelfAttention.{name}" for name in "qkvo"},
    "ff_norm": "layer.1.layer_norm",
    **{name: f"layer.1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")},
}
HF_TOP = {
    "token": ("shared", "encoder.embed_tokens"),
    "position": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias",),
    "norm": ("encoder.final_layer_norm",),
}
