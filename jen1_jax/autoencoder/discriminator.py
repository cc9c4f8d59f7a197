"""The autoencoder's discriminator: it scores patches of complex spectra at several resolutions.

One small 2D convolutional network per window length reads the real and imaginary parts of both
channels' spectra, four planes, and gives a score for every patch (JEN-1, section 3.1; after
EnCodec's MS-STFT discriminator, Defossez et al. 2022, A.2). Channels are mixed from the first layer
on and never grouped, so that it sees the stereo image. Frequency is strided by folding.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jen1_jax.autoencoder.losses import Loss, stft
from jen1_jax.sharding import gathered
from jen1_numpy.registry import Registry

FAINT = 1e-3  # mean size of a layer's features; those of ordinary music are some hundredths


class Scores(NamedTuple):
    """What the discriminator gives for one window length: a score a patch, and all its features."""

    patches: Float[Array, "batch _ _ 1"]
    features: list[Float[Array, "batch _ _ _"]]


# The loss of the discriminator, of its scores for real and for decoded audio, and of the decoder.
ADVERSARIAL_LOSSES = Registry(
    "adversary.loss",
    {
        "hinge": (
            lambda real, decoded: nn.relu(1 - real) + nn.relu(1 + decoded),
            lambda decoded: -decoded,
        ),
        "least_squares": (
            lambda real, decoded: (1 - real) ** 2 + decoded**2,
            lambda decoded: (1 - decoded) ** 2,
        ),
    },
)


class WeightNormConv(nn.Module):
    """2D convolution with weight normalisation, as in `layers.conv.Conv1d`.

    It keeps the number of frames, and with `fold` it halves the number of bins.
    """

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
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        power = jnp.sum(kernel**2, axis=(0, 1, 2)) + 1e-12
        scale = self.param("scale", lambda _: jnp.sqrt(power))
        kernel = gathered((kernel * (scale * jax.lax.rsqrt(power))).astype(self.dtype))
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel,
            (1, 1),
            "SAME",
            rhs_dilation=(self.dilation, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


class Discriminator(nn.Module):
    """`Scores` of each of the `windows` (samples), with `channels` in every layer.

    The arithmetic is `dtype`; scores and features are float32.
    """

    windows: tuple[int, ...]
    channels: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, audio: Float[Array, "batch samples 2"]) -> list[Scores]:
        return [self._resolution(audio, window) for window in self.windows]

    def _resolution(self, audio, window):
        def conv(x, features, kernel_size, **options):
            name = f"window_{window}_conv_{len(layers)}"
            return WeightNormConv(features, kernel_size, dtype=self.dtype, name=name, **options)(x)

        layers = []
        # 0.5 for a full-scale sine; white noise of equal power would have about 1 / sqrt(window)
        spectrum = stft(audio.astype(jnp.float32), window) * jnp.sqrt(window / 1.5)
        x = jnp.concatenate([spectrum.real, spectrum.imag], axis=1)
        x = jnp.moveaxis(x, 1, -1)
        for dilation in (1, 1, 2, 4):  # fold at once: with all bins, layer 1 would cost the most
            x = nn.leaky_relu(conv(x, self.channels, (3, 5), fold=True, dilation=dilation), 0.2)
            layers.append(x)
        x = nn.leaky_relu(conv(x, self.channels, (3, 3)), 0.2)
        layers.append(x)
        patches = conv(x, 1, (3, 3))
        features = [layer.astype(jnp.float32) for layer in layers]
        return Scores(patches.astype(jnp.float32), features)


def discriminator_loss(
    kind: str,
    real: list[Scores],
    decoded: list[Scores],
    windows: tuple[int, ...],
    valid: Int[Array, " batch"],
) -> Loss:
    """How badly the scores tell real from decoded audio: mean over patches and resolutions."""
    loss, _ = ADVERSARIAL_LOSSES[kind]
    both = zip(real, decoded, strict=True)
    return _average([loss(r.patches, d.patches) for r, d in both], windows, valid)


def adversarial_loss(
    kind: str, decoded: list[Scores], windows: tuple[int, ...], valid: Int[Array, " batch"]
) -> Loss:
    """How far decoded audio is from being scored as real: mean over patches and resolutions."""
    _, loss = ADVERSARIAL_LOSSES[kind]
    return _average([loss(scores.patches) for scores in decoded], windows, valid)


def feature_matching_loss(
    real: list[Scores],
    decoded: list[Scores],
    windows: tuple[int, ...],
    valid: Int[Array, " batch"],
) -> Loss:
    """Absolute difference of features, relative to their mean size on real audio, over all layers.

    After Kumar et al. 2019. Features smaller than `FAINT` on average are weighted as if they were
    that large; otherwise a silent crop would dominate its batch.
    """
    total = jnp.zeros(valid.shape)
    for r, d, window in zip(real, decoded, windows, strict=True):
        for ours, theirs in zip(d.features, r.features, strict=True):
            weight = _real_frames(ours.shape[1], window, valid)
            size = jnp.sum(weight * jnp.abs(theirs), (1, 2, 3))
            least = FAINT * weight.sum((1, 2, 3)) * theirs[0, 0].size
            size = jnp.maximum(size, jnp.maximum(least, FAINT))
            difference = jnp.sum(weight * jnp.abs(ours - theirs), (1, 2, 3))
            total += difference / size / len(d.features)
    return total / len(windows) * (valid > 0)


def _average(
    losses: list[Float[Array, "batch _ _ 1"]], windows: tuple[int, ...], valid: Int[Array, " batch"]
) -> Loss:
    """Mean of each example's losses over its real patches, then over resolutions."""
    total = jnp.zeros(valid.shape)
    for loss, window in zip(losses, windows, strict=True):
        weight = _real_frames(loss.shape[1], window, valid)
        patches = jnp.maximum(weight.sum((1, 2, 3)), 1) * loss.shape[2]
        total += jnp.sum(weight * loss, (1, 2, 3)) / patches
    return total / len(windows) * (valid > 0)


def _real_frames(
    frames: int, window: int, valid: Int[Array, " batch"]
) -> Float[Array, "batch frames 1 1"]:
    """1 for the frames that start inside an example's real part."""
    real = jnp.arange(frames) * (window // 4) < valid[:, None]
    return real.astype(jnp.float32)[..., None, None]
