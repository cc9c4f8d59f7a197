"""Losses are finite on every pathological signal, ignore padding, and measure what they should."""

from functools import partial

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from jen1_jax.autoencoder import losses
from jen1_jax.autoencoder.losses import waveform

SAMPLES = 1024
WINDOWS = (256, 64)
t = jnp.arange(SAMPLES) / 48_000
SIGNALS = {
    "silence": jnp.zeros((SAMPLES, 2)),
    "clipping": jnp.clip(4 * jnp.sin(2 * jnp.pi * 440 * t), -1, 1)[:, None] * jnp.ones(2),
    "square": jnp.sign(jnp.sin(2 * jnp.pi * 440 * t + 0.1))[:, None] * jnp.array([1.0, -1.0]),
    "dc": jnp.full((SAMPLES, 2), 0.7),
    "noise": 0.3 * jax.random.normal(jax.random.key(0), (SAMPLES, 2)),
}
BATCH = jnp.stack(list(SIGNALS.values()))
FULL = jnp.full(len(SIGNALS), SAMPLES)
LOSSES = {
    "waveform": losses.waveform,
    "stft": partial(losses.multi_resolution_stft, windows=WINDOWS),
    "mel": partial(losses.mel, windows=WINDOWS, sample_rate=48_000),
}


@pytest.fixture(scope="module", params=LOSSES)
def loss(request):
    return jax.jit(LOSSES[request.param])


@pytest.fixture(scope="module")
def gradient_of(loss):
    return jax.jit(jax.grad(lambda prediction: loss(prediction, BATCH, FULL).sum()))


@pytest.mark.parametrize("prediction", SIGNALS)
def test_values_and_gradients_are_finite(loss, gradient_of, prediction):
    prediction = jnp.broadcast_to(SIGNALS[prediction], BATCH.shape)
    assert np.isfinite(loss(prediction, BATCH, FULL)).all()
    assert np.isfinite(gradient_of(prediction)).all()


def test_zero_only_when_equal(loss):
    assert np.asarray(loss(BATCH, BATCH, FULL)).max() < 1e-5
    assert (np.asarray(loss(0.5 * BATCH, BATCH, FULL))[1:] > 0.05).all()


def test_padding_does_not_count(loss):
    valid = jnp.array([100, 300, 512, 700, 0])
    behind = (jnp.arange(SAMPLES) >= valid[:, None])[..., None]
    prediction = BATCH[::-1] + 0.1
    clean = loss(prediction, BATCH, valid)
    dirty = loss(prediction + 5.0 * behind, BATCH - 3.0 * behind, valid)
    np.testing.assert_allclose(clean, dirty, rtol=1e-6)
    gradient = jax.grad(lambda p: loss(p, BATCH, valid).sum())(prediction)
    assert not np.where(behind, gradient, 0).any()
    assert clean[-1] == 0  # an example without samples


def test_examples_do_not_mix(loss):
    together = loss(BATCH[::-1] * 0.7, BATCH, FULL)
    alone = loss((BATCH[::-1] * 0.7)[2:3], BATCH[2:3], FULL[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5)


def test_waveform_ignores_loudness():
    quiet, loud = (
        losses.waveform(0.5 * g * BATCH[4:], g * BATCH[4:], FULL[4:]) for g in (0.1, 1.0)
    )
    np.testing.assert_allclose(quiet, loud, rtol=1e-4)


def test_a_nearly_silent_example_does_not_outweigh_its_batch():
    """The same error on both; without a limit the quiet one would weigh thousands of times more."""
    noise = BATCH[4:]
    quiet, loud = (losses.waveform(g * noise + 0.01, g * noise, FULL[4:]) for g in (1e-4, 1.0))
    assert loud < quiet <= 0.01 / losses.QUIET


def test_stft_matches_a_plain_transform():
    x = np.asarray(BATCH[4])
    ours = losses.stft(jnp.asarray(x)[None], 64)[0, 1, 5]
    hann = np.hanning(65)[:-1]
    np.testing.assert_allclose(ours, np.fft.rfft(x[80:144, 1] * hann / hann.sum()), atol=1e-6)


@pytest.mark.slow
def test_stft_hears_a_collapsed_stereo_image():
    """Left and right of equal magnitude spectra but opposite sign: only mid and side tell them from mono."""
    mono, wide = (
        SIGNALS["noise"][:, :1] * jnp.ones(2),
        SIGNALS["noise"][:, :1] * jnp.array([1.0, -1.0]),
    )
    loss = LOSSES["stft"](mono[None], wide[None], FULL[:1])
    left_right = jnp.abs(
        jnp.abs(losses.stft(mono[None], 256)) - jnp.abs(losses.stft(wide[None], 256))
    ).max()
    assert left_right < 1e-6 and loss[0] > 1


@pytest.mark.slow
def test_kl_is_least_at_unit_variance():
    z = jax.random.normal(jax.random.key(0), (1, 4000, 3))
    at = lambda scale, shift=0.0: float(losses.kl(z * scale + shift, jnp.array([4000]))[0])
    assert (
        at(1.0) < 0.01 < at(1.3)
        and at(1.0) < at(0.7)
        and at(1.0, 0.5) == pytest.approx(0.125, abs=0.02)
    )
    constant = jnp.zeros((1, 8, 3))
    gradient = jax.grad(lambda z: losses.kl(z, jnp.array([8])).sum())(constant)
    assert np.isfinite(gradient).all()
    padded = jnp.concatenate([z, 9 * z], 1)
    np.testing.assert_allclose(
        losses.kl(padded, jnp.array([4000])), losses.kl(z, jnp.array([4000])), rtol=1e-5
    )


@pytest.mark.slow
def test_mel_is_the_distance_of_log_mel_magnitudes():
    """Against librosa's own path from magnitudes to bands, in float64."""
    pair = BATCH[3:5] + 0.1 * BATCH[4:]
    loss = LOSSES["mel"](pair[1:], pair[:1], FULL[:1])
    expected = []
    for window in WINDOWS:
        bands = librosa.filters.mel(sr=48_000, n_fft=window, n_mels=window // 16, norm=None)
        logs = []
        for audio in np.asarray(pair, np.float64)[::-1]:
            views = [
                audio[:, 0],
                audio[:, 1],
                audio.sum(1) / 2**0.5,
                (audio[:, 0] - audio[:, 1]) / 2**0.5,
            ]
            hann = np.hanning(window + 1)[:-1]
            starts = range(0, SAMPLES, window // 4)
            frames = [
                [np.pad(v, (0, window))[s : s + window] * hann / hann.sum() for s in starts]
                for v in views
            ]
            magnitude = np.sqrt(np.abs(np.fft.rfft(frames)) ** 2 + losses.FLOOR**2)
            logs.append(np.log(magnitude @ bands.T + losses.FLOOR))
        expected.append(np.abs(logs[0] - logs[1]).mean())
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)


def test_waveform_hears_left_right_mid_and_side():
    full = jnp.full(1, 8)
    target = jnp.ones((1, 8, 2))
    off = lambda left, right: float(waveform(target + jnp.array([left, right]), target, full)[0])
    np.testing.assert_allclose(off(0.2, 0.2), (0.2 + 0.2 + 0.2 * 2**0.5) / 4, rtol=1e-5)
    np.testing.assert_allclose(off(0.2, -0.2), off(0.2, 0.2), rtol=1e-5)
    np.testing.assert_allclose(off(0.2, 0.0), (0.2 + 2 * 0.2 / 2**0.5) / 4, rtol=1e-5)
