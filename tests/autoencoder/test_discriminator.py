"""The discriminator: what it sees, what counts, and that it tells real from decoded audio."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jen1_jax.autoencoder import discriminator
from jen1_jax.autoencoder.discriminator import ADVERSARIAL_LOSSES, Discriminator
from jen1_jax.errors import Refusal

WINDOWS = (128, 32)
NOISE = 0.3 * jax.random.normal(jax.random.key(0), (4, 1024, 2))
FULL = jnp.full(4, 1024)


@pytest.fixture(scope="module")
def critic():
    module = Discriminator(WINDOWS, 4)
    params = module.init(jax.random.key(1), NOISE[:1])["params"]
    return module, params, jax.jit(lambda params, audio: module.apply({"params": params}, audio))


@pytest.mark.slow
def test_phase_and_stereo_reach_the_verdict(critic):
    _, params, apply = critic
    for other in (
        -NOISE,
        NOISE[..., ::-1],
        NOISE.at[..., 1].multiply(-1),
    ):  # no magnitude of left or right tells them apart
        for (verdict, _), (changed, _) in zip(
            apply(params, NOISE), apply(params, other), strict=True
        ):
            assert np.abs(verdict - changed).max() > 1e-3


@pytest.mark.slow
def test_the_spectrum_of_noise_has_the_power_of_the_noise(critic):
    module, params, _ = critic
    identity = jax.tree.map(jnp.zeros_like, params)
    name = "window_128_conv_0"
    kernel = (
        jnp.zeros_like(params[name]["kernel"]).at[1, 3, 0, 0].set(1)
    )  # passes the first plane on as it is
    identity[name] = {"kernel": kernel, "scale": jnp.ones(4), "bias": jnp.zeros(4)}
    _, layers = module.apply({"params": identity}, NOISE)[0]
    plane = np.asarray(layers[0][..., 0])
    real_part = np.where(plane < 0, plane / 0.2, plane)[
        :, :-4, 1:-1
    ]  # undoes the leaky ReLU; away from padding and the ends
    assert real_part.std() == pytest.approx(0.3 / 2**0.5, rel=0.1)


@pytest.mark.slow
def test_padding_counts_in_no_loss(critic):
    _, params, apply = critic
    valid = jnp.array([1024, 512, 100, 0])
    real = [apply(params, NOISE), apply(params, NOISE * (jnp.arange(1024) < 600)[:, None])]
    decoded = apply(params, 0.5 * NOISE)
    for loss in (
        lambda real: discriminator.discriminator_loss("hinge", real, decoded, WINDOWS, valid),
        lambda real: discriminator.feature_matching_loss(real, decoded, WINDOWS, valid),
        lambda real: discriminator.adversarial_loss("hinge", real, WINDOWS, valid),
    ):
        first, second = (loss(scores) for scores in real)
        assert not np.isclose(first[0], second[0], rtol=1e-5)  # differs where it is real,
        np.testing.assert_allclose(first[2:], second[2:], rtol=1e-5)  # and nowhere else
        assert float(first[3]) == 0


@pytest.mark.slow
def test_features_match_only_themselves(critic):
    _, params, apply = critic
    real = apply(params, NOISE)
    assert not np.asarray(discriminator.feature_matching_loss(real, real, WINDOWS, FULL)).any()
    quiet, loud = (
        discriminator.feature_matching_loss(
            apply(params, g * NOISE), apply(params, 0.5 * g * NOISE), WINDOWS, FULL
        )
        for g in (1.0, 4.0)
    )
    np.testing.assert_allclose(quiet, loud, rtol=0.05)  # relative to the features of the real audio


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADVERSARIAL_LOSSES)
def test_it_learns_to_tell_and_to_be_fooled(kind):
    """A few steps teach it white noise from filtered noise; then the gradient by the audio leads towards `real`."""
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
    fooled = lambda audio: discriminator.adversarial_loss(
        kind, module.apply({"params": params}, audio), (64,), valid
    ).mean()
    decoded, real = smooth(draw(jax.random.key(99))), draw(jax.random.key(98))
    assert fooled(real) < fooled(decoded)
    slope = jax.grad(fooled)(decoded)
    assert fooled(decoded - 0.1 * slope / jnp.abs(slope).max()) < fooled(decoded)


def test_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(Refusal, match="hinge, least_squares"):
        ADVERSARIAL_LOSSES["wasserstein"]


@pytest.mark.slow
def test_a_silent_crop_does_not_outweigh_its_batch(critic):
    _, params, apply = critic
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if path[-1].key == "bias" else leaf, params
    )  # as at first
    real = NOISE.at[0].set(0)
    loss = discriminator.feature_matching_loss(
        apply(params, real), apply(params, real + 0.01 * NOISE), WINDOWS, FULL
    )
    assert loss[0] < 5 and np.isfinite(loss).all()
