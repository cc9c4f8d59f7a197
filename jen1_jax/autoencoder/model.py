"""The masked stereo autoencoder: a waveform to continuous latents and back.

    audio [batch, samples, 2] -> stem (stride, k) -> [units -> stride] per level -> units
        -> head (k) -> latents [batch, samples / hop, channels]
    latents -> mask (training) -> head (k) -> units -> [stride -> units] per level
        -> stem (k, stride) -> audio

With a `window` the stem reads the levels of an STFT instead of samples, and the decoder's stem
(k = 1) writes them. Then latents hold no phase, which a generator could not learn, and decoding
finds one (spectrum.py). A linear map of a latent frame's levels is added to the encoder's output,
and one of the latents to the decoder's: training starts from their principal directions
(training/principal.py). Decoding limits each band to its `loudest` level in the training data
(codec.py).

The network is convolutional, after SoundStream and EnCodec, without a quantiser. In training a
share of the latents is masked before the decoder, which makes the decoder robust to imperfect
latents (JEN-1, section 3.1). The stem folds `strides[0]` samples into channels, so that with a
first stride above 1 no layer runs at the full rate.

In causal mode latent frame j reads samples up to the end of its own hop, and sample n reads latents
up to its own frame: the latency is one hop.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jen1_jax.autoencoder import spectrum
from jen1_jax.layers.conv import Conv1d, Upsample
from jen1_jax.layers.dense import Dense
from jen1_jax.layers.layer import Reach
from jen1_jax.sharding import constrain
from jen1_numpy.registry import Registry

Valid = Float[Array, "batch low 1"] | None
# Of the last convolution of a residual branch. The network starts nearly linear and finds the
# principal directions of the audio within a few hundred steps. With an initialisation of full size
# it needs thousands, and can diverge.
SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
# Of what is added to a linear map that starts at the principal directions.
TINY = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")

# Name -> a function of the input and of `alpha()`, a parameter per channel.
ACTIVATIONS = Registry(
    "autoencoder.activation",
    {"snake": lambda x, alpha: snake(x, alpha()), "elu": lambda x, alpha: nn.elu(x)},
)
# Name -> the shape of the mask for latents of a shape.
MASK_UNITS = Registry(
    "autoencoder.mask_unit",
    {"frame": lambda shape: (*shape[:2], 1), "element": lambda shape: shape},
)


def keep_valid(
    x: Float[Array, "batch frames channels"], valid: Valid
) -> Float[Array, "batch frames channels"]:
    """`x` with its padding set to zero; `valid` may have a lower rate.

    Biases make padding nonzero again, so this precedes every layer that mixes frames.
    """
    if valid is None:
        return x
    return x * jnp.repeat(valid.astype(x.dtype), x.shape[1] // valid.shape[1], axis=1)


def fold(x: Float[Array, "batch frames channels"], factor: int) -> Float[Array, "batch low folded"]:
    """Each `factor` frames as one, with their channels concatenated."""
    return x.reshape(x.shape[0], x.shape[1] // factor, factor * x.shape[2])


def snake(
    x: Float[Array, "batch frames channels"], alpha: Float[Array, " channels"]
) -> Float[Array, "batch frames channels"]:
    """x + sin^2(alpha x) / alpha (Ziyin et al. 2020)."""
    return x + jnp.sin(alpha * x) ** 2 / (alpha + 1e-9)


class Activation(nn.Module):
    """ELU, or snake with one alpha per channel. Both map 0 to 0, and so padding to padding."""

    kind: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch frames channels"]
    ) -> Float[Array, "batch frames channels"]:
        ones = nn.initializers.ones
        alpha = lambda: jnp.asarray(self.param("alpha", ones, (x.shape[-1],)), x.dtype)
        return ACTIVATIONS[self.kind](x, alpha)


class Stack(nn.Module):
    """The base of encoder and decoder: the autoencoder's fields, and one level's residual units."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    dilations: tuple[int, ...]
    compress: int
    kernel_size: int
    latent_channels: int
    activation: str
    weight_norm: bool
    causal: bool
    layout: spectrum.Layout
    phase_iterations: int
    dtype: DTypeLike

    def conv(
        self, x: Float[Array, "batch frames _"], features: int, kernel_size: int, **options
    ) -> Float[Array, "batch frames _"]:
        """A convolution in the module's mode; `options` are Conv1d's."""
        return Conv1d(
            features, kernel_size, weight_norm=self.weight_norm, dtype=self.dtype, **options
        )(x, self.causal)

    def units(
        self, x: Float[Array, "batch frames channels"], valid: Valid
    ) -> Float[Array, "batch frames channels"]:
        for dilation in self.dilations:
            h = self.conv(
                Activation(self.activation)(x), x.shape[-1] // self.compress, 3, dilation=dilation
            )
            h = self.conv(Activation(self.activation)(h), x.shape[-1], 1, kernel_init=SMALL)
            x = constrain(keep_valid(x + h, valid))
        return x


