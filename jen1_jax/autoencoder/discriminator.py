"""The autoencoder's adversary: judges patches of complex spectra at several resolutions.

One small 2D convolutional network per window length sees the real and imaginary parts of both channels' spectra, four planes, and
gives a verdict for every patch (JEN-1, section 3.1; after EnCodec's MS-STFT discriminator, Défossez et al. 2022, A.2). Channels
are mixed from the first layer on and nowhere grouped, so that it hears the stereo image. Frequency is strided by folding.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jen1_jax.autoencoder.losses import Term, stft
from jen1_jax.registry import Registry

FAINT = 1e-3  # mean size of a layer's features; those of ordinary music are some hundredths

# Per window length: (verdicts, features of every layer), each [batch, frames, bins, channels].
Judged = list[tuple[Float[Array, "batch _ _ 1"], list[Float[Array, "batch _ _ _"]]]]

# What the judge minimises given its verdicts on real and made audio, and what the maker minimises given those on its own.
ADVERSARIAL = Registry(
    "adversary.loss",
    {
        "hinge": (lambda real, made: nn.relu(1 - real) + nn.relu(1 + made), lambda made: -made),
        "least_squares": (
            lambda real, made: (1 - real) ** 2 + made**2,
            lambda made: (1 - made) ** 2,
        ),
    },
)


class WeightNormConv(nn.Module):
    """2D convolution, weight-normalised like `layers.conv.Conv1d`; keeps the frames, and halves the bins if `fold`."""

    features: int
    kernel_size: tuple[int, int]
    dilation: int = 1  # of frames
    fold: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames bins channels"]
    ) -> Float[Array, "batch frames low features"]:
        if self.fold:
            x = jnp.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, 0)))
            x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2 * x.shape[3])
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (*self.kernel_size, x.shape[-1], self.features),
        )
        power = jnp.sum(kernel**2, axis=(0, 1, 2)) + 1e-12
        scale = self.param("scale", lambda _: jnp.sqrt(power))
        kernel = (kernel * (scale * jax.lax.rsqrt(power))).astype(self.dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel, (1, 1), "SAME",
            rhs_dilation=(self.dilation, 1), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


class Discriminator(nn.Module):
    """Fields: `windows` (samples), `channels` of every layer, `dtype` of the arithmetic; verdicts and features are float32."""

    windows: tuple[int, ...]
    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, audio: Float[Array, "batch samples 2"]) -> Judged:
        return [self._judge(audio, window) for window in self.windows]

    def _judge(self, audio, window):
        def conv(x, features, kernel_size, **options):
            name = f"window_{window}_conv_{len(layers)}"
            return WeightNormConv(features, kernel_size, dtype=self.dtype, name=name, **options)(x)

        layers = []
        # 0.5 for a full-scale sine; white noise of the same power would have about 1 / sqrt(window)
        spectrum = stft(audio.astype(jnp.float32), window) * jnp.sqrt(window / 1.5)
        x = jnp.concatenate([spectrum.real, spectrum.imag], axis=1)
        x = jnp.moveaxis(x, 1, -1)
        for dilation in (
            1,
            1,
            2,
            4,
        ):  # folded from the first layer on: at all bins it would cost as much as all others
            x = nn.leaky_relu(conv(x, self.channels, (3, 5), fold=True, dilation=dilation), 0.2)
            layers.append(x)
        x = nn.leaky_relu(conv(x, self.channels, (3, 3)), 0.2)
        layers.append(x)
        verdict = conv(x, 1, (3, 3))
        return verdict.astype(jnp.float32), [layer.astype(jnp.float32) for layer in layers]


def discriminator_loss(
    kind: str, real: Judged, made: Judged, windows: tuple[int, ...], valid: Int[Array, " batch"]
) -> Term:
    """How badly the verdicts tell real audio from made audio, per patch, averaged over resolutions."""
    loss, _ = ADVERSARIAL[kind]
    return _average([loss(r, m) for (r, _), (m, _) in zip(real, made, strict=True)], windows, valid)


def adversarial_loss(
    kind: str, made: Judged, windows: tuple[int, ...], valid: Int[Array, " batch"]
) -> Term:
    """How far the verdicts on made audio are from taking it for real, per patch, averaged over resolutions."""
    _, loss = ADVERSARIAL[kind]
    return _average([loss(verdict) for verdict, _ in made], windows, valid)


def feature_matching_loss(
    real: Judged, made: Judged, windows: tuple[int, ...], valid: Int[Array, " batch"]
) -> Term:
    """Absolute difference of every layer's features, relative to their mean size on the real audio (Kumar et al. 2019).

    Features smaller than `FAINT` on average are weighed as if they were that large, or a silent crop would outweigh its batch.
    """
    total = jnp.zeros(valid.shape)
    for (_, r), (_, m), window in zip(real, made, windows, strict=True):
        for ours, theirs in zip(m, r, strict=True):
            weight = _patches(ours.shape[1], window, valid)
            size, least = (
                jnp.sum(weight * jnp.abs(theirs), (1, 2, 3)),
                FAINT * weight.sum((1, 2, 3)) * theirs[0, 0].size,
            )
            total += (
                jnp.sum(weight * jnp.abs(ours - theirs), (1, 2, 3))
                / jnp.maximum(size, jnp.maximum(least, FAINT))
                / len(m)
            )
    some = (valid > 0).astype(jnp.float32)
    return total / len(windows) * some, some


def _average(losses, windows, valid) -> Term:
    """Mean of each example's losses over its real patches, then over resolutions."""
    total = jnp.zeros(valid.shape)
    for loss, window in zip(losses, windows, strict=True):
        weight = _patches(loss.shape[1], window, valid)
        total += (
            jnp.sum(weight * loss, (1, 2, 3))
            / jnp.maximum(weight.sum((1, 2, 3)), 1)
            / loss.shape[2]
        )
    some = (valid > 0).astype(jnp.float32)
    return total / len(windows) * some, some


def _patches(
    frames: int, window: int, valid: Int[Array, " batch"]
) -> Float[Array, "batch frames 1 1"]:
    """1 for the frames that start inside an example's real part."""
    return (jnp.arange(frames) * (window // 4) < valid[:, None]).astype(jnp.float32)[
        ..., None, None
    ]
