"""JEN-1 in JAX: a text-to-music model, trained from raw 48 kHz stereo audio.

It generates music from text, inpaints spans of music and continues it.
"""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("jen1-jax")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from jen1_jax.generation.model import Model


def load(run: str | os.PathLike, **settings: Any) -> "Model":
    """The trained model of a run folder, ready to generate.

    `settings` replace fields of the run's section `diffusion` in sampling, like `sampler="heun"`.
    Raises `Refusal` if a part of the run is missing or does not belong to the others.
    """
    # Imported here, so that importing the package does not import JAX and Flax, which takes long.
    from jen1_jax.generation.model import Model

    fields = {f"diffusion.{name}": value for name, value in settings.items()}
    return Model.load(run, settings=fields)


__all__ = ["__version__", "load"]
