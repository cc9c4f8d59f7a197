import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.diffusion.guidance import guide
from jen1_jax.diffusion.objectives import OBJECTIVES


@pytest.fixture(scope="module")
def predictions():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4, 3)), jnp.float32)


def test_scale_zero_is_unconditional_one_conditional_and_two_twice_the_difference(predictions):
    conditional, unconditional, _ = predictions
    np.testing.assert_allclose(guide(conditional, unconditional, 0.0), unconditional, atol=1e-6)
    np.testing.assert_allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    np.testing.assert_allclose(
        guide(conditional, unconditional, 2.0), 2 * conditional - unconditional, atol=1e-6
    )


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_guiding_the_prediction_guides_the_clean_latent(name, predictions):
    conditional, unconditional, noisy = predictions
    log_snr = jnp.array([-2.0, 3.0])
    clean = lambda prediction: OBJECTIVES[name].clean(prediction, noisy, log_snr)
    guided = guide(clean(conditional), clean(unconditional), 3.0)
    np.testing.assert_allclose(
        clean(guide(conditional, unconditional, 3.0)), guided, rtol=1e-5, atol=1e-5
    )


def spread(x):
    return np.std(np.asarray(x, np.float64), axis=(1, 2))


def test_rescaling_brings_the_spread_back(predictions):
    conditional, unconditional, _ = predictions
    plain = guide(conditional, unconditional, 6.0)
    np.testing.assert_allclose(
        spread(guide(conditional, unconditional, 6.0, rescale=1.0)), spread(conditional), rtol=1e-5
    )
    # Lin et al. 2023, equation 16
    half = 0.5 * plain * (spread(conditional) / spread(plain))[:, None, None] + 0.5 * plain
    np.testing.assert_allclose(guide(conditional, unconditional, 6.0, rescale=0.5), half, rtol=1e-5)


def test_projected_guidance_adds_nothing_along_the_conditional_latent(predictions):
    conditional, unconditional, _ = (np.asarray(array, np.float64) for array in predictions)
    added = guide(*map(jnp.float32, (conditional, unconditional)), 5.0, parallel=0.0) - conditional
    np.testing.assert_allclose(np.sum(added * conditional, axis=(1, 2)), 0, atol=1e-4)
    # An independent projection, by least squares.
    difference = 4 * (conditional - unconditional)
    for row in range(2):
        along, *_ = np.linalg.lstsq(
            conditional[row].reshape(-1, 1), difference[row].ravel(), rcond=None
        )
        np.testing.assert_allclose(
            added[row], difference[row] - along * conditional[row], atol=1e-5
        )


def test_the_limit_is_the_most_that_guidance_adds(predictions):
    conditional, unconditional, _ = predictions
    added = np.asarray(guide(conditional, unconditional, 2.0, limit=0.25) - conditional)
    np.testing.assert_allclose(np.sqrt((added**2).mean(axis=(1, 2))), 0.25, rtol=1e-5)
    np.testing.assert_allclose(
        guide(conditional, unconditional, 2.0, limit=100.0),
        guide(conditional, unconditional, 2.0),
        rtol=1e-5,
    )


def test_frames_that_do_not_count_change_nothing_elsewhere(predictions):
    conditional, unconditional, _ = predictions
    counts = jnp.tile(jnp.array([1.0, 1, 0, 0])[:, None], (2, 1, 1))
    options = dict(rescale=0.7, parallel=0.2, limit=0.5)
    alone = guide(conditional[:, :2], unconditional[:, :2], 3.0, **options)
    np.testing.assert_allclose(
        guide(conditional, unconditional, 3.0, counts, **options)[:, :2],
        alone,
        rtol=1e-5,
        atol=1e-6,
    )
