"""Classifier-free guidance (Ho & Salimans 2022)."""

from jaxtyping import Array, Float


def guide(
    conditional: Float[Array, "batch frames channels"],
    unconditional: Float[Array, "batch frames channels"],
    scale: Float[Array, ""] | float,
) -> Float[Array, "batch frames channels"]:
    """`unconditional + scale * (conditional - unconditional)`: scale 0 ignores the text, 1 is the model as trained.

    For sampling only; a model trained on guided predictions would learn to undo them.
    """
    return unconditional + scale * (conditional - unconditional)
