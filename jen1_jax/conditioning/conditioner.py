"""What a kind of conditioning consists of.

    data -- read --> values -- window --> values -- embed --> one vector an example --> denoiser
    person -- given --/

`values` are the numbers that a conditioner knows of an example, by name; NaN stands for an unknown
one, and for one that is left out in training. Such an example's vector is zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jen1_jax.batch import Clips, Conditions, Numbers, Values
from jen1_jax.keys import named_key
from jen1_numpy.errors import Refusal


class Conditioner:
    """One kind of conditioning, which gives the denoiser one vector per example.

    Subclasses set the attributes and define `read`, `given` and `features`; `window` only where
    the values depend on which part of an example is used.

    Attributes:
        names: of its values.
        fields: of `Clips`, the arrays that `read` needs.
        null_rate: the share of the training examples whose values are left out. Above 0, music
            can be generated without a value.
    """

    names: Sequence[str]
    fields: Sequence[str]
    null_rate: float = 0.0

    def read(self, clips: Clips) -> Values:
        """The values of the data's examples, on the host; NaN where the data do not know them."""
        raise NotImplementedError

    def given(self, value: Any) -> dict[str, float]:
        """The values for what a person asks for; raises `Refusal` where it makes no sense."""
        raise NotImplementedError

    def window(self, values: Values, first: Numbers, seconds: Numbers) -> Values:
        """The values of the part that begins `first` seconds into the example.

        The example ends `seconds` after that; where it does not end, `seconds` is infinite.
        """
        return values

    def features(self, values: Values) -> Float[Array, "batch features"]:
        """A vector for each example, from values [batch] that are all known.

        A linear layer of the denoiser reads them. Zeros mean an unknown value, so that no known
        value should give zeros only.
        """
        raise NotImplementedError


def leave_out(key: Key[Array, ""], name: str, conditioner: Conditioner, values: Values) -> Values:
    """`values`, of which training leaves out each example's with the conditioner's `null_rate`."""
    if not conditioner.null_rate:
        return values
    size = len(values[conditioner.names[0]])
    key = named_key(key, f"conditioning {name}")
    left_out = jax.random.bernoulli(key, conditioner.null_rate, (size,))
    return {name: jnp.where(left_out, jnp.nan, value) for name, value in values.items()}


def embed(
    conditioners: Mapping[str, Conditioner], conditions: Conditions
) -> dict[str, Float[Array, "batch _"]]:
    """The vectors that the denoiser is given, by the conditioner's name."""
    vectors = {}
    for name, conditioner in conditioners.items():
        values = {key: conditions[name][key] for key in conditioner.names}
        known = jnp.isfinite(jnp.stack(list(values.values()))).all(0)
        some = {key: jnp.where(known, value, 1.0) for key, value in values.items()}
        features = conditioner.features(some)
        if features.ndim != 2 or len(features) != len(known):
            raise Refusal(
                f"The conditioner {name!r} gives features of the shape {features.shape} for "
                f"{len(known)} examples; it must give one vector for each, [batch, n]."
            )
        vectors[name] = features * known[:, None]
    return vectors


def read(conditioners: Mapping[str, Conditioner], clips: Clips) -> Conditions:
    """The values of all conditioners for the data's examples."""
    return {name: conditioner.read(clips) for name, conditioner in conditioners.items()}


def window(
    conditioners: Mapping[str, Conditioner],
    conditions: Conditions,
    first: Numbers,
    seconds: Numbers,
) -> Conditions:
    """The values for a part of each example; see `Conditioner.window`."""
    return {
        name: conditioner.window(conditions[name], first, seconds)
        for name, conditioner in conditioners.items()
    }


def check_fields(
    conditioners: Mapping[str, Conditioner], fields: Sequence[str], where: str
) -> None:
    """Raises `Refusal` where the data in `where`, which have the arrays `fields`, lack some."""
    for name, conditioner in conditioners.items():
        if missing := [field for field in conditioner.fields if field not in fields]:
            raise Refusal(
                f"unet.conditioning has {name!r}, which needs the fields {', '.join(missing)}, and "
                f"{where} lacks them; add them, or take {name!r} out of unet.conditioning."
            )
