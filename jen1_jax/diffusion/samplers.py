"""Samplers: from noise to a clean latent along a falling series of noise levels.

A sampler knows the model only as `denoise(noisy, log_snr [batch]) -> clean`; text, guidance, mask and objective are the
caller's business. A new sampler is one function with the signature of `ddim` and a line in `SAMPLERS`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jen1_jax.diffusion.objectives import scales
from jen1_jax.registry import Registry

Latents = Float[Array, "batch frames channels"]
Denoise = Callable[[Latents, Float[Array, " batch"]], Latents]


def ddim(
    denoise: Denoise, noise: Latents, log_snrs: Float[Array, " points"], key: Key[Array, ""] | None = None, eta: float = 0.0
) -> Latents:
    """DDIM (Song et al. 2021, equation 12): one evaluation of `denoise` per step, one compiled step for all of them.

    `noise` is the standard Gaussian start and `log_snrs` the rising levels to visit, the last of them only arrived at. `eta` 0 is
    deterministic, first order in the step; 1 is DDPM's ancestral sampling and, like all above 0, needs `key`.
    """
    if eta and key is None:
        raise ValueError("eta > 0 draws noise at every step: pass a key")

    def step(noisy, inputs):
        index, here, there = inputs
        clean = denoise(noisy, jnp.full(noisy.shape[:1], here))
        alpha, sigma = scales(here)
        noise = (noisy - alpha * clean) / sigma
        alpha, sigma = scales(there)
        if eta:
            fresh = -(eta**2) * jnp.expm1(here - there)  # the share of the noise's variance that is drawn anew
            drawn = jax.random.normal(jax.random.fold_in(key, index), noisy.shape, noisy.dtype)
            noise = jnp.sqrt(1 - fresh) * noise + jnp.sqrt(fresh) * drawn
        return alpha * clean + sigma * noise, None

    steps = jnp.arange(len(log_snrs) - 1), log_snrs[:-1], log_snrs[1:]
    return jax.lax.scan(step, noise, steps)[0]


SAMPLERS = Registry("sampler", {"ddim": ddim})
