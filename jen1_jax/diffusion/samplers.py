"""Samplers: from noise to a clean latent along a falling series of noise levels.

A sampler knows the model only as `denoise(noisy, log_snr [batch]) -> clean`; text, guidance, mask and objective are the caller's
business. All have the signature `(denoise, noise, log_snrs, keys)`: `noise` is the latent to begin with, standard Gaussian at
the first of the rising levels `log_snrs`, the last of which is only arrived at; `keys`, one an example, are for those that draw
noise on the way, so that an example's result does not depend on its mates. Each is one scan over one compiled step. A new sampler
is one function and a line in `SAMPLERS`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from jen1_jax.diffusion.objectives import scales
from jen1_jax.errors import Refusal
from jen1_jax.registry import Registry

Latents = Float[Array, "batch frames channels"]
Levels = Float[Array, " points"]
Keys = Key[Array, " batch"]
Denoise = Callable[[Latents, Float[Array, " batch"]], Latents]


def ddim(
    denoise: Denoise, noise: Latents, log_snrs: Levels, keys: Keys, eta: float = 0.0
) -> Latents:
    """DDIM (Song et al. 2021, equation 12), first order: one evaluation of `denoise` a step.

    `eta` 0 is deterministic: Euler's method on the probability-flow ODE, in sigma / alpha as in rectified flow's time. 1 draws
    all noise anew that the step allows: DDPM's ancestral sampling (Ho et al. 2020) with the posterior's variance.
    """

    def step(noisy, inputs):
        index, here, there = inputs
        clean, noise = _split(denoise, noisy, here)
        alpha, sigma = scales(there)
        if eta:
            fresh = -(eta**2) * jnp.expm1(
                here - there
            )  # the share of the noise's variance that is drawn anew
            draw = lambda key: jax.random.normal(
                jax.random.fold_in(key, index), noisy.shape[1:], noisy.dtype
            )
            noise = jnp.sqrt(1 - fresh) * noise + jnp.sqrt(fresh) * jax.vmap(draw)(keys)
        return alpha * clean + sigma * noise, None

    steps = jnp.arange(len(log_snrs) - 1), log_snrs[:-1], log_snrs[1:]
    return jax.lax.scan(step, noise, steps)[0]


def heun(denoise: Denoise, noise: Latents, log_snrs: Levels, keys: Keys) -> Latents:
    """Heun's method (Karras et al. 2022, algorithm 1), second order: two evaluations of `denoise` a step.

    The probability-flow ODE is walked in rectified flow's time, which is finite from pure noise to clean: there the velocity is
    noise - clean, and a step's second evaluation is left unused where it arrives at clean.
    """

    def step(noisy, levels):
        here, there = levels
        clean, noise = _split(denoise, noisy, here)
        alpha, sigma = scales(there)
        arrived = alpha * clean + sigma * noise
        clean_there, noise_there = _split(denoise, arrived, there)
        time = lambda log_snr: jax.nn.sigmoid(-log_snr / 2)  # sigma / (alpha + sigma)
        mean = (noise - clean + noise_there - clean_there) / 2
        line = noisy / sum(scales(here)) + (time(there) - time(here)) * mean
        return jnp.where(jnp.isinf(there), arrived, line * (alpha + sigma)), None

    return jax.lax.scan(step, noise, (log_snrs[:-1], log_snrs[1:]))[0]


def dpm_solver(denoise: Denoise, noise: Latents, log_snrs: Levels, keys: Keys) -> Latents:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), second order: one evaluation a step, the one before it is used again.

    First order in the first step, in one that begins or ends at an infinite level, and after one that led nowhere.
    """

    def step(carry, levels):
        noisy, clean_before, before = carry
        here, there = levels
        clean = denoise(noisy, jnp.full(noisy.shape[:1], here))
        (_, sigma_here), (alpha, sigma) = scales(here), scales(there)
        ahead, behind = (there - here) / 2, (here - before) / 2
        weight = jnp.where(
            jnp.isfinite(ahead) & jnp.isfinite(behind) & (behind > 0), ahead / (2 * behind), 0.0
        )
        slope = clean + weight * (clean - clean_before)
        return (sigma / sigma_here * noisy - alpha * jnp.expm1(-ahead) * slope, clean, here), None

    start = noise, jnp.zeros_like(noise), -jnp.inf * jnp.ones(())
    return jax.lax.scan(step, start, (log_snrs[:-1], log_snrs[1:]))[0][0]


def _split(denoise: Denoise, noisy: Latents, log_snr: Float[Array, ""]) -> tuple[Latents, Latents]:
    """The clean latent and the noise that `noisy` is made of; no noise where there is none to tell."""
    alpha, sigma = scales(log_snr)
    clean = denoise(noisy, jnp.full(noisy.shape[:1], log_snr))
    return clean, jnp.where(sigma > 0, noisy - alpha * clean, 0) / jnp.where(sigma > 0, sigma, 1)


SAMPLERS = Registry(
    "sampler",
    {
        "ddpm": partial(ddim, eta=1.0),
        "ddim": ddim,
        "euler": ddim,  # the same method under its other name: see there
        "heun": heun,
        "dpm_solver": dpm_solver,
    },
)


def make_sampler(config: ConfigDict) -> Callable[[Denoise, Latents, Levels, Keys], Latents]:
    """The sampler that `config.diffusion` names; its `eta` is for ddim alone."""
    sampler = SAMPLERS[config.sampler]
    if not 0 <= config.eta <= 1:
        raise Refusal(f"diffusion.eta is a share, from 0 to 1; {config.eta} is not.")
    if config.sampler == "ddim":
        return partial(ddim, eta=config.eta)
    if config.eta:
        raise Refusal(
            f"diffusion.eta is for the sampler ddim; with {config.sampler} leave it at 0."
        )
    return sampler
