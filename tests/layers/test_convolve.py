"""The convolution by products equals XLA's, and a result contains only the frames that it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.layers.convolve import convolve, direct, winograd
from jen1_jax.unet import REMAT
from tests.layers.testing import normal

# Name of the method -> (taps, channels, features, frames of a result), which select it, and the
# number of XLA's convolutions that it has left.
SHAPES = {
    "winograd": ((3, 256, 256, 501), 0),
    "products": ((5, 3, 9, 8), 1),
    "xla": ((3, 4, 8, 99), 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("method", SHAPES)
def test_value_and_gradients_in_training_are_those_of_xla(method, dilation):
    (taps, channels, features, frames), convolutions = SHAPES[method]
    shapes = (
        (2, frames + dilation * (taps - 1), channels),
        (taps, channels, features),
        (2, frames, features),
    )
    x, kernel, g = (jnp.asarray(normal(seed, *shape)) for seed, shape in enumerate(shapes))
    kernel = kernel / np.sqrt(taps * channels)

    def train(function, x, kernel, g):
        y, gradients = jax.vjp(lambda *inputs: function(*inputs, dilation), x, kernel)
        return y, *gradients(g)

    compiled = jax.jit(train, static_argnums=0).lower(convolve, x, kernel, g).compile()
    assert compiled.as_text().count(" convolution(") == convolutions
    for own, xla in zip(compiled(x, kernel, g), train(direct, x, kernel, g), strict=True):
        np.testing.assert_allclose(own, xla, rtol=1e-5, atol=1e-5 * np.abs(xla).max())


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_frame_of_winograd_contains_only_the_frames_that_it_reads(dilation):
    x, kernel = normal(0, 1, 11, 4), normal(1, 3, 4, 5)
    before = np.asarray(winograd(jnp.asarray(x), jnp.asarray(kernel), dilation))
    for frame in range(x.shape[1]):
        poisoned = x.copy()
        poisoned[:, frame] = np.inf
        after = np.asarray(winograd(jnp.asarray(poisoned), jnp.asarray(kernel), dilation))
        reads = [
            result in (frame, frame - dilation, frame - 2 * dilation)
            for result in range(before.shape[1])
        ]
        np.testing.assert_array_equal(np.isfinite(after).all(axis=(0, 2)), np.logical_not(reads))
        np.testing.assert_array_equal(
            after[:, np.logical_not(reads)], before[:, np.logical_not(reads)]
        )


@pytest.mark.parametrize("method", SHAPES)
def test_remat_of_products_saves_the_result_and_nothing_else(method):
    (taps, channels, features, frames), _ = SHAPES[method]
    x, kernel = jnp.zeros((2, frames + taps - 1, channels)), jnp.zeros((taps, channels, features))
    policy = REMAT["products"].keywords["policy"]
    block = jax.checkpoint(
        lambda x, kernel: jnp.sin(convolve(jnp.sin(x), kernel, 1)), policy=policy
    )
    saved = jax.tree.leaves(jax.eval_shape(lambda *inputs: jax.vjp(block, *inputs)[1], x, kernel))
    assert sorted(leaf.shape for leaf in saved) == sorted(
        [x.shape, kernel.shape, (2, frames, features)]
    )
