"""Noise schedules: how the log signal-to-noise ratio falls as time t runs from 0 (clean) to 1 (noise).

Both ends stay finite, so every objective can be inverted at every t, unless zero terminal SNR is asked for: then t = 1 is pure
noise (Lin et al. 2023), which epsilon alone cannot live with. A new schedule is a dataclass with `log_snr` and a line in
`SCHEDULES`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from jen1_jax.errors import Refusal
from jen1_jax.registry import Registry

LOG_SNR_MIN = (
    -20.0
)  # the least that the network is told; a prediction of noise could not be inverted there


@runtime_checkable
class Schedule(Protocol):
    """A strictly falling map from time in [0, 1] to log-SNR (nats); times outside are taken as the nearest end."""

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...


@dataclass(frozen=True)
class Beta:
    """DDPM's discrete variances (Ho et al. 2020), beta^(1/power) linear in the step, interpolated between the steps.

    Step i of `num_steps` is t = i / (num_steps - 1), where the log-SNR is that of the discrete schedule. Power 1 is the paper's
    "linear"; power 2, linear in sqrt(beta), is what latent diffusion code means with the same numbers. With zero terminal SNR
    alpha is shifted and scaled to end at 0 and begin where it did (Lin et al. 2023, algorithm 1), and is what is interpolated.
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
                f"num_steps={self.num_steps}, beta_start={self.beta_start}, beta_end={self.beta_end}."
            )

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        root = 1 / self.power
        betas = (
            np.linspace(self.beta_start**root, self.beta_end**root, self.num_steps) ** self.power
        )
        log_alpha_squared = np.cumsum(
            np.log1p(-betas)
        )  # float64: the product of a thousand factors near one
        at = lambda values: jnp.interp(
            t * (self.num_steps - 1), np.arange(self.num_steps), values.astype(np.float32)
        )
        if not self.zero_terminal_snr:
            return at(log_alpha_squared - np.log(-np.expm1(log_alpha_squared)))
        alpha = np.exp(log_alpha_squared / 2)
        alpha = at((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1]))
        return 2 * jnp.log(alpha) - jnp.log1p(-(alpha**2))


@dataclass(frozen=True)
class Cosine:
    """The angle arctan(sigma / alpha) linear in time (Nichol & Dhariwal 2021, as truncated by Hoogeboom et al. 2023).

    The ends are set by log-SNR.
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        first, last = (
            np.arctan(np.exp(-0.5 * end)) for end in (self.log_snr_max, self.log_snr_min)
        )
        angle = last - (last - first) * (
            1 - jnp.clip(t, 0, 1)
        )  # in this form it ends where it should
        return 2 * (
            jnp.log(jnp.maximum(jnp.cos(angle), 0)) - jnp.log(jnp.sin(angle))
        )  # float32's cosine of pi / 2 is below 0


@dataclass(frozen=True)
class StraightPath:
    """sigma / (alpha + sigma) linear in time: the straight line from data to noise (Liu et al. 2022), its ends set by log-SNR."""

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        first, last = (1 / (1 + np.exp(0.5 * end)) for end in (self.log_snr_max, self.log_snr_min))
        share = first + (last - first) * jnp.clip(t, 0, 1)
        return 2 * (jnp.log1p(-share) - jnp.log(share))


def _beta(config: ConfigDict, power: int) -> Beta:
    return Beta(
        config.num_steps, config.beta_start, config.beta_end, power, config.zero_terminal_snr
    )


def _noisiest(config: ConfigDict) -> float:
    return -np.inf if config.zero_terminal_snr else -10.0  # where `linear` has its noisy end


SCHEDULES = Registry(
    "schedule",
    {
        "linear": lambda config: _beta(config, 1),
        "scaled_linear": lambda config: _beta(config, 2),
        "cosine": lambda config: Cosine(_noisiest(config)),
        "rectified_flow": lambda config: StraightPath(_noisiest(config)),
    },
)


def make_schedule(config: ConfigDict) -> Schedule:
    """The schedule that `config.diffusion` names; refused if its noisy end leaves the objective nothing to predict from.

    Predicting noise from (almost) nothing but noise says nothing of the clean latent, and sampling divides by that signal.
    """
    schedule = SCHEDULES[config.schedule](config)
    noisiest = float(schedule.log_snr(jnp.ones(())))
    if config.objective == "epsilon" and noisiest < LOG_SNR_MIN:
        raise Refusal(
            f"The epsilon objective cannot be inverted at the schedule's last log-SNR of {noisiest:.0f}: "
            'use objective "v", or no zero_terminal_snr, or a smaller beta_end or num_steps.'
        )
    return schedule


TIMES = Registry(
    "times",
    {
        "uniform": lambda uniform, config: uniform,
        # Esser et al. 2024, section 3.1: the middle of the way, where most is left to decide, more often than its ends
        "logit_normal": lambda uniform, config: jax.nn.sigmoid(
            config.times_mean + config.times_std * ndtri(uniform)
        ),
    },
)


def draw_times(key: Key[Array, ""], batch: int, config: ConfigDict) -> Float[Array, " {batch}"]:
    """Times in [0, 1) by the distribution `config.times`, one from each batch-th of it, in random order.

    Each time alone has that distribution, while the batch's mean loss varies far less than with independent times (Kingma et al.
    2021, I.1). The order is shuffled so that an example's position, and with it its task, says nothing of its time.
    """
    offset, order = jax.random.split(key)
    grid = (jnp.arange(batch) + jax.random.uniform(offset)) / batch
    return TIMES[config.times](jax.random.permutation(order, grid), config)


def sample_log_snrs(
    schedule: Schedule, steps: int, start: Float[Array, ""] | float = 1.0
) -> Float[Array, " {steps}+1"]:
    """The log-SNRs a sampler visits: `steps` of them evenly spaced in time from `start` to 0, then infinity, which is clean."""
    return jnp.append(schedule.log_snr(jnp.linspace(start, 0.0, steps)), jnp.inf)
