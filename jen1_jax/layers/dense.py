"""The dense layer, as a flat matrix product: for the gradient of anything else XLA on a CPU transposes whole activations."""

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Float


def product(
    x: Float[Array, "*places channels"], kernel: Float[Array, "channels features"], *_, **options
) -> Array:
    """`x @ kernel`; it takes what flax hands to a `dot_general`."""
    flat = jax.lax.dot_general(
        x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options
    )
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


Dense = partial(nn.Dense, dot_general=product)
