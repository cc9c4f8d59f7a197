"""Where in the noise (log-SNR) and where in time (rotary positions) a value stands."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LOG_SNR_LIMIT = 20.0


def fourier_features(log_snr: Float[Array, " batch"], features: int) -> Float[Array, "batch features"]:
    """Sines and cosines of the log signal-to-noise ratio, clipped to [-20, 20]; `features` is even.

    Wavelengths are geometric, from five times the clipped range, where the sine is monotonic, down to 1.5.
    """
    frequencies = 2 * np.pi * np.geomspace(1 / (10 * LOG_SNR_LIMIT), 1 / 1.5, features // 2, dtype=np.float32)
    angles = jnp.clip(log_snr, -LOG_SNR_LIMIT, LOG_SNR_LIMIT)[:, None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class LogSNREmbedding(nn.Module):
    """An MLP over the Fourier features of `log_snr`, float32 throughout: one vector per example that conditions every block."""

    features: int

    @nn.compact
    def __call__(self, log_snr: Float[Array, " batch"]) -> Float[Array, "batch features"]:
        x = nn.Dense(self.features, name="hidden")(fourier_features(log_snr, min(self.features, 256)))
        return nn.Dense(self.features, name="output")(nn.silu(x))


def rotary(x: Float[Array, "batch frames heads channels"], base: float = 10_000.0) -> Float[Array, "batch frames heads channels"]:
    """`x` with channel pairs (c, c + channels / 2) turned by an angle proportional to the frame (RoPE, Su et al. 2021).

    The product of a turned query and a turned key depends on the distance of their frames alone. Angles are float32.
    """
    _, frames, _, channels = x.shape
    if channels % 2:
        raise ValueError(f"rotary positions turn pairs of channels, got {channels} channels a head")
    frequencies = base ** -np.linspace(0, 1, channels // 2, endpoint=False)
    angles = np.arange(frames)[:, None, None] * frequencies
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1).astype(x.dtype)
