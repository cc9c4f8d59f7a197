"""Reconstruction metrics on signals whose answer is known."""

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
    assert si_sdr(0.01 * (X + 0.1 * NOISE), X) == pytest.approx(
        si_sdr(X + 0.1 * NOISE, X), abs=1e-3
    )
    assert si_sdr(X * [1.0, 0.5], X) == pytest.approx(10 * np.log10(0.75**2 / 0.25**2), abs=0.2)
    assert si_sdr(np.repeat(X.mean(1, keepdims=True), 2, axis=1), X) == pytest.approx(0, abs=0.2)


def test_silence():
    assert all(np.isnan(value) for value in figures(X, 0 * X, 48_000).values())
    assert si_sdr(0 * X, X) < -60
    assert np.isfinite([mel_distance(0 * X, X, 48_000), stft_distance(0 * X, X)]).all()
    assert np.isnan(correlation_error(X, X * [1.0, 0.0]))


def torch_distance(made, real, size, hop, window, bands=None):
    """Spectral convergence plus log-magnitude distance, by PyTorch's STFT."""
    magnitudes = []
    for audio in (made, real):
        audio, shape = torch.tensor(audio.T.copy()), torch.hann_window(window)
        spectrum = torch.stft(audio, size, hop, window, shape, return_complex=True)
        magnitude = spectrum.abs().pow(2).clamp(min=1e-8).sqrt()
        magnitudes.append(magnitude if bands is None else torch.tensor(bands) @ magnitude)
    m, r = magnitudes
    return ((r - m).norm() / r.norm() + (m.log() - r.log()).abs().mean()).item()


def test_spectral_distances_equal_those_by_pytorch():
    made = X + 0.5 * NOISE
    resolutions = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    expected = np.mean([torch_distance(made, X, *resolution) for resolution in resolutions])
    assert stft_distance(made, X) == pytest.approx(expected, rel=1e-4)
    bands = librosa.filters.mel(sr=48_000, n_fft=1024, n_mels=128)
    assert mel_distance(made, X, 48_000) == pytest.approx(
        torch_distance(made, X, 1024, 256, 1024, bands), rel=1e-4
    )
    assert stft_distance(X, X) == mel_distance(X, X, 48_000) == 0


def test_correlation_error_tells_mono_from_wide():
    mono = np.repeat(X.mean(1, keepdims=True), 2, axis=1)
    assert correlation_error(mono, X) == pytest.approx(1, abs=0.02) and correlation_error(X, X) == 0
    assert correlation_error(X * [1.0, -1.0], mono * [1.0, 1.0]) == pytest.approx(-1, abs=0.02)


def test_side_error_tells_narrow_from_wide():
    mid, side = (
        X.mean(1, keepdims=True),
        (X[:, :1] - X[:, 1:]) / 2 * np.array([1.0, -1.0], np.float32),
    )
    assert side_error(X, X) == 0
    assert side_error(mid + 0.5 * side, X) == pytest.approx(10 * np.log10(0.25 / 0.625), abs=0.1)
    assert side_error(mid + 2 * side, X) > 1
    assert -60 < side_error(np.repeat(mid, 2, axis=1), X) < -50


def test_a_long_file_is_measured_in_blocks_to_the_same_figures(monkeypatch):
    made = X + 0.1 * np.random.default_rng(5).normal(size=X.shape).astype(np.float32)
    whole = stft_distance(made, X), mel_distance(made, X, 48_000)
    monkeypatch.setattr(reconstruction, "BLOCK", 7)
    np.testing.assert_allclose(
        (stft_distance(made, X), mel_distance(made, X, 48_000)), whole, rtol=1e-5
    )


def test_a_channel_that_is_lost_counts_against_the_reconstruction():
    assert side_error(0 * X, X) < -10 and abs(correlation_error(X * [1.0, 0.0], X)) > 0
