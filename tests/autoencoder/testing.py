"""A small autoencoder that compiles fast, with random weights of which none are zero."""

import jax
import jax.numpy as jnp
import numpy as np

from jen1_jax.autoencoder.model import Autoencoder

FIELDS = dict(
    strides=(4, 2), channels=(8, 12), dilations=(1, 2), compress=2, kernel_size=5, latent_channels=6
)


def build(**changes):
    """(model, params) with nonzero biases and strong residual branches.

    Otherwise tests would not notice what passes through them.
    """
    model = Autoencoder(**FIELDS | changes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.hop, 2)))["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        # The mean of a kernel may be 0, since kernels are normalised.
        level = {"alpha": 1.0, "scale": 0.6}.get(path[-1].key, 0.0)
        return (level + 0.1 * rng.standard_normal(leaf.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return model, params
