"""What the denoiser is given besides text: one vector per example from each conditioner.

A new one is a class in one file and its name in `unet.conditioning` (docs/extending.md).
"""

from jen1_jax.conditioning.conditioner import Conditioner
from jen1_jax.conditioning.timing import Timing
from jen1_numpy.errors import Refusal
from jen1_numpy.registry import Registry

CONDITIONERS = Registry("unet.conditioning", {"timing": Timing()})


def chosen(names) -> dict[str, Conditioner]:
    """The conditioners of these names, as in `config.unet.conditioning`.

    Raises `Refusal` for one that no file has registered.
    """
    for name in names:
        if name not in CONDITIONERS:
            raise Refusal(
                f"The conditioner {name!r} of unet.conditioning is unknown; known are "
                f"{', '.join(CONDITIONERS)}. If it is one of your own, give its file with --import "
                "FILE.py, or import it before jen1_jax.load."
            )
    return {name: CONDITIONERS[name] for name in names}
