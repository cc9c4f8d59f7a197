import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.diffusion.objectives import (
    OBJECTIVES,
    corrupt,
    loss_per_frame,
    min_snr_weight,
    scales,
)
from jen1_numpy.errors import Refusal

LOG_SNRS = [-20.0, -10.0, -3.0, 0.0, 3.0, 10.0, 20.0]


@pytest.fixture(params=sorted(OBJECTIVES))
def objective(request):
    return OBJECTIVES[request.param]


@pytest.fixture(scope="module")
def arrays():
    """Clean latents, noise and a network's output at unit variance, and a log-SNR per example."""
    draws = np.random.default_rng(0).normal(size=(3, len(LOG_SNRS), 4, 3)).astype(np.float32)
    return *map(
        jnp.asarray, draws * np.array([3, 1, 1], np.float32)[:, None, None, None]
    ), jnp.array(LOG_SNRS)


def reference(name, clean, noise, log_snr):
    """(noisy, target) in float64, by the angle whose cosine is alpha and whose sine is sigma."""
    angle = np.arctan(np.exp(-np.asarray(log_snr, np.float64) / 2))[:, None, None]
    clean, noise = np.asarray(clean, np.float64), np.asarray(noise, np.float64)
    noisy = np.cos(angle) * clean + np.sin(angle) * noise
    return noisy, {
        "epsilon": noise,
        "v": np.cos(angle) * noise - np.sin(angle) * clean,
        "x0": clean,
        "rectified_flow": noise - clean,
    }[name]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_corruption_and_target_equal_the_reference(name, arrays):
    clean, noise, _, log_snr = arrays
    noisy, target = reference(name, clean, noise, log_snr)
    np.testing.assert_allclose(corrupt(clean, noise, log_snr), noisy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        OBJECTIVES[name].target(clean, noise, log_snr), target, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "name, lowest", [("v", -20.0), ("x0", -20.0), ("rectified_flow", -20.0), ("epsilon", -3.0)]
)  # below, epsilon divides float32's rounding by alpha
def test_a_perfect_prediction_gives_the_clean_latent_back(name, lowest, arrays):
    clean, noise, _, log_snr = (array[np.array(LOG_SNRS) >= lowest] for array in arrays)
    noisy, target = (
        jnp.asarray(array, jnp.float32) for array in reference(name, clean, noise, log_snr)
    )
    np.testing.assert_allclose(
        OBJECTIVES[name].clean(target, noisy, log_snr), clean, rtol=1e-5, atol=1e-5
    )


def test_predictions_are_not_clipped(objective, arrays):
    noisy, _, prediction, log_snr = arrays
    great = objective.clean(1024 * prediction, 1024 * noisy, log_snr)
    np.testing.assert_allclose(great, 1024 * objective.clean(prediction, noisy, log_snr), rtol=1e-5)


def test_one_objective_read_as_the_other_is_wrong(arrays):
    clean, noise, _, log_snr = arrays
    noisy = corrupt(clean, noise, log_snr)
    for trained, read in itertools.permutations(OBJECTIVES, 2):
        target = OBJECTIVES[trained].target(clean, noise, log_snr)
        assert np.abs(OBJECTIVES[read].clean(target, noisy, log_snr) - clean)[3].max() > 0.5


def test_the_ends_are_exact():
    infinities = jnp.array([jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(scales(infinities), [[1, 0], [0, 1]])
    clean, noise = jnp.full((2, 1, 1), 5.0), jnp.full((2, 1, 1), 2.0)
    v, noisy = OBJECTIVES["v"].target(clean, noise, infinities), corrupt(clean, noise, infinities)
    np.testing.assert_array_equal(OBJECTIVES["v"].clean(v, noisy, infinities), clean)


def test_corruption_keeps_unit_variance_at_every_level():
    clean, noise = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, len(LOG_SNRS), 4000, 4)), jnp.float32
    )
    np.testing.assert_allclose(
        jnp.var(corrupt(clean, noise, jnp.array(LOG_SNRS)), axis=(1, 2)), 1, atol=0.04
    )


def test_loss_is_the_mean_square_over_channels_frame_by_frame(objective, arrays):
    clean, noise, error, log_snr = arrays
    prediction = objective.target(clean, noise, log_snr) + error
    loss = loss_per_frame(objective, prediction, clean, noise, log_snr)
    np.testing.assert_allclose(
        loss, np.mean(np.asarray(error, np.float64) ** 2, axis=-1), rtol=1e-5
    )


def test_unknown_objective_is_refused_with_the_known_ones():
    with pytest.raises(Refusal, match=r"'rf'.*epsilon, v, x0, rectified_flow"):
        OBJECTIVES["rf"]


def test_min_snr_weights_are_the_published_ones():
    snr = np.exp(np.array(LOG_SNRS, np.float64))
    capped = np.minimum(snr, 5)
    published = {
        "x0": capped,
        "epsilon": capped / snr,
        "v": capped / (snr + 1),
    }  # Hang et al. 2023, section 3.4
    published["rectified_flow"] = (
        capped / (np.sqrt(snr) + 1) ** 2
    )  # the same count of the clean latent's error
    for name, expected in published.items():
        np.testing.assert_allclose(
            min_snr_weight(OBJECTIVES[name], jnp.array(LOG_SNRS), 5.0), expected, rtol=1e-5
        )
