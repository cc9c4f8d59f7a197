"""Samplers: from noise to clean latents along a rising series of log-SNRs.

A sampler knows the model only as `denoise(noisy, log_snr [batch]) -> clean`. Text, guidance, mask
and objective belong to the caller.

    state = sampler.start(noise)                        noise is standard Gaussian at log_snrs[0]
    state = sampler.step(denoise, state, i, log_snrs[i], log_snrs[i + 1], keys)     for each step
    sampler.latents(state)                              at the last level, to which no step follows

`sample` does this in one scan. Whoever calls `step` directly can show `state.clean` after each
step, or stop between two. To add a sampler, write a frozen dataclass that inherits from `Sampler`
and has a method `step`, and put it into `SAMPLERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from jen1_jax.diffusion.objectives import scales
from jen1_numpy.errors import Refusal
from jen1_numpy.registry import Registry

Latents = Float[Array, "batch frames channels"]
LogSNR = Float[Array, ""]
Keys = Key[Array, " batch"]
Denoise = Callable[[Latents, Float[Array, " batch"]], Latents]


class State(NamedTuple):
    """What a sampler holds between two steps.

    `clean` is the clean latent that the last step estimated, at the level `log_snr`. Before the
    first step it is 0, and `log_snr` is -infinity.
    """

    noisy: Latents
    clean: Latents
    log_snr: LogSNR


@dataclass(frozen=True)
class Sampler:
    """The base of all samplers, which differ in `step` alone."""

    def start(self, noise: Latents) -> State:
        """The state before the first step. `noise` is the noisy latent at the first level."""
        return State(noise, jnp.zeros_like(noise), jnp.full((), -jnp.inf, noise.dtype))

    def step(
        self,
        denoise: Denoise,
        state: State,
        index: Int[Array, ""] | int,
        log_snr: LogSNR,
        next_log_snr: LogSNR,
        keys: Keys,
    ) -> State:
        """One step, from the level `log_snr` to the cleaner level `next_log_snr`.

        `index` counts the steps from 0. A sampler that draws noise draws it from `keys`, one for
        each example, and `index`: an example's result does not depend on the rest of its batch.
        """
        raise NotImplementedError

    def latents(self, state: State) -> Latents:
        """The noisy latents that the last step arrived at; after the final step they are clean."""
        return state.noisy


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, equation 12), first order: one evaluation of `denoise` a step.

    `eta` 0 is deterministic: Euler's method on the probability-flow ODE, in sigma / alpha as in
    rectified flow's time. 1 replaces as much of the noise as the step allows: DDPM's ancestral
    sampling (Ho et al. 2020) with the posterior's variance.
    """

    eta: float = 0.0

    def step(self, denoise, state, index, log_snr, next_log_snr, keys):
        clean, noise = _split(denoise, state.noisy, log_snr)
        alpha, sigma = scales(next_log_snr)
        if self.eta:
            # the share of the noise's variance that is replaced
            fresh = -(self.eta**2) * jnp.expm1(log_snr - next_log_snr)
            draw = lambda key: jax.random.normal(
                jax.random.fold_in(key, index), noise.shape[1:], noise.dtype
            )
            noise = jnp.sqrt(1 - fresh) * noise + jnp.sqrt(fresh) * jax.vmap(draw)(keys)
        return State(alpha * clean + sigma * noise, clean, log_snr)


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method (Karras et al. 2022, algorithm 1), second order: two evaluations a step.

    It solves the probability-flow ODE in rectified flow's time, which is finite from pure noise to
    clean latents and in which the velocity is noise - clean. The final step, to clean latents,
    does not use its second evaluation.
    """

    def step(self, denoise, state, index, log_snr, next_log_snr, keys):
        clean, noise = _split(denoise, state.noisy, log_snr)
        alpha, sigma = scales(next_log_snr)
        first_order = alpha * clean + sigma * noise
        next_clean, next_noise = _split(denoise, first_order, next_log_snr)
        velocity = (noise - clean + next_noise - next_clean) / 2
        time = lambda log_snr: jax.nn.sigmoid(-log_snr / 2)  # sigma / (alpha + sigma)
        scaled = (
            state.noisy / sum(scales(log_snr)) + (time(next_log_snr) - time(log_snr)) * velocity
        )
        noisy = jnp.where(jnp.isinf(next_log_snr), first_order, scaled * (alpha + sigma))
        return State(noisy, clean, log_snr)


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), second order: one evaluation a step.

    It uses the evaluation of the step before again. The first step is first order, and so is a step
    that begins or ends at an infinite level or follows a step between two equal levels.
    """

    def step(self, denoise, state, index, log_snr, next_log_snr, keys):
        clean = denoise(state.noisy, jnp.full(state.noisy.shape[:1], log_snr))
        (_, sigma), (next_alpha, next_sigma) = scales(log_snr), scales(next_log_snr)
        ahead, behind = (next_log_snr - log_snr) / 2, (log_snr - state.log_snr) / 2
        weight = jnp.where(
            jnp.isfinite(ahead) & jnp.isfinite(behind) & (behind > 0), ahead / (2 * behind), 0.0
        )
        slope = clean + weight * (clean - state.clean)
        noisy = next_sigma / sigma * state.noisy - next_alpha * jnp.expm1(-ahead) * slope
        return State(noisy, clean, log_snr)


def _split(denoise: Denoise, noisy: Latents, log_snr: LogSNR) -> tuple[Latents, Latents]:
    """The clean latent and the noise that `noisy` consists of; where sigma is 0, the noise is 0."""
    alpha, sigma = scales(log_snr)
    clean = denoise(noisy, jnp.full(noisy.shape[:1], log_snr))
    return clean, jnp.where(sigma > 0, noisy - alpha * clean, 0) / jnp.where(sigma > 0, sigma, 1)


def sample(
    sampler: Sampler,
    denoise: Denoise,
    noise: Latents,
    log_snrs: Float[Array, " levels"],
    keys: Keys,
) -> Latents:
    """The latents at the last of `log_snrs`, from `noise` at the first: one scan over the steps."""

    def step(state, inputs):
        index, log_snr, next_log_snr = inputs
        return sampler.step(denoise, state, index, log_snr, next_log_snr, keys), None

    steps = jnp.arange(len(log_snrs) - 1), log_snrs[:-1], log_snrs[1:]
    return sampler.latents(jax.lax.scan(step, sampler.start(noise), steps)[0])


SAMPLERS = Registry(
    "sampler",
    {
        "ddpm": DDIM(eta=1.0),
        "ddim": DDIM(),
        "euler": DDIM(),  # the same method under its other name
        "heun": Heun(),
        "dpm_solver": DPMSolver(),
    },
)


def make_sampler(diffusion: ConfigDict) -> Sampler:
    """The sampler that the section `diffusion` names. Only ddim has the field `eta`."""
    sampler = SAMPLERS[diffusion.sampler]
    if not 0 <= diffusion.eta <= 1:
        raise Refusal(f"diffusion.eta is a share, from 0 to 1; {diffusion.eta} is not.")
    if diffusion.sampler == "ddim":
        return DDIM(diffusion.eta)
    if diffusion.eta:
        raise Refusal(
            f"diffusion.eta is for the sampler ddim; with {diffusion.sampler} leave it at 0."
        )
    return sampler
