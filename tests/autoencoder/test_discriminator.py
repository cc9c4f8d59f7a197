"""The discriminator: its inputs and losses, and that it learns to distinguish decoded audio."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jen1_jax.autoencoder import discriminator
from jen1_jax.autoencoder.discriminator import ADVERSARIAL_LOSSES, Discriminator
from jen1_numpy.errors import Refusal

WINDOWS = (128, 32)
NOISE = 0.3 * jax.random.normal(jax.random.key(0), (4, 1024, 2))
FULL = jnp.full(4, 1024)


@pytest.fixture(scope="module")
def discriminator_parts():
    """(module, params, apply)."""
    module = Discriminator(WINDOWS, 4)
    params = module.init(jax.random.key(1), NOISE[:1])["params"]
    return module, params, jax.jit(lambda params, audio: module.apply({"params": params}, audio))


@pytest.mark.slow
def test_the_scores_depend_on_phase_and_stereo(discriminator_parts):
    _, params, apply = discriminator_parts
    swapped, right_inverted = NOISE[..., ::-1], NOISE.at[..., 1].multiply(-1)
    for changed in (-NOISE, swapped, right_inverted):  # the magnitudes of the channels stay
        outputs = zip(apply(params, NOISE), apply(params, changed), strict=True)
        for (before, _), (after, _) in outputs:
            assert np.abs(before - after).max() > 1e-3


@pytest.mark.slow
def test_the_input_spectrum_has_the_power_of_the_audio(discriminator_parts):
    module, params, _ = discriminator_parts
    identity = jax.tree.map(jnp.zeros_like, params)
    name = "window_128_conv_0"
    # This kernel copies the first input plane.
    kernel = jnp.zeros_like(params[name]["kernel"]).at[1, 3, 0, 0].set(1)
    identity[name] = {"kernel": kernel, "scale": jnp.ones(4), "bias": jnp.zeros(4)}
    _, layers = module.apply({"params": identity}, NOISE)[0]
    plane = np.asarray(layers[0][..., 0])
    before_relu = np.where(plane < 0, plane / 0.2, plane)  # the inverse of the leaky ReLU
    real_part = before_relu[:, :-4, 1:-1]  # without padding and the ends
    assert real_part.std() == pytest.approx(0.3 / 2**0.5, rel=0.1)


@pytest.mark.slow
def test_no_loss_depends_on_padding(discriminator_parts):
    _, params, apply = discriminator_parts
    valid = jnp.array([1024, 512, 100, 0])
    real = [apply(params, NOISE), apply(params, NOISE * (jnp.arange(1024) < 600)[:, None])]
    decoded = apply(params, 0.5 * NOISE)
    for loss in (
        lambda real: discriminator.discriminator_loss("hinge", real, decoded, WINDOWS, valid),
        lambda real: discriminator.feature_matching_loss(real, decoded, WINDOWS, valid),
        lambda real: discriminator.adversarial_loss("hinge", real, WINDOWS, valid),
    ):
        first, second = (loss(scores) for scores in real)
        assert not np.isclose(first[0], second[0], rtol=1e-5)  # valid samples differ
        np.testing.assert_allclose(first[2:], second[2:], rtol=1e-5)  # only padding differs
        assert float(first[3]) == 0


@pytest.mark.slow
def test_the_feature_matching_loss_is_zero_for_equal_audio_and_relative_to_the_level(
    discriminator_parts,
):
    _, params, apply = discriminator_parts
    real = apply(params, NOISE)
    loss = lambda real, decoded: discriminator.feature_matching_loss(real, decoded, WINDOWS, FULL)
    assert not np.asarray(loss(real, real)).any()
    quiet, loud = (
        loss(apply(params, g * NOISE), apply(params, 0.5 * g * NOISE)) for g in (1.0, 4.0)
    )
    np.testing.assert_allclose(quiet, loud, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADVERSARIAL_LOSSES)
def test_it_learns_to_distinguish_and_its_gradient_leads_towards_real_audio(kind):
    """It is trained for a few steps to distinguish white noise (real) from filtered noise."""
    module, optimizer = Discriminator((64,), 8), optax.adam(3e-3)
    smooth = lambda x: (x + jnp.roll(x, 1, axis=1)) / 2**0.5
    draw = lambda key: jax.random.normal(key, (8, 512, 2))
    valid = jnp.full(8, 512)
    params = module.init(jax.random.key(0), draw(jax.random.key(0)))["params"]

    def loss(params, key):
        real, decoded = draw(key), smooth(draw(jax.random.fold_in(key, 1)))
        scores = [module.apply({"params": params}, audio) for audio in (real, decoded)]
        return discriminator.discriminator_loss(kind, *scores, (64,), valid).mean()

    @jax.jit
    def step(params, state, key):
        value, gradient = jax.value_and_grad(loss)(params, key)
        changes, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, changes), state, value

    state, values = optimizer.init(params), []
    for n in range(60):
        params, state, value = step(params, state, jax.random.key(n))
        values.append(float(value))
    assert np.mean(values[-5:]) < 0.5 * values[0]

    def adversarial(audio):
        scores = module.apply({"params": params}, audio)
        return discriminator.adversarial_loss(kind, scores, (64,), valid).mean()

    decoded, real = smooth(draw(jax.random.key(99))), draw(jax.random.key(98))
    assert adversarial(real) < adversarial(decoded)
    slope = jax.grad(adversarial)(decoded)
    assert adversarial(decoded - 0.1 * slope / jnp.abs(slope).max()) < adversarial(decoded)


def test_an_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(Refusal, match="hinge, least_squares"):
        ADVERSARIAL_LOSSES["wasserstein"]


@pytest.mark.slow
def test_a_silent_crop_has_a_limited_feature_matching_loss(discriminator_parts):
    _, params, apply = discriminator_parts
    no_bias = lambda path, leaf: 0 * leaf if path[-1].key == "bias" else leaf
    params = jax.tree_util.tree_map_with_path(no_bias, params)  # as at the start of training
    real = NOISE.at[0].set(0)
    features = apply(params, real), apply(params, real + 0.01 * NOISE)
    loss = discriminator.feature_matching_loss(*features, WINDOWS, FULL)
    assert loss[0] < 5 and np.isfinite(loss).all()
