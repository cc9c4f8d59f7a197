"""The autoencoders of the presets have the stated rates, shapes and sizes."""

import jax
import jax.numpy as jnp
import pytest

from jen1_jax.config import load_config
from jen1_jax.models.autoencoder import make_autoencoder

PRESETS = {
    "jen1": (320, 128, 150.0),
    "jen1_levels": (320, 128, 150.0),
    "jen1_fast": (2048, 64, 23.4375),
    "encodec_layout": (320, 128, 150.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_latent_rate_and_shape(name):
    config = load_config(name)
    model = make_autoencoder(config)
    hop, channels, rate = PRESETS[name]
    assert (model.hop, config.autoencoder.latent_channels) == (hop, channels)
    assert config.audio.sample_rate / model.hop == rate
    audio = jax.ShapeDtypeStruct((1, 4 * hop, 2), jnp.float32)
    output = jax.eval_shape(
        lambda audio: model.init_with_output(jax.random.key(0), audio)[0], audio
    )
    assert output.audio.shape == audio.shape and output.latents.shape == (1, 4, channels)
    assert (output.levels is None) == (model.window == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, millions",
    [
        ("jen1", 11.84),
        ("jen1_levels", 20.73),
        ("jen1_fast", 46.17),
        ("encodec_layout", 4.83),
        ("quickstart", 7.23),
        ("waveform", 7.88),
    ],
)
def test_sizes(name, millions):
    model = make_autoencoder(load_config(name))
    params = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, model.hop, 2), jnp.float32)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(
        millions, rel=1e-3
    )
