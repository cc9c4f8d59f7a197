"""The convolution of `conv`, which training on a CPU computes by matrix products.

XLA's convolution is fast on a GPU, on a TPU, and without gradients. On a CPU its gradient
transposes the kernel number by number. This is slow where the kernel is larger than the
activations, as deep in a U-Net, and slower inside a loop.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jen1_jax.layers.dense import product
from jen1_jax.sharding import gathered, gradient_dtype, split_gradients


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "batch frames channels"],
    kernel: Float[Array, "taps channels features"],
    dilation: int,
) -> Float[Array, "batch shorter features"]:
    """Frame f is the sum over taps i of `x[f + i * dilation] @ kernel[i]`, without any padding.

    It is computed in the type of `x`. A sharded kernel is treated as by `dense.product`.
    """
    return direct(x, gathered(kernel.astype(x.dtype)), dilation)


def direct(x: Array, kernel: Array, dilation: int) -> Array:
    """`convolve` by XLA, with XLA's gradients."""
    dimensions = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), "VALID", rhs_dilation=(dilation,), dimension_numbers=dimensions
    )


def winograd(x: Array, kernel: Array, dilation: int) -> Array:
    """`convolve` of three taps with four products for two frames instead of six.

    This is F(2, 3) of Lavin & Gray 2016 (arXiv 1509.09308). In it a result contains only the frames
    that it reads; in the larger algorithms other frames enter and cancel. So causality and padding
    stay exact.
    """
    batch, frames, channels = x.shape
    frames -= 2 * dilation
    surplus = -frames % (2 * dilation)
    pairs = jnp.pad(x, ((0, 0), (0, surplus), (0, 0))).reshape(batch, -1, 2, dilation, channels)
    a, b, c, d = pairs[:, :-1, 0], pairs[:, :-1, 1], pairs[:, 1:, 0], pairs[:, 1:, 1]
    outer, inner = (kernel[0] + kernel[2]) / 2, kernel[1] / 2
    sums, differences = product(b + c, outer + inner), product(c - b, outer - inner)
    first = product(a - c, kernel[0]) + sums + differences
    second = sums - differences - product(b - d, kernel[2])
    return jnp.stack([first, second], axis=2).reshape(batch, frames + surplus, -1)[:, :frames]


def _direct_gradients(x: Array, kernel: Array, g: Array, dilation: int) -> tuple[Array, Array]:
    """XLA's gradients of `direct`, that of the kernel in `gradient_dtype`."""
    (dx,) = jax.vjp(partial(direct, kernel=kernel, dilation=dilation), x)[1](g)
    dkernel = jax.lax.conv_general_dilated(
        x,
        g,
        (dilation,),
        "VALID",
        dimension_numbers=("CWN", "IWO", "WNC"),
        preferred_element_type=gradient_dtype(x),
    )
    return dx, dkernel


def _products(x: Array, kernel: Array, g: Array, dilation: int) -> tuple[Array, Array]:
    """The gradients as two products over all taps, without a transposed copy of the kernel."""
    (taps, channels, features), (batch, frames, _) = kernel.shape, g.shape
    # Frames before and after the result's, of each tap.
    places = [(i * dilation, (taps - 1 - i) * dilation) for i in range(taps)]
    place = lambda part, sides: jnp.pad(part, ((0, 0), sides, (0, 0)))
    spread = jnp.dot(
        g.reshape(-1, features), kernel.reshape(-1, features).T, preferred_element_type=jnp.float32
    )
    spread = jnp.split(spread.reshape(batch, frames, -1), taps, axis=-1)
    dx = reduce(jnp.add, map(place, spread, places))
    placed = jnp.concatenate([place(g, sides) for sides in places], axis=-1)
    dkernel = jnp.dot(
        x.reshape(-1, channels).T,
        placed.reshape(-1, taps * features),
        preferred_element_type=gradient_dtype(x),
    )
    return dx.astype(x.dtype), dkernel.reshape(channels, taps, features).swapaxes(0, 1)


def _winograd_pays(x: Array, kernel: Array) -> bool:
    """Whether `winograd` saves more time on products than its additional sums take.

    The limits were measured on two cores with 256 to 1024 channels. Float32 only, since the sums
    would lose digits in half precision.
    """
    (taps, channels, features), rows = kernel.shape, x.shape[0] * x.shape[1]
    return (
        taps == 3
        and x.dtype == jnp.float32
        and 2 + rows * (1 / channels + 1 / features) < rows / 96
    )


# With gradients of its own: otherwise remat would save the results of both branches.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _in_training(x: Array, kernel: Array, dilation: int) -> Array:
    own, fast = (partial(method, dilation=dilation) for method in (direct, winograd))
    return (
        jax.lax.platform_dependent(x, kernel, cpu=fast, default=own)
        if _winograd_pays(x, kernel)
        else own(x, kernel)
    )


def _forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    y = _in_training(x, gathered(kernel.astype(x.dtype)), dilation)
    return checkpoint_name(y, "convolution"), (x, kernel)


def _gradients(dilation: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dx, dkernel = split_gradients(
        partial(_fast_gradients, dilation=dilation), x, kernel.astype(x.dtype), g
    )
    return dx, dkernel.astype(kernel.dtype)


def _fast_gradients(x: Array, kernel: Array, g: Array, dilation: int) -> tuple[Array, Array]:
    own = partial(_direct_gradients, dilation=dilation)
    if _winograd_pays(x, kernel):

        def fast(x, kernel, g):
            return jax.vjp(partial(winograd, dilation=dilation), x, kernel)[1](g)

    elif kernel.size >= x.size:
        fast = partial(_products, dilation=dilation)
    else:
        return own(x, kernel, g)
    return jax.lax.platform_dependent(x, kernel, g, cpu=fast, default=own)


convolve.defvjp(_forward, _gradients)
_in_training.defvjp(_forward, _gradients)
