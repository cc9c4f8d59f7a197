"""Products with statistics and filters have full float32 precision.

Accelerators have a lower precision by default.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder import losses, spectrum
from jen1_jax.autoencoder.whitening import Moments, fit_whitening

AUDIO, LATENTS, VALID = jnp.zeros((1, 1024, 2)), jnp.zeros((1, 5, 4)), jnp.full(1, 1024)
MOMENTS = Moments.of(np.random.default_rng(0).normal(size=(50, 4)))
WHITENING = fit_whitening(MOMENTS, keep=1.0, floor=1e-5)
LAYOUT = spectrum.Layout(256)
LEVELS = jnp.zeros((1, 16, LAYOUT.bands))


def precisions(jaxpr) -> list:
    """The precision of every matrix product, in nested programs too."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.params["precision"])
        is_program = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += precisions(inner)
    return found


@pytest.mark.parametrize(
    "function, arguments",
    [
        (WHITENING.apply, (LATENTS,)),
        (WHITENING.invert, (LATENTS,)),
        (lambda x: losses.mel(x, x, VALID, (256,), 48_000), (AUDIO,)),
        (lambda x: spectrum.analyse(x, LAYOUT), (AUDIO,)),
        (lambda x: spectrum.synthesise(x, jnp.ones((1, 16, 1)), LAYOUT, 1), (LEVELS,)),
    ],
    ids=["whitening", "its inverse", "mel", "levels", "audio of levels"],
)
def test_products_have_the_highest_precision(function, arguments):
    found = precisions(jax.make_jaxpr(function)(*arguments).jaxpr)
    assert found and all(precision == (jax.lax.Precision.HIGHEST,) * 2 for precision in found)
