"""What the denoiser is given besides text: one vector per example from each conditioner.

A new one is a class in one file and its name in `unet.conditioning` (docs/extending.md).
"""

from jen1_jax.conditioning.conditioner import Conditioner
from jen1_jax.conditioning.timing import Timing
from jen1_jax.registry import Registry

CONDITIONERS = Registry("unet.conditioning", {"timing": Timing()})


def chosen(names) -> dict[str, Conditioner]:
    """The conditioners of these names, as in `config.unet.conditioning`."""
    return {name: CONDITIONERS[name] for name in names}
