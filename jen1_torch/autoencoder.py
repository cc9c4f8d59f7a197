"""The stereo autoencoder: a waveform to continuous latents and back.

    audio [batch, samples, 2] -> stem (stride, k) -> [units -> stride] per level -> units
        -> head (k) -> latents [batch, samples / hop, channels]
    latents -> head (k) -> units -> [stride -> units] per level -> stem (k, stride) -> audio

With a `window` the stem reads the levels of an STFT instead of samples, and the decoder's stem
(k = 1) writes them. Then latents hold no phase, and decoding finds one (spectrum.py). A linear map
of a latent frame's levels is added to the encoder's output, and one of the latents to the
decoder's.

The network is convolutional, after SoundStream and EnCodec, without a quantiser (JEN-1, arXiv
2308.04729, section 3.1). In causal mode latent frame j reads samples up to the end of its own hop,
and sample n reads latents up to its own frame: the latency is one hop.

The networks compute in the type of their weights, and the spectra in float32.
"""

import math
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn

from jen1_numpy.errors import Refusal
from jen1_torch.layers import Dense, Upsample
from jen1_torch.spectrum import Around, Layout
from jen1_torch.stack import Stack, fold, keep_valid


class Encoder(Stack):
    """Audio to latents."""

    def __init__(self, **fields) -> None:
        super().__init__(**fields)
        inputs = self.layout.bands if self.layout else 2 * self.strides[0]
        for level, (stride, features) in enumerate(zip(self.strides, self.channels, strict=True)):
            if level > 0:
                self.add_activation(self.channels[level - 1])
                inputs = stride * self.channels[level - 1]
            self.add_conv(inputs, features, 1 if level else self.kernel_size)
            self.add_units(features)
        self.add_activation(self.channels[-1])
        self.add_conv(self.channels[-1], self.latent_channels, self.kernel_size)
        if self.layout:  # the last child, so that it does not stand between the layers
            bands = self.layout.bands * math.prod(self.strides[1:])
            self.direct = Dense(bands, self.latent_channels)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """[batch, samples, 2] to [batch, samples / hop, latent_channels]."""
        layers, dtype = iter(self.children()), self.Conv1d_0.weight.dtype
        x, direct = keep_valid(x.float(), valid), 0
        if self.layout:
            # Windows in the padding contain real samples too, so that their levels are not zero.
            x = keep_valid(self.layout.analyse(x), valid)
            direct = self.direct(fold(x.to(dtype), math.prod(self.strides[1:])))
        x = x.to(dtype)
        for level, stride in enumerate(self.strides):
            if level > 0:
                x = next(layers)(x)
            if level > 0 or not self.layout:  # levels are at the stem's rate already
                x = fold(x, stride)
            x = keep_valid(next(layers)(x, self.causal), valid)
            x = self.units(x, valid, layers)
        x = next(layers)(x)
        x = direct + next(layers)(x, self.causal)
        return keep_valid(x, valid).float()


class Decoder(Stack):
    """Latents to audio."""

    def __init__(self, phase_iterations: int, **fields) -> None:
        super().__init__(**fields)
        self.phase_iterations = phase_iterations
        self.add_conv(self.latent_channels, self.channels[-1], self.kernel_size)
        for level, features in reversed([*enumerate(self.channels)]):
            self.add_activation(features)  # after the units, and numbered before theirs
            self.add_units(features)
            if level == 0 and self.layout:
                self.add_conv(features, self.layout.bands, 1)
                bands = self.layout.bands * math.prod(self.strides[1:])
                self.direct = Dense(self.latent_channels, bands)
            else:
                to, size = (self.channels[level - 1], 1) if level else (2, self.kernel_size)
                self.add(Upsample(features, to, self.strides[level], size, self.weight_norm))

    def forward(
        self,
        latents: Tensor,
        valid: Tensor | None = None,
        around: Around | None = None,
        loudest: Tensor | None = None,
    ) -> Tensor:
        """[batch, low, latent_channels] to [batch, low * hop, 2]."""
        x = self.network(latents, valid)
        if not self.layout:
            return x
        levels = x.clamp(max=self.layout.loudest if loudest is None else loudest)
        real = keep_valid(torch.ones_like(x[..., :1]), valid)
        return self.layout.synthesise(levels, real, self.phase_iterations, around)

    def network(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Latents to audio, or with a `window` to the levels that `Layout.synthesise` takes."""
        layers, dtype = iter(self.children()), self.Conv1d_0.weight.dtype
        latents = x = keep_valid(x.to(dtype), valid)
        x = keep_valid(next(layers)(x, self.causal), valid)
        for level in reversed(range(len(self.strides))):
            activation = next(layers)
            x = activation(self.units(x, valid, layers))
            x = next(layers)(x, self.causal)
            if level == 0 and self.layout:
                x = self.direct(latents).reshape(x.shape) + x
            x = keep_valid(x, valid)
        return x.float()


class Autoencoder(nn.Module):
    """Encoder and decoder.

    With a `window` of so many samples they read and write levels; where a band is at least one bin
    of the `short_window` wide, the levels have that window instead, if there is one. Bands below
    `quietest` (dB re full scale) count as silence, and decoding searches for phases in
    `phase_iterations` steps. The other fields are those of `Stack`.

    The methods take whole hops. With `valid` [batch, low, 1] (1 = a real latent frame, 0 = padding)
    the result of the real part is that of the real part alone. Latents are not whitened here
    (codec.py).
    """

    def __init__(
        self,
        *,
        window: int = 0,
        short_window: int = 0,
        quietest: float = -80.0,
        phase_iterations: int = 0,
        **fields,
    ) -> None:
        super().__init__()
        layout = Layout(window, short_window, quietest) if window else None
        self.encoder = Encoder(layout=layout, **fields)
        self.decoder = Decoder(phase_iterations, layout=layout, **fields)
        stack = self.encoder
        self.hop = math.prod(stack.strides)  # samples per latent frame
        rates = [*accumulate(stack.strides, mul)]  # samples per frame of each level
        ends = (stack.kernel_size - 1) // 2 * (rates[0] + rates[-1])
        before = ends + sum(stack.dilations) * sum(rates) + window * 3 // 8
        before *= 2 if stack.causal else 1
        # Latent frames at a border that depend at all on the audio on its other side.
        self.encoder_reach = math.ceil(before / self.hop)
        # Latent frames that the decoder reads to each side of a sample's own.
        search = layout.reach * (phase_iterations + 2) if layout else 0
        self.decoder_reach = math.ceil((before + search) / self.hop)

    def encode(self, audio: Tensor, valid: Tensor | None = None) -> Tensor:
        """Latents [batch, samples / hop, channels], float32, of audio [batch, samples, 2].

        Raises `Refusal` if `samples` is not a multiple of the hop.
        """
        if audio.shape[1] % self.hop:
            raise Refusal(
                f"{audio.shape[1]} samples are not a multiple of the hop {self.hop}; pad the audio."
            )
        return self.encoder(audio, valid)

    def decode(
        self,
        latents: Tensor,
        valid: Tensor | None = None,
        around: Around | None = None,
        loudest: Tensor | None = None,
    ) -> Tensor:
        """Audio [batch, low * hop, 2], float32, of latents [batch, low, channels].

        With a `window`, no band is louder than its `loudest` level [bands], and unknown phases
        continue those of the audio that is `around`.
        """
        return self.decoder(latents, valid, around, loudest)
