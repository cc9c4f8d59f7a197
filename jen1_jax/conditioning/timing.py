"""Where in its piece an example lies."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jen1_jax.batch import Clips, Values
from jen1_jax.conditioning.conditioner import Conditioner
from jen1_jax.errors import Refusal
from jen1_jax.layers.embeddings import fourier_features

SECONDS_LIMIT = 3600.0


class Timing(Conditioner):
    """The second of its piece at which an example starts, and the length of the whole piece.

    These two numbers are Stable Audio's (Evans et al. 2024, arXiv 2402.04825), which learns a
    vector for every second instead of the features below.
    """

    names = fields = ("start", "total")

    def read(self, clips: Clips) -> Values:
        return {name: np.asarray(clips[name], np.float32) for name in self.names}

    def given(self, value: Any) -> dict[str, float]:
        start, total = value
        if not (isinstance(start, Real) and isinstance(total, Real) and 0 <= start <= total):
            raise Refusal(f"A piece of {total!r} seconds has no part that starts at {start!r} s.")
        return {"start": float(start), "total": float(total)}

    def window(
        self, values: Values, first: Float[Array, " batch"], seconds: Float[Array, " batch"]
    ) -> Values:
        start = values["start"] + first
        return {"start": start, "total": jnp.minimum(values["total"], start + seconds)}

    def features(self, values: Values) -> Float[Array, "batch 128"]:
        """Sines and cosines of log(1 + seconds), clipped to an hour.

        Pieces last from seconds to an hour; on this scale equal ratios are equally far apart.
        """
        limit = math.log1p(SECONDS_LIMIT)
        numbers: Sequence[Array] = [values[name] for name in self.names]
        features = [fourier_features(jnp.log1p(seconds), 64, limit) for seconds in numbers]
        return jnp.concatenate(features, axis=-1)
