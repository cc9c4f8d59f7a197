"""Noise schedules: the log signal-to-noise ratio as a function of time t, 0 (clean) to 1 (noise).

A new schedule is a dataclass with `log_snr` and a line in `SCHEDULES`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jen1_numpy.errors import Refusal
from jen1_numpy.registry import Registry

# The lowest that the network can distinguish; a prediction of noise could not be inverted there.
LOG_SNR_MIN = -20.0
UNTRAINED = 1e-3  # share of the times in training, the earliest ones, that sampling leaves out


class Schedule(Protocol):
    """A strictly falling map from time in [0, 1] to log-SNR (nats); other times are clipped."""

    def log_snr(self, t: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Beta:
    """DDPM's discrete variances (Ho et al. 2020), interpolated between the steps.

    beta^(1/power) is linear in the step. Step i of `num_steps` is t = i / (num_steps - 1), where
    the log-SNR is that of the discrete schedule. With zero terminal SNR, alpha is shifted and
    scaled so that it ends at 0 and begins at the same value (Lin et al. 2023, algorithm 1), and is
    interpolated.
    """

    num_steps: int
    beta_start: float
    beta_end: float
    power: int = 1
    zero_terminal_snr: bool = False

    def __post_init__(self):
        if self.num_steps < 2 or not 0 < self.beta_start <= self.beta_end < 1:
            raise Refusal(
                "A beta schedule needs num_steps >= 2 and 0 < beta_start <= beta_end < 1, got "
                f"num_steps={self.num_steps}, beta_start={self.beta_start}, "
                f"beta_end={self.beta_end}."
            )

    def log_snr(self, t: Tensor) -> Tensor:
        root = 1 / self.power
        roots = np.linspace(self.beta_start**root, self.beta_end**root, self.num_steps)
        # In float64, since it is the product of a thousand factors near one.
        log_alpha_squared = np.cumsum(np.log1p(-(roots**self.power)))
        if not self.zero_terminal_snr:
            return _at(t, log_alpha_squared - np.log(-np.expm1(log_alpha_squared)))
        alpha = np.exp(log_alpha_squared / 2)
        alpha = _at(t, (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1]))
        return 2 * alpha.log() - torch.log1p(-(alpha**2))


def _at(t: Tensor, values: np.ndarray) -> Tensor:
    """`values`, evenly spaced over the times from 0 to 1, interpolated at `t`."""
    table = torch.tensor(values, dtype=torch.float32, device=t.device)
    position = t.clamp(0, 1) * (len(table) - 1)
    before = position.long().clamp(max=len(table) - 2)
    return torch.lerp(table[before], table[before + 1], position - before)


@dataclass(frozen=True)
class Cosine:
    """The angle arctan(sigma / alpha) is linear in time; the ends are given as log-SNRs.

    After Nichol & Dhariwal 2021, truncated as by Hoogeboom et al. 2023.
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def log_snr(self, t: Tensor) -> Tensor:
        ends = self.log_snr_max, self.log_snr_min
        first, last = (math.atan(math.exp(-0.5 * end)) for end in ends)
        angle = last - (last - first) * (1 - t.clamp(0, 1))  # exactly `last` at t = 1
        cosine = angle.cos().clamp(min=0)  # in float32 that of pi / 2 is below 0
        return 2 * (cosine.log() - angle.sin().log())


@dataclass(frozen=True)
class StraightPath:
    """sigma / (alpha + sigma) is linear in time: a straight line from data to noise.

    The schedule of rectified flow (Liu et al. 2022); the ends are given as log-SNRs.
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def log_snr(self, t: Tensor) -> Tensor:
        ends = self.log_snr_max, self.log_snr_min
        first, last = (1 / (1 + math.exp(0.5 * end)) for end in ends)
        share = first + (last - first) * t.clamp(0, 1)
        return 2 * (torch.log1p(-share) - share.log())


def _beta(diffusion: Mapping[str, Any], power: int) -> Beta:
    return Beta(
        diffusion["num_steps"],
        diffusion["beta_start"],
        diffusion["beta_end"],
        power,
        diffusion["zero_terminal_snr"],
    )


def _noisiest(diffusion: Mapping[str, Any]) -> float:
    return -math.inf if diffusion["zero_terminal_snr"] else -10.0


SCHEDULES: dict[str, Callable[[Mapping[str, Any]], Schedule]] = Registry(
    "schedule",
    {
        "linear": lambda diffusion: _beta(diffusion, 1),
        "scaled_linear": lambda diffusion: _beta(diffusion, 2),
        "cosine": lambda diffusion: Cosine(_noisiest(diffusion)),
        "rectified_flow": lambda diffusion: StraightPath(_noisiest(diffusion)),
    },
)


def make_schedule(diffusion: Mapping[str, Any]) -> Schedule:
    """The schedule that the section `diffusion` of the configuration names.

    Raises `Refusal` where its noisy end has too little signal for the objective epsilon: sampling
    divides the prediction by that signal.
    """
    schedule = SCHEDULES[diffusion["schedule"]](diffusion)
    noisiest = float(schedule.log_snr(torch.ones(())))
    if diffusion["objective"] == "epsilon" and noisiest < LOG_SNR_MIN:
        raise Refusal(
            "The epsilon objective cannot be inverted at the schedule's last log-SNR of "
            f'{noisiest:.0f}: use objective "v", or no zero_terminal_snr, or a smaller beta_end or '
            "num_steps."
        )
    return schedule


def shift(log_snr: Tensor, frames: int, diffusion: Mapping[str, Any]) -> Tensor:
    """The log-SNR for examples of `frames` valid frames, by `diffusion.reference_frames`.

    It is lower by log(frames / reference_frames): the mean of n noisy frames has n times the SNR of
    one, so what all frames have in common is equally hidden at every length (Esser et al. 2024,
    section 5.3.2, in rectified flow's time).
    """
    if not diffusion["reference_frames"]:
        return log_snr
    return log_snr - math.log(max(frames, 1) / diffusion["reference_frames"])


TIMES: dict[str, Callable[[Tensor, Mapping[str, Any]], Tensor]] = Registry(
    "times",
    {
        "uniform": lambda uniform, diffusion: uniform,
        # The middle more often than the ends (Esser et al. 2024, section 3.1).
        "logit_normal": lambda uniform, diffusion: torch.sigmoid(
            diffusion["times_mean"] + diffusion["times_std"] * torch.special.ndtri(uniform)
        ),
    },
)


def earliest_time(diffusion: Mapping[str, Any]) -> float:
    """The earliest time that training draws, but for one in a thousand.

    With less noise the network is not trained, and what it predicts there can be anything.
    """
    return float(TIMES[diffusion["times"]](torch.tensor(UNTRAINED), diffusion))


def sample_log_snrs(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    """The log-SNRs [steps + 1] of a sampler's steps, evenly spaced in time from `start` to `end`.

    After them comes infinity, where latents are clean.
    """
    levels = schedule.log_snr(torch.linspace(start, min(start, end), steps))
    return torch.cat([levels, levels.new_full((1,), math.inf)])
