"""What the U-Net is given besides text: one vector per example from each conditioner.

A model's configuration names its conditioners in `unet.conditioning`. To use one of your own,
write a class that inherits from `Conditioner` and put an instance of it into `CONDITIONERS` under
that name, before the model is loaded:

    CONDITIONERS["tempo"] = Tempo()
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jen1_numpy.errors import Refusal
from jen1_torch.layers import fourier_features, fourier_frequencies

SECONDS_LIMIT = 3600.0

Values = Mapping[str, float]  # of one example, by their names; NaN stands for an unknown one


class Conditioner:
    """One kind of conditioning.

    Subclasses set the attributes and define `given` and `features`; `window` only where the values
    depend on which part of a piece is sampled.

    Attributes:
        names: of its values.
        null_rate: the share of the training examples whose values were left out. Above 0, music
            can be generated without a value.
    """

    names: Sequence[str]
    null_rate: float = 0.0

    def given(self, value: Any) -> dict[str, float]:
        """The values for what a person asks for; raises `Refusal` where it makes no sense."""
        raise NotImplementedError

    def window(self, values: Values, first: float) -> Values:
        """The values of the window that begins `first` seconds after these values."""
        return values

    def features(self, values: Mapping[str, Tensor]) -> Tensor:
        """A vector for each example, [batch, n], from values [batch] that are all known.

        A linear layer of the U-Net reads them. Zeros mean an unknown value, so that no known value
        should give zeros only.
        """
        raise NotImplementedError


class Timing(Conditioner):
    """The second of its piece at which a window starts, and the length of the whole piece.

    These two numbers are Stable Audio's (Evans et al. 2024, arXiv 2402.04825), which learns a
    vector for every second instead of the features below. Generation knows them of each window,
    from `start` and `total`, so that nobody gives them as a condition.
    """

    names = ("start", "total")

    def window(self, values: Values, first: float) -> Values:
        return {**values, "start": values["start"] + first}

    def features(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sines and cosines [batch, 128] of log(1 + seconds), clipped to an hour.

        Pieces last from seconds to an hour; on this scale equal ratios are equally far apart.
        """
        limit = math.log1p(SECONDS_LIMIT)
        frequencies = fourier_frequencies(64, limit)
        features = [
            fourier_features(values[name].log1p(), frequencies, limit) for name in self.names
        ]
        return torch.cat(features, dim=-1)


CONDITIONERS: dict[str, Conditioner] = {"timing": Timing()}


def chosen(names: Iterable[str]) -> dict[str, Conditioner]:
    """The conditioners of these names; raises `Refusal` for one that is not registered."""
    for name in names:
        if name not in CONDITIONERS:
            raise Refusal(
                f"The conditioner {name!r} of unet.conditioning is unknown; known are "
                f"{', '.join(CONDITIONERS)}. If it is one of your own, put it into "
                "jen1_torch.conditioning.CONDITIONERS before you load the model."
            )
    return {name: CONDITIONERS[name] for name in names}


def embed(
    conditioners: Mapping[str, Conditioner], examples: Sequence[Mapping[str, Values]]
) -> dict[str, Tensor]:
    """The vectors [batch, n] that the U-Net is given, by the conditioner's name.

    `examples` holds the values of each example, by the conditioner's name.
    """
    vectors = {}
    for name, conditioner in conditioners.items():
        rows = [[example[name][key] for key in conditioner.names] for example in examples]
        values = torch.tensor(rows, dtype=torch.float32)
        known = values.isfinite().all(1, keepdim=True)
        some = torch.where(known, values, 1.0)
        features = conditioner.features(dict(zip(conditioner.names, some.T, strict=True)))
        if features.ndim != 2 or len(features) != len(rows):
            raise Refusal(
                f"The conditioner {name!r} gives features of the shape {tuple(features.shape)} for "
                f"{len(rows)} examples; it must give one vector for each, [batch, n]."
            )
        vectors[name] = features * known
    return vectors
