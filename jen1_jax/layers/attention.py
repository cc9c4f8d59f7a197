"""Multi-head attention over frames and to text, and the transformer block made of the two.

There are `width // head_dim` heads. Whether an example looks ahead is a flag per example, as in `conv`.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jen1_jax.errors import Refusal
from jen1_jax.layers import splash
from jen1_jax.layers.conv import Causal
from jen1_jax.layers.dense import Dense
from jen1_jax.layers.embeddings import rotary
from jen1_jax.layers.layer import Layer, Reach
from jen1_jax.layers.norms import RMSNorm


def attention(
    query: Float[Array, "batch frames heads channels"],
    key: Float[Array, "batch keys heads channels"],
    value: Float[Array, "batch keys heads channels"],
    valid: Bool[Array, "batch keys"] | None = None,
    lengths: Int[Array, " batch"] | None = None,
    causal: Causal = False,
) -> Float[Array, "batch frames heads channels"]:
    """Softmax attention to the keys that are `valid`, below `lengths`, and, where `causal`, at or before the query's frame: the
    queries stand at the last of the keys.

    Logits are scaled by channels^-1/2; logits and softmax are float32. A query without any key gets a finite, meaningless value.
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
    # What cuDNN's fused kernel takes: half precision, heads of 8 to 128 by eights, and with a mask an even number of frames.
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
    # Decided when it is lowered, so that a program may be compiled for a TPU from a machine without one.
    on_tpu = partial(splash.splash_attention, valid=valid, lengths=lengths, causal=causal)
    return jax.lax.platform_dependent(query, key, value, tpu=on_tpu, default=attend)


class Attention(Layer, nn.Module):
    """Self-attention of `x` with rotary positions, or cross-attention to `text`, where it is given, without them.

    `valid`, `lengths` and `causal` limit what a frame sees, as in `attention`.
    """

    head_dim: int
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
                f"A width of {width} is not a multiple of the head_dim {self.head_dim}; change one of them."
            )
        source = x if text is None else text
        heads = lambda y: y.reshape(*y.shape[:2], -1, self.head_dim)
        project = lambda name, y: heads(
            Dense(width, use_bias=False, dtype=self.dtype, name=name)(y)
        )
        query, key, value = project("query", x), project("key", source), project("value", source)
        if text is None:
            query, key = rotary(query), rotary(key)
        y = attention(query, key, value, valid=valid, lengths=lengths, causal=causal)
        return Dense(width, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output")(
            y.reshape(x.shape)
        )


class FeedForward(Layer, nn.Module):
    """Two projections with a GELU between them, `multiplier` times as wide inside."""

    multiplier: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch frames width"]) -> Float[Array, "batch frames width"]:
        y = nn.gelu(Dense(self.multiplier * x.shape[-1], dtype=self.dtype, name="hidden")(x))
        return Dense(
            x.shape[-1], kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output"
        )(y)


class TransformerBlock(Layer, nn.Module):
    """Self-attention, cross-attention and a feed-forward, each of the normalised input and added to it; it starts as identity.

    With `replace_text` the cross-attention of an example whose text has the length 0 becomes, with the same weights, attention to
    the frames that it may see (JEN-1, section 3.2); `text` must be as wide as `x` then.
    """

    head_dim: int
    ff_multiplier: int
    replace_text: bool = False
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
        attend = lambda name: Attention(self.head_dim, dtype=self.dtype, name=name)
        x = x + attend("self_attention")(
            norm("self_norm")(x), valid=valid[..., 0] > 0, causal=causal
        )
        y = norm("cross_norm")(x)
        if self.replace_text:
            # One sequence of keys, text before frames, of which an example sees either: lengths differ, and the batch is one.
            words = jnp.arange(text.shape[1]) < lengths[:, None]
            own = (valid[..., 0] > 0) & (lengths == 0)[:, None]
            keys, seen = (jnp.concatenate(pair, axis=1) for pair in ((text, y), (words, own)))
            x = x + attend("cross_attention")(y, text=keys, valid=seen, causal=causal)
        else:
            x = x + attend("cross_attention")(y, text=text, lengths=lengths)
        return x + FeedForward(self.ff_multiplier, dtype=self.dtype, name="feed_forward")(
            norm("feed_forward_norm")(x)
        )
