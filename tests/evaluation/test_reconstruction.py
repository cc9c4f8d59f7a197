"""Reconstruction metrics on signals whose answer is known."""

import numpy as np
import pytest

from jen1_jax.evaluation.reconstruction import mel_distance, si_sdr, side_error

rng = np.random.default_rng(0)
X = (0.3 * rng.standard_normal((48_000, 2))).astype(np.float32)
NOISE = (0.3 * rng.standard_normal(X.shape)).astype(np.float32)


def test_si_sdr_of_known_noise():
    assert si_sdr(X + 0.1 * NOISE, X) == pytest.approx(20, abs=0.2)
    assert si_sdr(X, X) > 100


def test_si_sdr_ignores_a_common_scale_but_not_one_per_channel():
    assert si_sdr(0.01 * (X + 0.1 * NOISE), X) == pytest.approx(si_sdr(X + 0.1 * NOISE, X), abs=1e-3)
    assert si_sdr(X * [1.0, 0.5], X) == pytest.approx(10 * np.log10(0.75**2 / 0.25**2), abs=0.2)
    assert si_sdr(np.repeat(X.mean(1, keepdims=True), 2, axis=1), X) == pytest.approx(0, abs=0.2)


def test_silence():
    assert np.isnan(si_sdr(X, 0 * X)) and np.isnan(side_error(X, 0 * X))
    assert si_sdr(0 * X, X) < -60
    assert np.isfinite(mel_distance(0 * X, X, 48_000)) and mel_distance(0 * X, 0 * X, 48_000) == 0


def test_mel_distance_is_in_decibels():
    assert mel_distance(X, X, 48_000) == 0
    assert mel_distance(0.5 * X, X, 48_000) == pytest.approx(20 * np.log10(2), abs=0.01)
    mono = np.repeat(X.mean(1, keepdims=True), 2, axis=1).astype(np.float32)
    assert mel_distance(mono, X, 48_000) > 10  # the lost side counts


def test_side_error_tells_narrow_from_wide():
    mid, side = X.mean(1, keepdims=True), (X[:, :1] - X[:, 1:]) / 2 * np.array([1.0, -1.0], np.float32)
    assert side_error(X, X) == 0
    assert side_error(mid + 0.5 * side, X) == pytest.approx(10 * np.log10(0.25 / 0.625), abs=0.1)
    assert side_error(mid + 2 * side, X) > 1
    assert -60 < side_error(np.repeat(mid, 2, axis=1), X) < -50
