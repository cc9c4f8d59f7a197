"""Rotary positions depend on distances only; the other embeddings differ where their values do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.layers import embeddings
from jen1_jax.layers.embeddings import (
    LogSNREmbedding,
    fourier_features,
    rotary,
)
from tests.layers.testing import normal, randomised


def rotated(x):
    return np.asarray(jax.jit(rotary)(x))


def test_rotary_equals_numpy():
    # As many frames as in training: a small relative error is a large angle in the last ones.
    x = normal(0, 2, 1536, 3, 6)
    pairs = x[..., :3] + 1j * x[..., 3:]
    angles = np.arange(1536)[:, None] * 10_000.0 ** (-np.arange(3) / 3)
    expected = pairs * np.exp(1j * angles)[:, None, :]
    np.testing.assert_allclose(
        rotated(x), np.concatenate([expected.real, expected.imag], -1), rtol=1e-5, atol=1e-6
    )


def test_the_product_of_query_and_key_depends_on_their_distance_alone():
    query, key = (np.tile(normal(seed, 8), (1, 40, 1, 1)) for seed in range(2))
    products = np.einsum("qc,kc->qk", rotated(query)[0, :, 0], rotated(key)[0, :, 0])
    for distance in range(-39, 40):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(
            diagonal, np.full_like(diagonal, diagonal[0]), rtol=1e-4, atol=1e-4
        )
    assert np.ptp(products) > 1


def test_pairs_are_turned_on_a_tpu_exactly_as_elsewhere():
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(normal(0, 2, 3, 2, 8), dtype)
        np.testing.assert_array_equal(embeddings._turn_by_product(x), embeddings._turn(x))


def test_rotary_keeps_lengths_and_the_first_frame():
    x = normal(0, 2, 9, 2, 8)
    np.testing.assert_allclose(
        np.linalg.norm(rotated(x), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5
    )
    np.testing.assert_array_equal(rotated(x)[:, 0], x[:, 0])
    assert rotary(jnp.zeros((1, 2, 1, 4), jnp.bfloat16)).dtype == jnp.bfloat16


def test_rotary_refuses_an_odd_head():
    with pytest.raises(ValueError, match="pairs"):
        rotary(jnp.zeros((1, 4, 1, 3)))


def test_fourier_features_differ_between_any_two_noise_levels():
    features = np.asarray(fourier_features(jnp.linspace(-20, 20, 401), 64, 20.0))
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
    assert distances[~np.eye(401, dtype=bool)].min() > 0.1
    # Neighbours, 0.1 apart, stay close.
    assert distances[np.arange(400), np.arange(1, 401)].max() < 2.0


def test_log_snr_is_clipped():
    params, apply = randomised(LogSNREmbedding(8), np.zeros(5, np.float32))
    embedding = np.asarray(apply(params, np.array([-np.inf, -20, 19, 20, 1e9], np.float32)))
    np.testing.assert_array_equal(embedding[0], embedding[1])
    np.testing.assert_array_equal(embedding[3], embedding[4])
    assert (embedding[2] != embedding[3]).any()
