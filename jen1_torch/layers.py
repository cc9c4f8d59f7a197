"""The layers of U-Net and autoencoder, for tensors [batch, frames, channels].

Most layers know two modes. In the bidirectional mode their window is centred. In the causal mode
the same weights read the same window, delayed until it ends at the current frame. `causal` is one
bool, or a bool tensor [batch], so that examples of both modes share one pass (JEN-1, arXiv
2308.04729, section 3.3).

A layer computes in the type of its input, to which it casts its weights, and returns that type.
Norms compute in float32.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jen1_numpy.errors import Refusal

Causal = Tensor | bool


def delay(x: Tensor, frames: int, causal: Causal) -> Tensor:
    """`x`, delayed by `frames` where `causal`, with zeros at the front."""
    if frames == 0 or causal is False:
        return x
    delayed = F.pad(x, (0, 0, frames, 0))[:, : x.shape[1]]
    return delayed if causal is True else torch.where(causal[:, None, None], delayed, x)


class Dense(nn.Linear):
    """A linear map of the channels, [..., in_features] to [..., out_features]."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Conv1d(nn.Conv1d):
    """A convolution that keeps the number of frames; `kernel_size` must be odd.

    With weight normalisation (Salimans & Kingma 2016) `weight` holds the direction of each output
    channel's kernel and `scale` [out_channels] its norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int = 1,
        weight_norm: bool = False,
    ) -> None:
        if kernel_size % 2 == 0:
            raise Refusal(f"kernel_size must be odd, got {kernel_size}; add or subtract 1.")
        super().__init__(in_channels, out_channels, kernel_size, dilation=dilation)
        self.side = dilation * (kernel_size - 1) // 2  # frames before and after the current one
        norm = self.weight.detach().square().sum((1, 2)).sqrt()
        self.scale = nn.Parameter(norm) if weight_norm else None

    def forward(self, x: Tensor, causal: Causal = False) -> Tensor:
        """[batch, frames, in_channels] to [batch, frames, out_channels]."""
        weight = self.weight
        if self.scale is not None:
            direction = weight.float()
            power = direction.square().sum((1, 2)) + 1e-12
            weight = direction * (self.scale.float() * power.rsqrt())[:, None, None]
        weight, bias = weight.to(x.dtype), self.bias.to(x.dtype)
        if self.side == 0:
            return F.linear(x, weight[:, :, 0], bias)
        # The frames of both modes, of which each example takes its own.
        frames = x.shape[1]
        before = self.side if causal is False else 2 * self.side
        x = F.pad(x, (0, 0, before, 0 if causal is True else self.side))
        y = F.conv1d(x.transpose(1, 2), weight, bias, dilation=self.dilation).transpose(1, 2)
        if isinstance(causal, bool):
            return y
        return torch.where(causal[:, None, None], y[:, :frames], y[:, self.side :])


class Downsample(nn.Module):
    """Folds `factor` frames into channels and convolves at the low rate: a strided convolution.

    `kernel_size` counts low-rate frames.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: int,
        kernel_size: int = 1,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.Conv1d_0 = Conv1d(
            factor * in_channels, out_channels, kernel_size, weight_norm=weight_norm
        )

    def forward(self, x: Tensor, causal: Causal = False) -> Tensor:
        """[batch, frames, in_channels] to [batch, frames / factor, out_channels].

        `frames` is a multiple of `factor`. In causal mode low-rate frame j reads input frames up to
        j * factor, because `Upsample` gives it to output frames from j * factor on.
        """
        batch, frames, channels = x.shape
        x = delay(x, self.factor - 1, causal)
        x = x.reshape(batch, frames // self.factor, self.factor * channels)
        return self.Conv1d_0(x, causal)


class Upsample(nn.Module):
    """Convolves at the low rate to `factor * out_channels` channels and unfolds them into frames.

    This is the polyphase form of a transposed convolution. `kernel_size` counts low-rate frames.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: int,
        kernel_size: int = 1,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.Conv1d_0 = Conv1d(
            in_channels, factor * out_channels, kernel_size, weight_norm=weight_norm
        )

    def forward(self, x: Tensor, causal: Causal = False) -> Tensor:
        """[batch, low, in_channels] to [batch, low * factor, out_channels]."""
        batch, low, _ = x.shape
        return self.Conv1d_0(x, causal).reshape(batch, low * self.factor, -1)


class RMSNorm(nn.Module):
    """Divides each frame by the root mean square of its channels and scales each channel.

    After Zhang & Sennrich 2019. Each frame is normalised by itself, since statistics over time
    would break causality.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.scale.shape, self.scale.float(), eps=1e-6).to(x.dtype)


def fourier_frequencies(features: int, limit: float) -> Tensor:
    """Frequencies [features / 2] in radians, for values that are clipped to [-limit, limit].

    Wavelengths are geometric, from five times the clipped range, where the sine is monotonic, to
    1/27 of it.
    """
    longest, shortest = 10 * limit, 0.075 * limit  # wavelengths
    frequencies = np.geomspace(1 / longest, 1 / shortest, features // 2, dtype=np.float32)
    return torch.from_numpy(np.float32(2 * np.pi) * frequencies)


def fourier_features(x: Tensor, frequencies: Tensor, limit: float) -> Tensor:
    """Sines and cosines [batch, features] of values [batch] clipped to [-limit, limit]."""
    angles = x.float().clamp(-limit, limit)[:, None] * frequencies.to(x.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class LogSNREmbedding(nn.Module):
    """An MLP over the Fourier features of the noise level, in float32."""

    limit = 20.0

    def __init__(self, features: int) -> None:
        super().__init__()
        inputs = min(features, 256)
        # Not a buffer: `half()` and `bfloat16()` must leave it as it is.
        self.frequencies = fourier_frequencies(inputs, self.limit)
        self.hidden = Dense(inputs, features)
        self.output = Dense(features, features)

    def forward(self, log_snr: Tensor) -> Tensor:
        """[batch] to [batch, features]."""
        x = fourier_features(log_snr, self.frequencies, self.limit)
        return self.output(F.silu(self.hidden(x)))
