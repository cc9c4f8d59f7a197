"""1D convolutions with a causal switch, and resampling by reshape.

Every layer here maps `[batch, frames, channels]` to `[batch, frames', features]`. In bidirectional
mode its window is centred. In causal mode the same weights read the same window, delayed until it
ends at the current frame. The mode is a flag per example, so that both modes share one pass and one
set of weights (JEN-1, section 3.3).
"""

from collections.abc import Callable
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jen1_jax.layers.convolve import convolve
from jen1_jax.layers.dense import add_bias, product
from jen1_jax.layers.layer import Layer, Reach

Causal = Bool[Array, " batch"] | bool


def delay(
    x: Float[Array, "batch frames channels"], frames: int, causal: Causal
) -> Float[Array, "batch frames channels"]:
    """`x`, delayed by `frames` where `causal`, with zeros at the front."""
    if frames == 0 or causal is False:
        return x
    delayed = jnp.pad(x, ((0, 0), (frames, 0), (0, 0)))[:, : x.shape[1]]
    return delayed if causal is True else jnp.where(causal[:, None, None], delayed, x)


class Conv1d(Layer, nn.Module):
    """Convolution that keeps the number of frames; `kernel_size` must be odd.

    Weight normalisation (Salimans & Kingma 2016) is per output channel. Its scale starts as the
    norm of the direction, so that the layer starts equal to one without it, as in PyTorch.
    """

    features: int
    kernel_size: int
    dilation: int = 1
    use_bias: bool = True
    weight_norm: bool = False
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32
    padding = "zeros"

    def reach(self, causal: bool) -> Reach:
        return Reach.window(self.dilation * (self.kernel_size - 1) // 2, causal)

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
            # In this form the compiler finds the forward passes of all gradients equal, and
            # computes them once.
            kernel = kernel * (scale * jax.lax.rsqrt(power))
        x = x.astype(self.dtype)
        if self.kernel_size == 1:
            y = product(x, kernel[0])
        else:
            # The frames of both modes, of which each example takes its own: a TPU pads within the
            # convolution, and would store inputs that are delayed.
            side, frames = self.dilation * (self.kernel_size - 1) // 2, x.shape[1]
            before = side if causal is False else 2 * side
            x = jnp.pad(x, ((0, 0), (before, 0 if causal is True else side), (0, 0)))
            y = convolve(x, kernel, self.dilation)
            if not isinstance(causal, bool):
                y = jnp.where(causal[:, None, None], y[:, :frames], y[:, side:])
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
        return y


class Downsample(Layer, nn.Module):
    """Folds `factor` frames into channels and convolves at the low rate: a strided convolution.

    In causal mode low-rate frame j reads input frames up to j * factor, because `Upsample` gives it
    to output frames from j * factor on. `frames` must be a multiple of `factor`. `kernel_size`
    counts low-rate frames.
    """

    features: int
    factor: int
    kernel_size: int = 1
    weight_norm: bool = False
    dtype: DTypeLike = jnp.float32
    padding = "zeros"

    @property
    def rate(self) -> Fraction:
        return Fraction(1, self.factor)

    def reach(self, causal: bool) -> Reach:
        before, after = Reach.window((self.kernel_size - 1) // 2 * self.factor, causal)
        folded = self.factor - 1
        return Reach(before + folded, after) if causal else Reach(before, after + folded)

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


class Upsample(Layer, nn.Module):
    """Convolves at the low rate to `factor * features` channels and unfolds them into frames.

    This is the polyphase form of a transposed convolution. Its gradient is that of a convolution,
    10-30 times cheaper than that of `lax.conv_transpose`. `kernel_size` counts low-rate frames.
    """

    features: int
    factor: int
    kernel_size: int = 1
    weight_norm: bool = False
    dtype: DTypeLike = jnp.float32
    padding = "zeros"

    @property
    def rate(self) -> Fraction:
        return Fraction(self.factor)

    def reach(self, causal: bool) -> Reach:
        return Reach.window((self.kernel_size - 1) // 2, causal)

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
