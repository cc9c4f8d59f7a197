"""Noise schedules: the log signal-to-noise ratio as a function of time t, 0 (clean) to 1 (noise).

Both ends are finite, so that every objective can be inverted at every t. With zero terminal SNR,
t = 1 is pure noise instead (Lin et al. 2023), where the objective epsilon cannot be inverted. A new
schedule is a dataclass with `log_snr` and a line in `SCHEDULES`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from jen1_numpy.errors import Refusal
from jen1_numpy.registry import Registry

# The lowest that the network can distinguish; a prediction of noise could not be inverted there.
LOG_SNR_MIN = -20.0
UNTRAINED = 1e-3  # share of the times in training, the earliest ones, that sampling leaves out


@runtime_checkable
class Schedule(Protocol):
    """A strictly falling map from time in [0, 1] to log-SNR (nats); other times are clipped."""

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]: ...


@dataclass(frozen=True)
class Beta:
    """DDPM's discrete variances (Ho et al. 2020), interpolated between the steps.

    beta^(1/power) is linear in the step. Step i of `num_steps` is t = i / (num_steps - 1), where
    the log-SNR is that of the discrete schedule. Power 1 is the paper's "linear"; power 2, linear
    in sqrt(beta), is that of latent diffusion code with the same numbers. With zero terminal SNR,
    alpha is shifted and scaled so that it ends at 0 and begins at the same value (Lin et al. 2023,
    algorithm 1), and is interpolated.
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

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        root = 1 / self.power
        roots = np.linspace(self.beta_start**root, self.beta_end**root, self.num_steps)
        betas, steps = roots**self.power, np.arange(self.num_steps)
        # In float64, since it is the product of a thousand factors near one.
        log_alpha_squared = np.cumsum(np.log1p(-betas))
        at = lambda values: jnp.interp(t * steps[-1], steps, values.astype(np.float32))
        if not self.zero_terminal_snr:
            return at(log_alpha_squared - np.log(-np.expm1(log_alpha_squared)))
        alpha = np.exp(log_alpha_squared / 2)
        alpha = at((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1]))
        return 2 * jnp.log(alpha) - jnp.log1p(-(alpha**2))


@dataclass(frozen=True)
class Cosine:
    """The angle arctan(sigma / alpha) is linear in time; the ends are given as log-SNRs.

    After Nichol & Dhariwal 2021, truncated as by Hoogeboom et al. 2023.
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        ends = self.log_snr_max, self.log_snr_min
        first, last = (np.arctan(np.exp(-0.5 * end)) for end in ends)
        angle = last - (last - first) * (1 - jnp.clip(t, 0, 1))  # exactly `last` at t = 1
        cosine = jnp.maximum(jnp.cos(angle), 0)  # in float32 that of pi / 2 is below 0
        return 2 * (jnp.log(cosine) - jnp.log(jnp.sin(angle)))


@dataclass(frozen=True)
class StraightPath:
    """sigma / (alpha + sigma) is linear in time: a straight line from data to noise.

    The schedule of rectified flow (Liu et al. 2022); the ends are given as log-SNRs.
    """

    log_snr_min: float = -10.0
    log_snr_max: float = 10.0

    def log_snr(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        first, last = (1 / (1 + np.exp(0.5 * end)) for end in (self.log_snr_max, self.log_snr_min))
        share = first + (last - first) * jnp.clip(t, 0, 1)
        return 2 * (jnp.log1p(-share) - jnp.log(share))


def _beta(diffusion: ConfigDict, power: int) -> Beta:
    return Beta(
        diffusion.num_steps,
        diffusion.beta_start,
        diffusion.beta_end,
        power,
        diffusion.zero_terminal_snr,
    )


def _noisiest(diffusion: ConfigDict) -> float:
    return -np.inf if diffusion.zero_terminal_snr else -10.0  # where `linear` has its noisy end


SCHEDULES = Registry(
    "schedule",
    {
        "linear": lambda diffusion: _beta(diffusion, 1),
        "scaled_linear": lambda diffusion: _beta(diffusion, 2),
        "cosine": lambda diffusion: Cosine(_noisiest(diffusion)),
        "rectified_flow": lambda diffusion: StraightPath(_noisiest(diffusion)),
    },
)


def make_schedule(diffusion: ConfigDict) -> Schedule:
    """The schedule that the section `diffusion` names.

    Raises `Refusal` where its noisy end has too little signal for the objective epsilon: sampling
    divides the prediction by that signal.
    """
    schedule = SCHEDULES[diffusion.schedule](diffusion)
    noisiest = float(schedule.log_snr(jnp.ones(())))
    if diffusion.objective == "epsilon" and noisiest < LOG_SNR_MIN:
        raise Refusal(
            "The epsilon objective cannot be inverted at the schedule's last log-SNR of "
            f'{noisiest:.0f}: use objective "v", or no zero_terminal_snr, or a smaller beta_end or '
            "num_steps."
        )
    return schedule


def shift(
    log_snr: Float[Array, "*shape"],
    frames: Int[Array, "*#shape"] | int,
    diffusion: ConfigDict,
) -> Float[Array, "*shape"]:
    """The log-SNR for examples of `frames` valid frames, by `diffusion.reference_frames`.

    It is lower by log(frames / reference_frames). The mean of n noisy frames has n times the SNR of
    one, so what all frames have in common is equally hidden at every length. In rectified flow's
    time this is the shift of Esser et al. 2024, section 5.3.2, with alpha^2 = frames /
    reference_frames; Hoogeboom et al. 2023 shift the log-SNR of images by the number of pixels.
    """
    if not diffusion.reference_frames:
        return log_snr
    return log_snr - jnp.log(jnp.maximum(frames, 1) / diffusion.reference_frames)


TIMES = Registry(
    "times",
    {
        "uniform": lambda uniform, diffusion: uniform,
        # The middle more often than the ends (Esser et al. 2024, section 3.1).
        "logit_normal": lambda uniform, diffusion: jax.nn.sigmoid(
            diffusion.times_mean + diffusion.times_std * ndtri(uniform)
        ),
    },
)


def draw_times(key: Key[Array, ""], batch: int, diffusion: ConfigDict) -> Float[Array, " {batch}"]:
    """Times in [0, 1) with the distribution `diffusion.times`, stratified over the batch.

    Each time alone has that distribution, and the batch's mean loss varies far less than with
    independent times (Kingma et al. 2021, I.1). The order is random, so that an example's time does
    not depend on its position in the batch, which decides its task.
    """
    offset, order = jax.random.split(key)
    grid = (jnp.arange(batch) + jax.random.uniform(offset)) / batch
    return TIMES[diffusion.times](jax.random.permutation(order, grid), diffusion)


def earliest_time(diffusion: ConfigDict) -> Float[Array, ""]:
    """The earliest time that training draws, but for one in a thousand.

    With less noise the network is not trained, and what it predicts there can be anything.
    """
    return TIMES[diffusion.times](jnp.float32(UNTRAINED), diffusion)


def sample_log_snrs(
    schedule: Schedule,
    steps: int,
    start: Float[Array, ""] | float = 1.0,
    end: Float[Array, ""] | float = 0.0,
) -> Float[Array, " {steps}+1"]:
    """The log-SNRs of a sampler's steps, evenly spaced in time from `start` to `end`.

    After them comes infinity, where latents are clean.
    """
    times = jnp.linspace(start, jnp.minimum(start, end), steps)
    return jnp.append(schedule.log_snr(times), jnp.inf)
