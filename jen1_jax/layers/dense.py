"""The dense layer as a flat matrix product.

Of any other form, XLA on a CPU transposes whole activations for the gradient.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jen1_jax.layers.layer import Layer
from jen1_jax.sharding import gathered, gradient_dtype, split_gradients


@jax.custom_vjp
def product(
    x: Float[Array, "*batch channels"], kernel: Float[Array, "channels features"]
) -> Float[Array, "*batch features"]:
    """`x @ kernel` in the type of `x`, with all leading dimensions of `x` as one.

    A kernel that is sharded is gathered for the product, and its gradient is summed over devices in
    `sharding.gradient_dtype`.
    """
    flat = _dot(_flat(x), gathered(kernel.astype(x.dtype)), (1, 0))
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _dot(a: Array, b: Array, axes: tuple[int, int], dtype: DTypeLike | None = None) -> Array:
    """The product of two matrices over one of the axes of each."""
    contracted = ([axes[0]], [axes[1]])
    return jax.lax.dot_general(a, b, (contracted, ([], [])), preferred_element_type=dtype)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _gradients(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved

    def gradients(x, whole, g):
        dx = _dot(_flat(g), whole, (1, 1)).reshape(x.shape)
        return dx, _dot(_flat(x), _flat(g), (0, 0), gradient_dtype(x))

    dx, dkernel = split_gradients(gradients, x, kernel.astype(x.dtype), g)
    return dx, dkernel.astype(kernel.dtype)


product.defvjp(_forward, _gradients)


@jax.custom_vjp
def add_bias(
    y: Float[Array, "*batch features"], bias: Float[Array | np.ndarray, " features"]
) -> Float[Array, "*batch features"]:
    """`y + bias` in the type of `y`; the bias's gradient is summed in `sharding.gradient_dtype`."""
    return y + bias.astype(y.dtype)


def _bias_gradients(like: Array, g: Array) -> tuple[Array, Array]:
    total = jnp.sum(_flat(g), axis=0, dtype=gradient_dtype(g))
    return g, total.astype(like.dtype)


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), bias), _bias_gradients)


class Dense(Layer, nn.Module):
    """A linear map of the channels, with a bias if `use_bias`; parameters are float32."""

    features: int
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch features"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = product(jnp.asarray(x, self.dtype), kernel)
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
        return y
