"""Classifier-free guidance (Ho & Salimans 2022) and corrections against too much of it.

For sampling only: a model trained on guided predictions would learn to undo them. Guidance works on
clean latents. A prediction of any objective is linear in its clean latent, so plain guidance gives
the same result on either.
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
    """`unconditional + scale * (conditional - unconditional)`.

    A scale of 0 ignores the text, and 1 is the model as trained. The defaults of the other
    arguments change nothing:

    - `limit` shortens the difference to this root mean square, and `parallel` is the weight of its
      part along the conditional latent, which causes oversaturation (adaptive projected guidance,
      Sadat et al. 2024, without momentum).
    - `rescale` moves the result by this share towards the conditional latent's standard deviation
      (Lin et al. 2023, section 3.4).

    Their sums run over the frames of each example where `counts` is 1; elsewhere it is 0.
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
