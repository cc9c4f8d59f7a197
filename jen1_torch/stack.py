"""What the autoencoder's encoder and decoder share: residual units, and how layers are named."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jen1_numpy.errors import Refusal
from jen1_torch.layers import Conv1d
from jen1_torch.spectrum import Layout


def keep_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """`x` with its padding set to zero; `valid` may have a lower rate.

    Biases make padding nonzero again, so this precedes every layer that mixes frames.
    """
    if valid is None:
        return x
    return x * valid.to(x.dtype).repeat_interleave(x.shape[1] // valid.shape[1], dim=1)


def fold(x: Tensor, factor: int) -> Tensor:
    """Each `factor` frames as one, with their channels concatenated."""
    return x.reshape(x.shape[0], x.shape[1] // factor, factor * x.shape[2])


class Activation(nn.Module):
    """ELU, or snake (Ziyin et al. 2020), x + sin^2(alpha x) / alpha, with one alpha per channel.

    Both map 0 to 0, and so padding to padding.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        if kind not in ("snake", "elu"):
            raise Refusal(f"Unknown autoencoder.activation {kind!r}: choose one of snake, elu.")
        self.alpha = nn.Parameter(torch.ones(channels)) if kind == "snake" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.alpha is None:
            return F.elu(x)
        alpha = self.alpha.to(x.dtype)
        return x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9)


class Stack(nn.Module):
    """The base of encoder and decoder.

    The layers of a kind are numbered in the order in which they are added and `forward` takes them:
    `Conv1d_0`, `Activation_0`, `Conv1d_1`. Level i has `channels[i]` channels at a rate that
    `strides[i]` divides, and a residual unit for each of the `dilations`, which is narrower inside
    by the factor `compress`. `kernel_size` is that of the stem and the head.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int],
        channels: Sequence[int],
        dilations: Sequence[int],
        compress: int,
        kernel_size: int,
        latent_channels: int,
        activation: str = "snake",
        weight_norm: bool = True,
        causal: bool = False,
        layout: Layout | None,
    ) -> None:
        super().__init__()
        self.strides, self.channels, self.dilations = strides, channels, dilations
        self.compress, self.kernel_size = compress, kernel_size
        self.latent_channels = latent_channels
        self.activation, self.weight_norm, self.causal = activation, weight_norm, causal
        self.layout = layout

    def add(self, layer: nn.Module) -> None:
        """Registers the next layer of `forward`."""
        kind = type(layer).__name__
        number = sum(type(each).__name__ == kind for each in self.children())
        self.add_module(f"{kind}_{number}", layer)

    def add_conv(self, inputs: int, features: int, kernel_size: int, dilation: int = 1) -> None:
        self.add(Conv1d(inputs, features, kernel_size, dilation, self.weight_norm))

    def add_activation(self, channels: int) -> None:
        self.add(Activation(self.activation, channels))

    def add_units(self, channels: int) -> None:
        for dilation in self.dilations:
            self.add_activation(channels)
            self.add_conv(channels, channels // self.compress, 3, dilation)
            self.add_activation(channels // self.compress)
            self.add_conv(channels // self.compress, channels, 1)

    def units(self, x: Tensor, valid: Tensor | None, layers: Iterator[nn.Module]) -> Tensor:
        """The residual units of a level, which are the next of the `layers`."""
        for _ in self.dilations:
            first, narrow, second, widen = islice(layers, 4)
            h = narrow(first(x), self.causal)
            h = widen(second(h), self.causal)
            x = keep_valid(x + h, valid)
        return x
