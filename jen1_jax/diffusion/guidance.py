"""Classifier-free guidance (Ho & Salimans 2022) and what keeps it from overshooting.

For sampling only; a model trained on guided predictions would learn to undo them. Everything here is done to clean latents: a
prediction of any objective is linear in its clean latent, so that plain guidance is the same on either.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

Latents = Float[Array, "batch frames channels"]


def guide(
    conditional: Latents,
    unconditional: Latents,
    scale: Float[Array, ""] | float,
    counts: Float[Array, "batch frames 1"] | float = 1.0,
    *,
    rescale: float = 0.0,
    parallel: float = 1.0,
    limit: float = 0.0,
) -> Latents:
    """`unconditional + scale * (conditional - unconditional)`: scale 0 ignores the text, 1 is the model as trained.

    `limit` shortens the difference to that root mean square, and `parallel` weighs its part along the conditional latent, which
    is what oversaturates (adaptive projected guidance, Sadat et al. 2024, without momentum); `rescale` goes that share of the way
    back to the conditional latent's standard deviation (Lin et al. 2023, section 3.4). Their sums run over each example's frames
    that `counts` (1, others 0). The defaults change nothing.
    """
    total = lambda x: jnp.sum(x * counts, axis=(1, 2), keepdims=True)
    difference = conditional - unconditional
    if limit:
        size = total(jnp.ones_like(difference))
        difference = difference * jnp.minimum(
            1, limit / (jnp.sqrt(total(difference**2) / jnp.maximum(size, 1)) + 1e-12)
        )
    if parallel != 1:
        along = total(difference * conditional) / (total(conditional**2) + 1e-12) * conditional
        difference = difference + (parallel - 1) * along
    guided = conditional + (scale - 1) * difference
    if rescale:
        size = jnp.maximum(total(jnp.ones_like(guided)), 1)
        spread = lambda x: jnp.sqrt(total((x - total(x) / size) ** 2))
        guided = guided * (1 - rescale + rescale * spread(conditional) / (spread(guided) + 1e-12))
    return guided
