"""The losses of the autoencoder and its discriminator, and how much an example counts."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.jen1 import get_config
from jen1_jax.autoencoder.discriminator import Discriminator
from jen1_jax.training.autoencoder_losses import (
    autoencoder_losses,
    counts,
    discriminator_losses,
)
from jen1_jax.training.inputs import autoencoder_inputs
from tests.autoencoder.testing import build

SIZE, SAMPLES = 4, 1024
BATCH = {
    "audio": 0.3 * jax.random.normal(jax.random.key(0), (SIZE, SAMPLES, 2)),
    "valid_samples": jnp.full(SIZE, SAMPLES - 50),
    "mask_key": jax.random.split(jax.random.key(1), SIZE),
}


@pytest.fixture(scope="module")
def parts():
    """The parameters of both trainables, and the settings of their losses."""
    model, params = build(dilations=(1,))
    critic = Discriminator((64, 32), 4)
    critic_params = critic.init(jax.random.key(2), BATCH["audio"][:1])["params"]
    weights = dict(
        waveform=1.0,
        stft=0.5,
        mel=1.0,
        levels=0.0,
        width=0.0,
        kl=0.1,
        adversarial=0.1,
        feature_matching=5.0,
    )
    config = ConfigDict(dict(losses=weights, stft_windows=(256, 64), adversary=dict(loss="hinge")))
    params = {"autoencoder": params, "discriminator": critic_params}
    return params, dict(model=model, critic=critic, training=config)


def both(settings, batch):
    """The losses of each trainable as a function of all parameters."""
    return {
        "autoencoder": lambda p: autoencoder_losses(p, batch, sample_rate=48_000, **settings),
        "discriminator": lambda p: discriminator_losses(p, batch, **settings),
    }


def with_gradient(losses, params, name):
    """The losses, and the gradient of their sum for the parameters of one trainable."""
    total = lambda own: sum(loss.sum() for loss in losses(params | {name: own}).values())
    return jax.jit(losses)(params), jax.jit(jax.grad(total))(params[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_both_return_their_losses_and_every_parameter_has_a_gradient(parts, kind):
    params, settings = parts
    config = settings["training"].copy_and_resolve_references()
    config.adversary.loss = kind
    batch = BATCH | {"ramp": jnp.full(SIZE, 0.5)}
    names = {
        "autoencoder": {name for name, weight in config.losses.items() if weight},
        "discriminator": {"discriminator"},
    }
    for name, losses in both(settings | {"training": config}, batch).items():
        found, gradient = with_gradient(losses, params, name)
        assert set(found) == names[name]
        assert all(loss.shape == (SIZE,) for loss in found.values())
        for leaf in jax.tree.leaves(gradient):
            assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.slow
def test_losses_without_weight_are_left_out(parts):
    params, settings = parts
    config = settings["training"].copy_and_resolve_references()
    config.losses.update(kl=0.0, adversarial=0.0, feature_matching=0.0)
    losses = both(settings | {"training": config}, BATCH)["autoencoder"]
    found = jax.eval_shape(losses, {"autoencoder": params["autoencoder"]})
    assert set(found) == {"waveform", "stft", "mel"}


@pytest.mark.slow
def test_before_its_start_the_discriminator_adds_no_loss_and_gets_no_gradient(parts):
    params, settings = parts
    losses = both(settings, BATCH)
    found, _ = with_gradient(losses["autoencoder"], params, "autoencoder")
    assert not np.asarray(found["adversarial"]).any()
    assert not np.asarray(found["feature_matching"]).any()
    _, gradient = with_gradient(losses["discriminator"], params, "discriminator")
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_the_ramp_begins_at_the_start_of_the_adversary():
    config = get_config().train_autoencoder
    config.adversary.update(start=5, ramp=4)
    clips = {
        "audio": np.zeros((2, 8, 2), np.float32),
        "valid_samples": np.full(2, 8),
        "index": np.arange(2),
    }
    assert "ramp" not in autoencoder_inputs(clips, 4, config)
    for step, ramp in ((5, 0.25), (7, 0.75), (8, 1.0), (100, 1.0)):
        found = autoencoder_inputs(clips, step, config)["ramp"]
        np.testing.assert_array_equal(found, np.full(2, ramp, np.float32))


def test_the_waveform_loss_is_averaged_over_samples_and_the_others_over_examples():
    found = counts({"valid_samples": jnp.array([8, 3, 0])}, ("waveform", "mel"))
    assert found["waveform"].tolist() == [8, 3, 0] and found["mel"].tolist() == [1, 1, 0]


@pytest.mark.slow
def test_a_row_without_audio_has_finite_losses_and_gradients(parts):
    """Such is the row of a clip that cannot be read; its weight is 0."""
    params, settings = parts
    batch = BATCH | {"audio": BATCH["audio"].at[0].set(0), "ramp": jnp.ones(len(BATCH["audio"]))}
    batch |= {"valid_samples": BATCH["valid_samples"].at[0].set(0)}
    for name, losses in both(settings, batch).items():
        found, gradient = with_gradient(losses, params, name)
        for loss in found.values():
            assert np.isfinite(loss).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_key_decides_which_latents_are_masked_and_rate_0_masks_none():
    config = get_config().train_autoencoder
    config.losses.update(stft=0.0, mel=0.0, adversarial=0.0, feature_matching=0.0)
    audio = jax.random.normal(jax.random.key(2), (2, 256, 2))
    critic = Discriminator((64,), 4, "float32")

    @cache
    def compiled(mask_rate):
        model, params = build(mask_rate=mask_rate)

        @jax.jit
        def losses(key):
            batch = {"audio": audio, "valid_samples": jnp.full(2, 256)}
            batch |= {"mask_key": jax.random.split(key, 2)}
            settings = dict(model=model, critic=critic, training=config, sample_rate=48_000)
            return autoencoder_losses({"autoencoder": params}, batch, **settings)

        return losses

    def loss(mask_rate, key):
        return np.asarray(compiled(mask_rate)(jax.random.key(key))["waveform"])

    assert (loss(0.5, 0) != loss(0.5, 1)).all() and (loss(0.5, 0) != loss(0.0, 0)).all()
    np.testing.assert_array_equal(loss(0.0, 0), loss(0.0, 1))
