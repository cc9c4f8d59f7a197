"""Multi-head attention over frames and to text, and the transformer block of both.

There are `width // head_dim` heads. Whether an example looks ahead is a flag per example, as in
`conv`.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jen1_jax.layers import splash
from jen1_jax.layers.conv import Causal
from jen1_jax.layers.dense import Dense
from jen1_jax.layers.embeddings import rotary
from jen1_jax.layers.layer import Layer, Reach
from jen1_jax.layers.norms import RMSNorm
from jen1_numpy.errors import Refusal


def attention(
    query: Float[Array, "batch frames heads channels"],
    key: Float[Array, "batch keys heads channels"],
    value: Float[Array, "batch keys heads channels"],
    valid: Bool[Array, "batch keys"] | None = None,
    lengths: Int[Array, " batch"] | None = None,
    causal: Causal = False,
) -> Float[Array, "batch frames heads channels"]:
    """Softmax attention to the keys that are `valid`, below `lengths`, and not later if `causal`.

    The queries belong to the last frames of the keys. Logits are scaled by channels^-1/2; logits
    and softmax are float32. A query without any key gets a finite, meaningless value.
    """
    frames, keys = query.shape[1], key.shape[1]
    mask = (
        None
        if valid is None
        else jnp.broadcast_to(valid[:, None, None], (len(valid), 1, frames, keys))
    )
    if causal is not False:
        past = jnp.tri(frames, keys, keys - frames, dtype=bool) | ~jnp.asarray(causal).reshape(
            -1, 1, 1, 1
        )
        mask = past if mask is None else mask & past
    # cuDNN's fused kernel needs half precision, a multiple of 8 channels up to 128 a head, and
    # with a mask an even number of frames.
    head = query.shape[-1]
    fits = (
        head % 8 == frames % 2 == keys % 2 == 0
        and head <= 128
        and query.dtype in (jnp.bfloat16, jnp.float16)
    )
    fused = jax.default_backend() == "gpu" and fits
    attend = partial(
        jax.nn.dot_product_attention,
        mask=mask,
        key_value_seq_lengths=lengths,
        implementation="cudnn" if fused else "xla",
    )
    if fused or not splash.pays(query, key):
        return attend(query, key, value)
    # Chosen when it is lowered, so that a machine without a TPU can compile a program for one.
    on_tpu = partial(splash.splash_attention, valid=valid, lengths=lengths, causal=causal)
    return jax.lax.platform_dependent(query, key, value, tpu=on_tpu, default=attend)


class Attention(Layer, nn.Module):
    """Self-attention of `x` with rotary positions, or cross-attention to `text` without positions.

    `valid`, `lengths` and `causal` limit the keys, as in `attention`. With `qk_norm` each head's
    queries and keys are divided by their root mean square and scaled by learnt factors, the same
    for all heads (Henry et al. 2020; Dehghani et al. 2023, section 2).
    """

    head_dim: int
    qk_norm: bool = False
    dtype: DTypeLike = jnp.float32
    padding = "valid"

    def reach(self, causal: bool) -> Reach:
        """Of self-attention; cross-attention reads one frame and all of the text."""
        return Reach.window(math.inf, causal)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch frames width"],
        valid: Bool[Array, "batch keys"] | None = None,
        causal: Causal = False,
        text: Float[Array, "batch tokens features"] | None = None,
        lengths: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch frames width"]:
        width = x.shape[-1]
        if width % self.head_dim:
            raise Refusal(
                f"A width of {width} is not a multiple of the head_dim {self.head_dim};"
                " change one of them."
            )
        source = x if text is None else text
        heads = lambda y: y.reshape(*y.shape[:2], -1, self.head_dim)
        project = lambda name, y: heads(
            Dense(width, use_bias=False, dtype=self.dtype, name=name)(y)
        )
        query, key, value = project("query", x), project("key", source), project("value", source)
        if self.qk_norm:
            norm = lambda name: RMSNorm(dtype=self.dtype, name=name)
            query, key = norm("query_norm")(query), norm("key_norm")(key)
        if text is None:
            query, key = rotary(query), rotary(key)
        y = attention(query, key, value, valid=valid, lengths=lengths, causal=causal)
        return Dense(width, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output")(
            y.reshape(x.shape)
        )


class FeedForward(Layer, nn.Module):
    """Two linear maps with a GELU between them; the hidden layer is `multiplier` times as wide."""

    multiplier: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames width"]) -> Float[Array, "batch frames width"]:
        y = nn.gelu(Dense(self.multiplier * x.shape[-1], dtype=self.dtype, name="hidden")(x))
        return Dense(
            x.shape[-1], kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output"
        )(y)


class TransformerBlock(Layer, nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each added to its input.

    Each reads the normalised input; the block starts as the identity. With `replace_text`, an
    example whose text has length 0 attends, with the weights of the cross-attention, to the frames
    that its mode allows (JEN-1, section 3.2); then `text` must be as wide as `x`.
    """

    head_dim: int
    ff_multiplier: int
    replace_text: bool = False
    qk_norm: bool = False
    dtype: DTypeLike = jnp.float32
    padding = "valid"

    def reach(self, causal: bool) -> Reach:
        return Reach.window(math.inf, causal)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch frames width"],
        text: Float[Array, "batch tokens features"],
        lengths: Int[Array, " batch"],
        valid: Float[Array, "batch frames 1"],
        causal: Causal = False,
    ) -> Float[Array, "batch frames width"]:
        norm = lambda name: RMSNorm(dtype=self.dtype, name=name)
        attend = lambda name: Attention(self.head_dim, self.qk_norm, dtype=self.dtype, name=name)
        x = x + attend("self_attention")(
            norm("self_norm")(x), valid=valid[..., 0] > 0, causal=causal
        )
        y = norm("cross_norm")(x)
        if self.replace_text:
            # The keys are the text followed by the frames, and the mask leaves each example one of
            # the two, so that examples with and without text share a batch.
            tokens = jnp.arange(text.shape[1]) < lengths[:, None]
            frames = (valid[..., 0] > 0) & (lengths == 0)[:, None]
            keys, mask = (jnp.concatenate(pair, axis=1) for pair in ((text, y), (tokens, frames)))
            x = x + attend("cross_attention")(y, text=keys, valid=mask, causal=causal)
        else:
            x = x + attend("cross_attention")(y, text=text, lengths=lengths)
        return x + FeedForward(self.ff_multiplier, dtype=self.dtype, name="feed_forward")(
            norm("feed_forward_norm")(x)
        )
