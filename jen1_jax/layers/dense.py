"""The dense layer as a flat matrix product.

Of any other form, XLA on a CPU transposes whole activations for the gradient.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jen1_jax.layers.layer import Layer


def product(
    x: Float[Array, "*batch channels"], kernel: Float[Array, "channels features"]
) -> Float[Array, "*batch features"]:
    """`x @ kernel`, with all leading dimensions of `x` as one."""
    flat = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())))
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(Layer, nn.Module):
    """A linear map of the channels, with a bias if `use_bias`; parameters are float32."""

    features: int
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch features"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = product(jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y
