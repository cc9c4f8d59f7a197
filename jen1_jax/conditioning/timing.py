"""Where in its piece an example lies."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jen1_jax.batch import Clips, Numbers, Values
from jen1_jax.conditioning.conditioner import Conditioner
from jen1_jax.layers.embeddings import fourier_features

SECONDS_LIMIT = 3600.0


class Timing(Conditioner):
    """The second of its piece at which an example starts, and the length of the whole piece.

    These two numbers are Stable Audio's (Evans et al. 2024, arXiv 2402.04825), which learns a
    vector for every second instead of the features below. Generation knows them of each window,
    from `start` and `total`, so that nobody gives them as a condition.
    """

    names = fields = ("start", "total")

    def read(self, clips: Clips) -> Values:
        return {
            "start": np.asarray(clips["start"], np.float32),
            "total": np.asarray(clips["total"], np.float32),
        }

    def window(self, values: Values, first: Numbers, seconds: Numbers) -> Values:
        start = values["start"] + first
        return {"start": start, "total": jnp.minimum(values["total"], start + seconds)}

    def features(self, values: Values) -> Float[Array, "batch 128"]:
        """Sines and cosines of log(1 + seconds), clipped to an hour.

        Pieces last from seconds to an hour; on this scale equal ratios are equally far apart.
        """
        limit = math.log1p(SECONDS_LIMIT)
        features = [fourier_features(jnp.log1p(values[n]), 64, limit) for n in self.names]
        return jnp.concatenate(features, axis=-1)