class Encoder(Stack):
    """Audio to latents."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch samples 2"], valid: Valid = None
    ) -> Float[Array, "batch low latent"]:
        x, direct = keep_valid(x, valid), 0
        if self.layout:
            # Windows in the padding contain real samples too, so that their levels are not zero.
            x = keep_valid(spectrum.analyse(x, self.layout), valid)
            direct = Dense(self.latent_channels, dtype=self.dtype, name="direct")(
                fold(x, math.prod(self.strides[1:]))
            )
        x = x.astype(self.dtype)
        for level, (stride, features) in enumerate(zip(self.strides, self.channels, strict=True)):
            if level > 0:
                x = Activation(self.activation)(x)
            if level > 0 or not self.layout:  # levels are at the stem's rate already
                # Not layers.conv.Downsample, whose causal mode delays: here a frame reads to the
                # end of its own hop.
                x = fold(x, stride)
            x = keep_valid(self.conv(x, features, 1 if level else self.kernel_size), valid)
            x = self.units(x, valid)
        init = {"kernel_init": TINY} if self.layout else {}
        x = direct + self.conv(
            Activation(self.activation)(x), self.latent_channels, self.kernel_size, **init
        )
        return keep_valid(x, valid).astype(jnp.float32)


class Decoder(Stack):
    """Latents to audio, or with a `window` to the levels that `spectrum.synthesise` takes."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch low latent"], valid: Valid = None
    ) -> Float[Array, "batch frames features"]:
        latents = x = keep_valid(x.astype(self.dtype), valid)
        x = keep_valid(self.conv(x, self.channels[-1], self.kernel_size), valid)
        for level in reversed(range(len(self.strides))):
            x = Activation(self.activation)(self.units(x, valid))
            features, kernel_size = (
                (self.channels[level - 1], 1) if level else (2, self.kernel_size)
            )
            if level == 0 and self.layout:
                bands, frames = self.layout.bands, math.prod(self.strides[1:])
                direct = Dense(bands * frames, dtype=self.dtype, name="direct")(latents)
                x = direct.reshape(len(x), -1, bands) + self.conv(x, bands, 1, kernel_init=TINY)
            else:
                x = Upsample(
                    features, self.strides[level], kernel_size, self.weight_norm, self.dtype
                )(x, self.causal)
            x = keep_valid(x, valid)
        return x.astype(jnp.float32)


