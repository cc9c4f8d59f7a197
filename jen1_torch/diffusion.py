"""Objectives and guidance: functions of latents [batch, frames, k] without a network.

Everything is written in the log signal-to-noise ratio: noisy latents are `alpha * clean + sigma *
noise` with `alpha^2 = sigmoid(log_snr)` and `sigma^2 = sigmoid(-log_snr)` (Kingma et al. 2021).
"""

from typing import Protocol

import torch
from torch import Tensor

from jen1_numpy.registry import Registry


def scales(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """`(alpha, sigma)` of a log-SNR, with alpha^2 + sigma^2 = 1; exact at both infinities."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def _per_example(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    return scales(log_snr[:, None, None])


def corrupt(clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
    """`alpha * clean + sigma * noise` at `log_snr` [batch]; `noise` is standard Gaussian."""
    alpha, sigma = _per_example(log_snr)
    return alpha * clean + sigma * noise


class Objective(Protocol):
    """A target of prediction that determines the clean latents, together with the noisy ones.

    `log_snr` is [batch]. `target` is for training, and `clean` for sampling.
    """

    def target(self, clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor: ...
    def clean(self, prediction: Tensor, noisy: Tensor, log_snr: Tensor) -> Tensor: ...


class Epsilon:
    """The noise (Ho et al. 2020; JEN-1, section 3.2)."""

    def target(self, clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
        return noise

    def clean(self, prediction: Tensor, noisy: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = _per_example(log_snr)
        return (noisy - sigma * prediction) / alpha


class V:
    """The velocity `alpha * noise - sigma * clean` (Salimans & Ho 2022)."""

    def target(self, clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = _per_example(log_snr)
        return alpha * noise - sigma * clean

    def clean(self, prediction: Tensor, noisy: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = _per_example(log_snr)
        return alpha * noisy - sigma * prediction


class X0:
    """The clean latents themselves."""

    def target(self, clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
        return clean

    def clean(self, prediction: Tensor, noisy: Tensor, log_snr: Tensor) -> Tensor:
        return prediction


class FlowVelocity:
    """The flow's velocity `noise - clean` (Liu et al. 2022).

    Rectified flow uses `(1 - t) * clean + t * noise`, which equals the noisy latents of this module
    divided by alpha + sigma.
    """

    def target(self, clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
        return noise - clean

    def clean(self, prediction: Tensor, noisy: Tensor, log_snr: Tensor) -> Tensor:
        alpha, sigma = _per_example(log_snr)
        return (noisy - sigma * prediction) / (alpha + sigma)


OBJECTIVES: dict[str, Objective] = Registry(
    "objective", {"epsilon": Epsilon(), "v": V(), "x0": X0(), "rectified_flow": FlowVelocity()}
)


def guide(
    conditional: Tensor,
    unconditional: Tensor,
    scale: float,
    counts: Tensor,
    *,
    rescale: float = 0.0,
    parallel: float = 1.0,
    limit: float = 0.0,
) -> Tensor:
    """`unconditional + scale * (conditional - unconditional)` of clean latents [batch, frames, k].

    Classifier-free guidance (Ho & Salimans 2022): a scale of 0 ignores the text, and 1 is the model
    as trained. The defaults of the other arguments change nothing:

    - `limit` shortens the difference to this root mean square, and `parallel` is the weight of its
      part along the conditional latent, which causes oversaturation (adaptive projected guidance,
      Sadat et al. 2024, without momentum).
    - `rescale` moves the result by this share towards the conditional latent's standard deviation
      (Lin et al. 2023, section 3.4).

    Their sums run over the frames of each example where `counts` [batch, frames, 1] is 1; elsewhere
    it is 0.
    """
    total = lambda x: (x * counts).sum((1, 2), keepdim=True)
    difference = conditional - unconditional
    size = total(torch.ones_like(difference)).clamp(min=1)
    if limit:
        length = (total(difference**2) / size).sqrt()
        difference = difference * (limit / (length + 1e-12)).clamp(max=1)
    if parallel != 1:
        along = total(difference * conditional) / (total(conditional**2) + 1e-12) * conditional
        difference = difference + (parallel - 1) * along
    guided = conditional + (scale - 1) * difference
    if rescale:
        spread = lambda x: total((x - total(x) / size) ** 2).sqrt()
        guided = guided * (1 - rescale + rescale * spread(conditional) / (spread(guided) + 1e-12))
    return guided
