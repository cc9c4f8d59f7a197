"""Samplers: from noise to clean latents along a rising series of log-SNRs.

A sampler knows the model only as `denoise(noisy, log_snr) -> clean`. Text, guidance, mask and
objective belong to the caller. To add a sampler, write a frozen dataclass that inherits from
`Sampler` and has a method `step`, and put it into `SAMPLERS`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jen1_numpy.errors import Refusal
from jen1_numpy.registry import Registry
from jen1_torch.diffusion import scales

# Noisy latents [batch, frames, k] and their level, the same for all of them, to clean latents.
Denoise = Callable[[Tensor, Tensor], Tensor]


class State(NamedTuple):
    """What a sampler holds between two steps.

    `clean` is the clean latent that the last step estimated, at the level `log_snr`. Before the
    first step it is 0, and `log_snr` is -infinity.
    """

    noisy: Tensor
    clean: Tensor
    log_snr: Tensor


@dataclass(frozen=True)
class Sampler:
    """The base of all samplers, which differ in `step` alone."""

    def step(
        self,
        denoise: Denoise,
        state: State,
        log_snr: Tensor,
        next_log_snr: Tensor,
        fresh: Callable[[], Tensor],
    ) -> State:
        """One step, from the level `log_snr` to the cleaner level `next_log_snr`.

        Levels are numbers on the CPU. `fresh()` draws standard Gaussian noise [batch, frames, k].
        """
        raise NotImplementedError


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, equation 12), first order: one evaluation of `denoise` a step.

    `eta` 0 is deterministic: Euler's method on the probability-flow ODE, in sigma / alpha as in
    rectified flow's time. 1 replaces as much of the noise as the step allows: DDPM's ancestral
    sampling (Ho et al. 2020) with the posterior's variance.
    """

    eta: float = 0.0

    def step(self, denoise, state, log_snr, next_log_snr, fresh):
        clean, noise = _split(denoise, state.noisy, log_snr)
        alpha, sigma = scales(next_log_snr)
        if self.eta:
            # the share of the noise's variance that is replaced
            share = -(self.eta**2) * torch.expm1(log_snr - next_log_snr)
            noise = (1 - share).sqrt() * noise + share.sqrt() * fresh()
        return State(alpha * clean + sigma * noise, clean, log_snr)


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method (Karras et al. 2022, algorithm 1), second order: two evaluations a step.

    It solves the probability-flow ODE in rectified flow's time, which is finite from pure noise to
    clean latents and in which the velocity is noise - clean. The final step, to clean latents, is
    first order.
    """

    def step(self, denoise, state, log_snr, next_log_snr, fresh):
        clean, noise = _split(denoise, state.noisy, log_snr)
        alpha, sigma = scales(next_log_snr)
        noisy = alpha * clean + sigma * noise
        if torch.isfinite(next_log_snr):
            next_clean, next_noise = _split(denoise, noisy, next_log_snr)
            velocity = (noise - clean + next_noise - next_clean) / 2
            time = lambda log_snr: torch.sigmoid(-log_snr / 2)  # sigma / (alpha + sigma)
            scaled = state.noisy / sum(scales(log_snr))
            scaled = scaled + (time(next_log_snr) - time(log_snr)) * velocity
            noisy = scaled * (alpha + sigma)
        return State(noisy, clean, log_snr)


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), second order: one evaluation a step.

    It uses the evaluation of the step before again. The first step is first order, and so is a step
    that begins or ends at an infinite level or follows a step between two equal levels.
    """

    def step(self, denoise, state, log_snr, next_log_snr, fresh):
        slope = clean = denoise(state.noisy, log_snr)
        (_, sigma), (next_alpha, next_sigma) = scales(log_snr), scales(next_log_snr)
        ahead, behind = (next_log_snr - log_snr) / 2, (log_snr - state.log_snr) / 2
        if torch.isfinite(ahead) and torch.isfinite(behind) and behind > 0:
            slope = clean + ahead / (2 * behind) * (clean - state.clean)
        noisy = next_sigma / sigma * state.noisy - next_alpha * torch.expm1(-ahead) * slope
        return State(noisy, clean, log_snr)


def _split(denoise: Denoise, noisy: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """The clean latent and the noise that `noisy` consists of."""
    alpha, sigma = scales(log_snr)
    clean = denoise(noisy, log_snr)
    return clean, (noisy - alpha * clean) / sigma


def sample(
    sampler: Sampler,
    denoise: Denoise,
    noise: Tensor,
    log_snrs: Tensor,
    fresh: Callable[[], Tensor],
    before_step: Callable[[int], None] = lambda index: None,
) -> Tensor:
    """The latents at the last of `log_snrs` [levels], from `noise` at the first.

    `before_step` is called with the number of each step, from 0.
    """
    state = State(noise, torch.zeros_like(noise), torch.tensor(-math.inf))
    for index in range(len(log_snrs) - 1):
        before_step(index)
        state = sampler.step(denoise, state, log_snrs[index], log_snrs[index + 1], fresh)
    return state.noisy


SAMPLERS: dict[str, Sampler] = Registry(
    "sampler",
    {
        "ddpm": DDIM(eta=1.0),
        "ddim": DDIM(),
        "euler": DDIM(),  # the same method under its other name
        "heun": Heun(),
        "dpm_solver": DPMSolver(),
    },
)


def make_sampler(diffusion: Mapping[str, Any]) -> Sampler:
    """The sampler that the section `diffusion` of the configuration names.

    Raises `Refusal` for an `eta` that is no share, or that another sampler than ddim cannot use.
    """
    name, eta = diffusion["sampler"], diffusion["eta"]
    sampler = SAMPLERS[name]
    if not 0 <= eta <= 1:
        raise Refusal(f"diffusion.eta is a share, from 0 to 1; {eta} is not.")
    if name == "ddim":
        return DDIM(eta)
    if eta:
        raise Refusal(f"diffusion.eta is for the sampler ddim; with {name} leave it at 0.")
    return sampler
