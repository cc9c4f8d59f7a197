"""Reconstruction figures of signals for which the right values are known."""

import librosa
import numpy as np
import pytest
import torch

from jen1_jax.evaluation import reconstruction
from jen1_jax.evaluation.reconstruction import (
    correlation_error,
    figures,
    mel_distance,
    si_sdr,
    side_error,
    stft_distance,
)

rng = np.random.default_rng(0)
X = (0.3 * rng.standard_normal((48_000, 2))).astype(np.float32)
NOISE = (0.3 * rng.standard_normal(X.shape)).astype(np.float32)


def test_si_sdr_of_known_noise():
    assert si_sdr(X + 0.1 * NOISE, X) == pytest.approx(20, abs=0.2)
    assert si_sdr(X, X) > 100


def test_si_sdr_ignores_a_common_scale_but_not_one_per_channel():
    noisy = X + 0.1 * NOISE
    assert si_sdr(0.01 * noisy, X) == pytest.approx(si_sdr(noisy, X), abs=1e-3)
    assert si_sdr(X * [1.0, 0.5], X) == pytest.approx(10 * np.log10(0.75**2 / 0.25**2), abs=0.2)
    assert si_sdr(np.repeat(X.mean(1, keepdims=True), 2, axis=1), X) == pytest.approx(0, abs=0.2)


def test_a_silent_original_has_no_figures_and_a_silent_reconstruction_has():
    assert all(np.isnan(value) for value in figures(X, 0 * X, 48_000).values())
    assert si_sdr(0 * X, X) < -60
    assert np.isfinite([mel_distance(0 * X, X, 48_000), stft_distance(0 * X, X)]).all()
    assert np.isnan(correlation_error(X, X * [1.0, 0.0]))


def torch_distance(reconstruction, original, size, hop, window, bands=None):
    """Spectral convergence plus log-magnitude distance, by PyTorch's STFT."""
    magnitudes = []
    for audio in (reconstruction, original):
        audio, shape = torch.tensor(audio.T.copy()), torch.hann_window(window)
        spectrum = torch.stft(audio, size, hop, window, shape, return_complex=True)
        magnitude = spectrum.abs().pow(2).clamp(min=1e-8).sqrt()
        magnitudes.append(magnitude if bands is None else torch.tensor(bands) @ magnitude)
    ours, theirs = magnitudes
    convergence = (theirs - ours).norm() / theirs.norm()
    return (convergence + (ours.log() - theirs.log()).abs().mean()).item()


def test_spectral_distances_equal_those_by_pytorch():
    noisy = X + 0.5 * NOISE
    resolutions = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    expected = np.mean([torch_distance(noisy, X, *resolution) for resolution in resolutions])
    assert stft_distance(noisy, X) == pytest.approx(expected, rel=1e-4)
    bands = librosa.filters.mel(sr=48_000, n_fft=1024, n_mels=128)
    expected = torch_distance(noisy, X, 1024, 256, 1024, bands)
    assert mel_distance(noisy, X, 48_000) == pytest.approx(expected, rel=1e-4)
    assert stft_distance(X, X) == mel_distance(X, X, 48_000) == 0


def test_correlation_error_is_positive_for_mono_and_negative_for_wide():
    mono = np.repeat(X.mean(1, keepdims=True), 2, axis=1)
    assert correlation_error(mono, X) == pytest.approx(1, abs=0.02) and correlation_error(X, X) == 0
    assert correlation_error(X * [1.0, -1.0], mono * [1.0, 1.0]) == pytest.approx(-1, abs=0.02)


def test_side_error_is_negative_for_narrow_and_positive_for_wide():
    mid = X.mean(1, keepdims=True)
    side = (X[:, :1] - X[:, 1:]) / 2 * np.array([1.0, -1.0], np.float32)
    assert side_error(X, X) == 0
    assert side_error(mid + 0.5 * side, X) == pytest.approx(10 * np.log10(0.25 / 0.625), abs=0.1)
    assert side_error(mid + 2 * side, X) > 1
    assert -60 < side_error(np.repeat(mid, 2, axis=1), X) < -50


def test_the_distances_do_not_depend_on_the_block_size(monkeypatch):
    noisy = X + 0.1 * np.random.default_rng(5).normal(size=X.shape).astype(np.float32)
    distances = lambda: (stft_distance(noisy, X), mel_distance(noisy, X, 48_000))
    whole = distances()
    monkeypatch.setattr(reconstruction, "BLOCK", 7)
    np.testing.assert_allclose(distances(), whole, rtol=1e-5)


def test_a_silent_channel_of_the_reconstruction_counts_as_an_error():
    assert side_error(0 * X, X) < -10 and abs(correlation_error(X * [1.0, 0.0], X)) > 0
