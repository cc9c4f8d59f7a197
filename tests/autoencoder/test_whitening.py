"""Whitening: unit covariance on its data, an exact inverse, and statistics of large means."""

import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder.whitening import Moments, Whitening, fit_whitening
from jen1_numpy.errors import Refusal

rng = np.random.default_rng(0)
MIX = rng.normal(size=(10, 10)) * np.logspace(0, -2, 10)
X = (rng.normal(size=(4000, 10)) @ MIX + rng.normal(size=10) * 5).astype(np.float32)


def test_moments_whitening_and_inverse_equal_those_by_other_routines_of_numpy():
    """The whitening of the paper is z' = (z - mean) U_k diag(s_k)^-1/2."""
    independent = rng.normal(size=(5000, 6)).astype(np.float32)
    x = independent @ (np.eye(6) + 0.3 * rng.normal(size=(6, 6))).astype(np.float32) + 3
    merged = Moments.of(x[:1234]).merge(Moments.of(x[1234:]))
    mean = np.mean(x, axis=0, dtype=np.float64)
    covariance = np.cov(x.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, covariance, rtol=1e-12, atol=1e-12)

    # The four directions of largest variance, the largest first.
    variance, basis = (part[..., :1:-1] for part in np.linalg.eigh(covariance))
    whitening = fit_whitening(merged, keep=0.7, floor=1e-9)
    # The sign of a direction is arbitrary: take that of the whitening.
    basis = basis * np.sign(np.sum(basis * whitening.basis, axis=0))
    expected = (x - mean) @ basis / np.sqrt(variance)
    nearest = expected * np.sqrt(variance) @ basis.T + mean
    for latents, whitened in (
        (x, expected.astype(np.float32)),
        (jnp.asarray(x), jnp.asarray(expected, jnp.float32)),
    ):
        np.testing.assert_allclose(whitening.apply(latents), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(whitening.invert(whitened), nearest, rtol=1e-5, atol=1e-5)


def test_whitened_data_have_zero_mean_and_unit_covariance():
    z = fit_whitening(Moments.of(X), keep=1.0, floor=1e-9).apply(X)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(z.T), np.eye(10), atol=1e-2)


def test_the_inverse_is_exact_if_all_directions_are_kept():
    whitening = fit_whitening(Moments.of(X), keep=1.0, floor=1e-9)
    np.testing.assert_allclose(whitening.invert(whitening.apply(X)), X, atol=1e-4)


def test_the_directions_of_largest_variance_are_kept():
    whitening = fit_whitening(Moments.of(X), keep=0.5, floor=1e-9)
    assert whitening.k == 5
    lost = np.square(whitening.invert(whitening.apply(X)) - X).sum() / len(X)
    np.testing.assert_allclose(lost, np.linalg.eigvalsh(np.cov(X.T))[:5].sum(), rtol=1e-2)


@pytest.mark.parametrize(
    ("channels", "keep", "k"), [(128, 0.9, 115), (10, 0.7, 7), (100, 0.29, 29), (32, 1.0, 32)]
)
def test_the_number_of_directions_is_rounded_down(channels, keep, k):
    assert fit_whitening(Moments(2, np.zeros(channels), np.eye(channels)), keep, 1e-5).k == k


def test_merged_moments_equal_those_of_all_vectors():
    far = X.astype(np.float64) + 1e6  # E[x^2] - E[x]^2 would have no correct digit
    merged = Moments.empty(10)
    for part in np.split(far, [7, 8, 1000, 1000, 3000]):  # one part is empty
        merged = merged.merge(Moments.of(part))
    whole = Moments.of(far)
    assert merged.count == len(X)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-6, atol=1e-8)


def test_constant_channels_are_not_amplified():
    constant = X * np.array([1, 0] * 5, np.float32)
    whitening = fit_whitening(Moments.of(constant), keep=1.0, floor=1e-2)
    assert whitening.scale.min() >= 0.1 * whitening.scale.max() * (1 - 1e-9)
    assert np.isfinite(whitening.apply(constant)).all()


def test_a_saved_whitening_gives_the_same_result_also_for_jax_arrays(tmp_path):
    whitening = fit_whitening(Moments.of(X), keep=0.8, floor=1e-5)
    whitening.save(tmp_path / "whitening.npz")
    loaded = Whitening.load(tmp_path / "whitening.npz")
    np.testing.assert_array_equal(loaded.apply(X), whitening.apply(X))
    np.testing.assert_allclose(loaded.apply(jnp.asarray(X)), whitening.apply(X), atol=1e-3)
    assert loaded.apply(jnp.asarray(X)).dtype == jnp.float32


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(Refusal, match="not a whitening"):
        Whitening.load(tmp_path / "missing.npz")
    np.savez(tmp_path / "odd.npz", mean=np.zeros(4), basis=np.zeros((4, 2)), scale=np.ones(3))
    with pytest.raises(Refusal, match="do not fit together"):
        Whitening.load(tmp_path / "odd.npz")
    pickled = np.array([object()])
    np.savez(tmp_path / "pickle.npz", mean=pickled, basis=np.zeros((4, 2)), scale=np.ones(2))
    with pytest.raises(Refusal, match="not a whitening"):
        Whitening.load(tmp_path / "pickle.npz")
    whole = (tmp_path / "odd.npz").read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        (tmp_path / "cut.npz").write_bytes(content)
        with pytest.raises(Refusal, match="not a whitening"):
            Whitening.load(tmp_path / "cut.npz")


def test_latents_that_do_not_vary_are_refused():
    for covariance in (np.zeros((3, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(Refusal, match="do not vary"):
            fit_whitening(Moments(10, np.zeros(3), covariance), 1.0, 1e-5)
