"""Whitening: white on what it was fitted to, an inverse that inverts, statistics that survive large means."""

import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder.whitening import Moments, Whitening, fit_whitening
from jen1_jax.errors import Refusal

rng = np.random.default_rng(0)
MIX = rng.normal(size=(10, 10)) * np.logspace(0, -2, 10)
X = (rng.normal(size=(4000, 10)) @ MIX + rng.normal(size=10) * 5).astype(np.float32)


def test_equals_numpy():
    """The paper's z' = (z - mean) U_k diag(s_k)^-1/2, its inverse, and the statistics, all by other routines of numpy."""
    x = (
        rng.normal(size=(5000, 6)).astype(np.float32)
        @ (np.eye(6) + 0.3 * rng.normal(size=(6, 6))).astype(np.float32)
        + 3
    )
    half = Moments.of(x[:1234]).merge(Moments.of(x[1234:]))
    mean, covariance = (
        np.mean(x, axis=0, dtype=np.float64),
        np.cov(x.T.astype(np.float64), bias=True),
    )
    np.testing.assert_allclose(half.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(half.covariance, covariance, rtol=1e-12, atol=1e-12)

    variance, basis = (
        part[..., :1:-1] for part in np.linalg.eigh(covariance)
    )  # the four strongest, strongest first
    whitening = fit_whitening(half, keep=0.7, floor=1e-9)
    basis = basis * np.sign(np.sum(basis * whitening.basis, axis=0))  # a direction has no sign
    expected = (x - mean) @ basis / np.sqrt(variance)
    nearest = expected * np.sqrt(variance) @ basis.T + mean
    for latents, whitened in (
        (x, expected.astype(np.float32)),
        (jnp.asarray(x), jnp.asarray(expected, jnp.float32)),
    ):
        np.testing.assert_allclose(whitening.apply(latents), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(whitening.invert(whitened), nearest, rtol=1e-5, atol=1e-5)


def test_whitened_data_is_white():
    z = fit_whitening(Moments.of(X), keep=1.0, floor=1e-9).apply(X)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(z.T), np.eye(10), atol=1e-2)


def test_inverse_is_exact_with_every_direction_kept():
    whitening = fit_whitening(Moments.of(X), keep=1.0, floor=1e-9)
    np.testing.assert_allclose(whitening.invert(whitening.apply(X)), X, atol=1e-4)


def test_cut_keeps_the_strongest_directions():
    whitening = fit_whitening(Moments.of(X), keep=0.5, floor=1e-9)
    assert whitening.k == 5
    lost = np.square(whitening.invert(whitening.apply(X)) - X).sum() / len(X)
    np.testing.assert_allclose(lost, np.linalg.eigvalsh(np.cov(X.T))[:5].sum(), rtol=1e-2)


@pytest.mark.parametrize(
    ("channels", "keep", "k"), [(128, 0.9, 115), (10, 0.7, 7), (100, 0.29, 29), (32, 1.0, 32)]
)
def test_k_is_the_floor_of_the_share(channels, keep, k):
    assert fit_whitening(Moments(2, np.zeros(channels), np.eye(channels)), keep, 1e-5).k == k


def test_merged_moments_equal_those_of_the_whole():
    far = X.astype(np.float64) + 1e6  # E[x^2] - E[x]^2 would lose every digit
    merged = Moments.empty(10)
    for part in np.split(far, [7, 8, 1000, 1000, 3000]):  # one of them empty
        merged = merged.merge(Moments.of(part))
    whole = Moments.of(far)
    assert merged.count == len(X)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-6, atol=1e-8)


def test_dead_channels_are_not_amplified():
    dead = X * np.array([1, 0] * 5, np.float32)
    whitening = fit_whitening(Moments.of(dead), keep=1.0, floor=1e-2)
    assert whitening.scale.min() >= 0.1 * whitening.scale.max() * (1 - 1e-9)
    assert np.isfinite(whitening.apply(dead)).all()


def test_same_on_jax_arrays_and_after_a_round_trip_to_disk(tmp_path):
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
    np.savez(
        tmp_path / "pickle.npz", mean=np.array([object()]), basis=np.zeros((4, 2)), scale=np.ones(2)
    )
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
