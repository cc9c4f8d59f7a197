"""1D convolutions with a causal switch, and resampling by reshape.

Every layer here maps `[batch, frames, channels]` to `[batch, frames', features]`. In bidirectional mode its window is centred; in
causal mode the same weights read the same window delayed until it ends at the current frame. The mode is a flag per example, so
both modes share one pass and one set of weights (JEN-1, section 3.3).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jen1_jax.layers.convolve import convolve
from jen1_jax.layers.dense import product

Causal = Bool[Array, " batch"] | bool


def delay(
    x: Float[Array, "batch frames channels"], frames: int, causal: Causal
) -> Float[Array, "batch frames channels"]:
    """`x` delayed by `frames` (zeros enter at the front) where `causal`, unchanged elsewhere."""
    if frames == 0 or causal is False:
        return x
    delayed = jnp.pad(x, ((0, 0), (frames, 0), (0, 0)))[:, : x.shape[1]]
    return delayed if causal is True else jnp.where(causal[:, None, None], delayed, x)


class Conv1d(nn.Module):
    """Convolution that keeps the number of frames; `kernel_size` is odd, so that one delay turns it causal.

    A frame reads `dilation * (kernel_size - 1) / 2` frames to each side; causal, twice as many before it.

    Weight normalisation (Salimans & Kingma 2016) is per output channel; its scale starts at the norm of the direction, so the
    layer starts out equal to the plain one, as in PyTorch.
    """

    features: int
    kernel_size: int
    dilation: int = 1
    use_bias: bool = True
    weight_norm: bool = False
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames channels"], causal: Causal = False
    ) -> Float[Array, "batch frames features"]:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        kernel = self.param(
            "kernel", self.kernel_init, (self.kernel_size, x.shape[-1], self.features)
        )
        if self.weight_norm:
            power = jnp.sum(kernel**2, axis=(0, 1)) + 1e-12
            scale = self.param("scale", lambda _: jnp.sqrt(power))
            # in this form, so that every gradient's forward pass is the same to the compiler, and is computed once
            kernel = kernel * (scale * jax.lax.rsqrt(power))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.kernel_size == 1:
            y = product(x, kernel[0])
        else:
            reach = self.dilation * (self.kernel_size - 1) // 2
            x = jnp.pad(
                x, ((0, 0), (reach, reach), (0, 0))
            )  # first, or the delay would push the last frames out
            y = convolve(delay(x, reach, causal), kernel, self.dilation)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


class Downsample(nn.Module):
    """`factor` frames folded into channels, then a convolution at the low rate: a strided convolution without the stride.

    In causal mode low-rate frame j reads input frames up to j * factor and no further, because `Upsample` hands it to outputs
    from j * factor on. `frames` must be a multiple of `factor`. `kernel_size` counts low-rate frames: one of them reads
    `(kernel_size - 1) / 2 * factor` frames to each side of its own `factor`; causal, twice as many and `factor - 1` before them.
    """

    features: int
    factor: int
    kernel_size: int = 1
    weight_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames channels"], causal: Causal = False
    ) -> Float[Array, "batch low features"]:
        batch, frames, channels = x.shape
        if frames % self.factor:
            raise ValueError(f"{frames} frames are not a multiple of the factor {self.factor}")
        x = delay(x, self.factor - 1, causal)
        x = x.reshape(batch, frames // self.factor, self.factor * channels)
        return Conv1d(
            self.features, self.kernel_size, weight_norm=self.weight_norm, dtype=self.dtype
        )(x, causal)


class Upsample(nn.Module):
    """A convolution at the low rate to `factor * features` channels, unfolded into frames: the polyphase transposed convolution.

    Its gradient is a plain convolution's, 10-30 times cheaper than that of `lax.conv_transpose`. `kernel_size` counts low-rate
    frames: every output reads `(kernel_size - 1) / 2` of them to each side of its own; causal, twice as many before it.
    """

    features: int
    factor: int
    kernel_size: int = 1
    weight_norm: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch low channels"], causal: Causal = False
    ) -> Float[Array, "batch frames features"]:
        batch, low, _ = x.shape
        x = Conv1d(
            self.factor * self.features,
            self.kernel_size,
            weight_norm=self.weight_norm,
            dtype=self.dtype,
        )(x, causal)
        return x.reshape(batch, low * self.factor, self.features)
