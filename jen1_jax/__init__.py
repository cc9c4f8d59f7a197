"""JEN-1 in JAX: train a text-to-music model from raw 48 kHz stereo audio, and let it compose, inpaint and continue music."""

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
    """The trained model of a run folder, ready to generate; raises `Refusal` where something it needs is missing or disagrees.

    `settings` are those of the section `diffusion` that shall differ from the run's in sampling, like `sampler="heun"`.
    """
    from jen1_jax.generation.model import (
        Model,
    )  # JAX and Flax load on the first use, so that importing the package stays quick

    return Model.load(
        run, settings={f"diffusion.{name}": value for name, value in settings.items()}
    )


__all__ = ["__version__", "load"]