class Autoencoder(nn.Module):
    """Encoder and decoder; configs/jen1.py explains the fields, those of `config.autoencoder`.

    The methods take whole hops. With `valid` (1 = a real latent frame, 0 = padding) the result of
    the real part is that of the real part alone. Latents are not whitened here (see whitening.py).
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    dilations: tuple[int, ...]
    compress: int
    kernel_size: int
    latent_channels: int
    activation: str = "snake"
    weight_norm: bool = True
    mask_rate: float = 0.05
    mask_unit: str = "frame"
    causal: bool = False
    window: int = 0
    short_window: int = 0
    quietest: float = spectrum.QUIETEST
    phase_iterations: int = 0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        fields = {
            name: getattr(self, name)
            for name in Stack.__dataclass_fields__
            if name not in ("parent", "name")
        }
        self.encoder = Encoder(**fields)
        self.decoder = Decoder(**fields)

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.strides)

    @property
    def layout(self) -> spectrum.Layout:
        """What the levels are of, with a `window`."""
        return spectrum.Layout(self.window, self.short_window, self.quietest)

    @property
    def _reach(self) -> Reach:
        """Samples that the encoder, or the decoder, reads before and after the current hop."""
        rates = np.cumprod(self.strides).tolist()  # samples per frame of each level
        ends = (self.kernel_size - 1) // 2 * (rates[0] + rates[-1])
        units = sum(self.dilations) * sum(rates)
        return Reach.window(ends + units + self.window * 3 // 8, self.causal)

    @property
    def receptive_field(self) -> int:
        """Samples that one latent frame depends on: its own hop and what is read around it."""
        return self.hop + int(sum(self._reach))

    @property
    def encoder_reach(self) -> int:
        """Latent frames at a border that depend at all on the audio on its other side."""
        return math.ceil(self._reach.before / self.hop)

    @property
    def decoder_reach(self) -> int:
        """Latent frames that the decoder reads to each side of a sample's own.

        They are those of the encoder, and more for the search for phases.
        """
        search = self.layout.reach * (self.phase_iterations + 2) if self.layout else 0
        return math.ceil((self._reach.before + search) / self.hop)

    def encode(
        self, audio: Float[Array, "batch samples 2"], valid: Valid = None
    ) -> Float[Array, "batch low latent"]:
        """Latents of `audio`; `samples` must be a multiple of `hop`."""
        if audio.shape[1] % self.hop:
            raise ValueError(f"{audio.shape[1]} samples are not a multiple of the hop {self.hop}")
        return self.encoder(audio, valid)

    def decode(
        self,
        latents: Float[Array, "batch low latent"],
        valid: Valid = None,
        around: spectrum.Around | None = None,
        loudest: Float[np.ndarray, " bands"] | None = None,
    ) -> Float[Array, "batch samples 2"]:
        """Audio of `latents`, `hop` samples per frame.

        With a `window`, no band is louder than its `loudest` level, and unknown phases continue
        those of the audio that is `around`.
        """
        return self._audio(self.decoder(latents, valid), valid, around, loudest)

    def _audio(
        self,
        decoded: Float[Array, "batch frames features"],
        valid: Valid = None,
        around: spectrum.Around | None = None,
        loudest: Float[np.ndarray, " bands"] | None = None,
    ) -> Float[Array, "batch samples 2"]:
        """The decoder's output as audio, which it is already without a `window`."""
        if not self.layout:
            return decoded
        real = keep_valid(jnp.ones((*decoded.shape[:2], 1)), valid)
        loudest = self.layout.loudest if loudest is None else loudest
        return spectrum.synthesise(
            jnp.minimum(decoded, loudest),
            real,
            self.layout,
            self.phase_iterations,
            around,
        )

    def mask(
        self, latents: Float[Array, "batch low latent"], rng: Array
    ) -> Float[Array, "batch low latent"]:
        """`latents` with a random share `mask_rate` of the frames, or elements, set to zero."""
        return latents * jax.random.bernoulli(
            rng, 1 - self.mask_rate, MASK_UNITS[self.mask_unit](latents.shape)
        )

    def __call__(
        self, audio: Float[Array, "batch samples 2"], mask_rng: Array | None = None
    ) -> "Pass":
        """Encodes and decodes; with a key the decoder reads masked latents, as in training."""
        latents = self.encode(audio)
        decoded = self.decoder(latents if mask_rng is None else self.mask(latents, mask_rng))
        return Pass(self._audio(decoded), latents, decoded if self.layout else None)


class Pass(NamedTuple):
    """The result of encoding and decoding; `levels` are the decoded ones, with a `window` only."""

    audio: Float[Array, "batch samples 2"]
    latents: Float[Array, "batch low latent"]
    levels: Float[Array, "batch frames bands"] | None
