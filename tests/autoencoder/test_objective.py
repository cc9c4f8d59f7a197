"""What the autoencoder's training passes on."""

import jax
import jax.numpy as jnp
import numpy as np

from configs.jen1 import get_config
from jen1_jax.autoencoder.discriminator import Discriminator
from jen1_jax.autoencoder.objective import autoencoder_terms
from tests.autoencoder.testing import build


def test_training_masks_other_latents_with_another_key_and_none_at_rate_0():
    config = get_config().train_autoencoder
    config.losses.update(stft=0.0, mel=0.0, adversarial=0.0, feature_matching=0.0)
    audio = jax.random.normal(jax.random.key(2), (2, 256, 2))
    judge = Discriminator((64,), 4, "float32")

    def loss(mask_rate, key):
        model, params = build(mask_rate=mask_rate)
        valid = jnp.full(2, 256)
        terms = jax.jit(
            lambda key: autoencoder_terms(
                model, judge, {"autoencoder": params}, audio, valid, key, None, config, 48_000
            )
        )
        return np.asarray(terms(jax.random.key(key))["waveform"][0])

    assert (loss(0.5, 0) != loss(0.5, 1)).all() and (loss(0.5, 0) != loss(0.0, 0)).all()
    np.testing.assert_array_equal(loss(0.0, 0), loss(0.0, 1))
