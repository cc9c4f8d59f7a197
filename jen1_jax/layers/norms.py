"""Normalisation of each frame by itself, since statistics over time would break causality."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jen1_jax.layers.layer import Layer


class RMSNorm(Layer, nn.Module):
    """Divides each frame by the root mean square of its channels and scales each channel.

    After Zhang & Sennrich 2019. Statistics and scale are float32; the result has `dtype`. A frame
    of zeros stays zero.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        power = jnp.mean(x**2, axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(power + self.epsilon) * scale).astype(self.dtype)
