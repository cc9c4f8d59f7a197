"""Embeddings of the noise level (log-SNR) and of the frame (rotary)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jen1_jax.layers.dense import Dense

LOG_SNR_LIMIT = 20.0


def fourier_features(
    x: Float[Array, " batch"], features: int, limit: float
) -> Float[Array, "batch features"]:
    """Sines and cosines of values that are clipped to [-limit, limit]; `features` is even.

    Wavelengths are geometric, from five times the clipped range, where the sine is monotonic, to
    1/27 of it.
    """
    longest, shortest = 10 * limit, 0.075 * limit  # wavelengths
    frequencies = np.geomspace(1 / longest, 1 / shortest, features // 2, dtype=np.float32)
    angles = jnp.clip(x, -limit, limit)[:, None].astype(jnp.float32) * (2 * np.pi * frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class LogSNREmbedding(nn.Module):
    """An MLP over the Fourier features of `log_snr`, in float32: one vector per example."""

    features: int

    @nn.compact
    def __call__(self, log_snr: Float[Array, " batch"]) -> Float[Array, "batch features"]:
        x = Dense(self.features, name="hidden")(
            fourier_features(log_snr, min(self.features, 256), LOG_SNR_LIMIT)
        )
        return Dense(self.features, name="output")(nn.silu(x))


def rotary(
    x: Float[Array, "batch frames heads channels"], base: float = 10_000.0
) -> Float[Array, "batch frames heads channels"]:
    """`x` with channel pairs (c, c + channels / 2) rotated in proportion to the frame.

    This is RoPE (Su et al. 2021): the product of a rotated query and a rotated key depends only on
    the distance of their frames. Angles are float32. The number of channels must be even.
    """
    _, frames, _, channels = x.shape
    if channels % 2:
        raise ValueError(f"rotary positions need pairs of channels, got {channels} channels a head")
    frequencies = base ** -np.linspace(0, 1, channels // 2, endpoint=False)
    angles = np.arange(frames)[:, None, None] * frequencies
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    turned = jax.lax.platform_dependent(x, tpu=_turn_by_product, default=_turn)
    twice = lambda part: np.concatenate([part, part], axis=-1)
    y = x.astype(jnp.float32) * twice(cosine) + turned.astype(jnp.float32) * twice(sine)
    return y.astype(x.dtype)


def _turn(x: Array) -> Array:
    """Channel pairs (c, c + channels / 2), turned by a right angle."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-second, first], axis=-1)


def _turn_by_product(x: Array) -> Array:
    """`_turn` as an exact product with a permutation.

    A TPU would store halves of 128 channels, and fill tiles of 128 with each.
    """
    permutation = _turn(jnp.eye(x.shape[-1], dtype=x.dtype))
    return jnp.matmul(x, permutation, precision="highest")
