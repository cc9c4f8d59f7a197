"""The losses are finite on extreme signals, ignore padding, and have the expected values."""

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


def test_a_loss_is_zero_only_for_equal_signals(loss):
    assert np.asarray(loss(BATCH, BATCH, FULL)).max() < 1e-5
    assert (np.asarray(loss(0.5 * BATCH, BATCH, FULL))[1:] > 0.05).all()


def test_padding_changes_neither_the_loss_nor_its_gradient(loss):
    valid = jnp.array([100, 300, 512, 700, 0])
    padding = (jnp.arange(SAMPLES) >= valid[:, None])[..., None]
    prediction = BATCH[::-1] + 0.1
    before = loss(prediction, BATCH, valid)
    after = loss(prediction + 5.0 * padding, BATCH - 3.0 * padding, valid)
    np.testing.assert_allclose(before, after, rtol=1e-6)
    gradient = jax.grad(lambda p: loss(p, BATCH, valid).sum())(prediction)
    assert not np.where(padding, gradient, 0).any()
    assert before[-1] == 0  # an example without samples


def test_the_loss_of_an_example_does_not_depend_on_the_others(loss):
    together = loss(BATCH[::-1] * 0.7, BATCH, FULL)
    alone = loss((BATCH[::-1] * 0.7)[2:3], BATCH[2:3], FULL[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5)


def test_the_waveform_loss_does_not_depend_on_loudness():
    noise = BATCH[4:]
    quiet, loud = (losses.waveform(0.5 * g * noise, g * noise, FULL[4:]) for g in (0.1, 1.0))
    np.testing.assert_allclose(quiet, loud, rtol=1e-4)


def test_a_nearly_silent_example_has_a_limited_waveform_loss():
    """With the same error and no limit, the quiet loss would be thousands of times larger."""
    noise = BATCH[4:]
    quiet, loud = (losses.waveform(g * noise + 0.01, g * noise, FULL[4:]) for g in (1e-4, 1.0))
    assert loud < quiet <= 0.01 / losses.QUIET


def test_stft_equals_the_transform_of_one_frame():
    x = np.asarray(BATCH[4])
    ours = losses.stft(jnp.asarray(x)[None], 64)[0, 1, 5]
    hann = np.hanning(65)[:-1]
    np.testing.assert_allclose(ours, np.fft.rfft(x[80:144, 1] * hann / hann.sum()), atol=1e-6)


@pytest.mark.slow
def test_the_stft_loss_detects_a_lost_stereo_image():
    """If left and right have opposite signs, only mid and side differ from those of mono."""
    noise = SIGNALS["noise"][None, :, :1]
    mono, wide = noise * jnp.ones(2), noise * jnp.array([1.0, -1.0])
    loss = LOSSES["stft"](mono, wide, FULL[:1])
    magnitudes = [jnp.abs(losses.stft(audio, 256)) for audio in (mono, wide)]  # of left and right
    assert jnp.abs(magnitudes[0] - magnitudes[1]).max() < 1e-6 and loss[0] > 1


@pytest.mark.slow
def test_the_kl_loss_has_its_minimum_at_zero_mean_and_unit_variance():
    z = jax.random.normal(jax.random.key(0), (1, 4000, 3))
    at = lambda scale, shift=0.0: float(losses.kl(z * scale + shift, jnp.array([4000]))[0])
    assert at(1.0) < 0.01 < at(1.3) and at(1.0) < at(0.7)
    assert at(1.0, 0.5) == pytest.approx(0.125, abs=0.02)
    constant = jnp.zeros((1, 8, 3))
    gradient = jax.grad(lambda z: losses.kl(z, jnp.array([8])).sum())(constant)
    assert np.isfinite(gradient).all()
    padded = jnp.concatenate([z, 9 * z], 1)
    valid = jnp.array([4000])
    np.testing.assert_allclose(losses.kl(padded, valid), losses.kl(z, valid), rtol=1e-5)


@pytest.mark.slow
def test_the_mel_loss_is_the_distance_of_log_mel_magnitudes():
    """The reference is computed in float64 with the filters of librosa."""
    pair = BATCH[3:5] + 0.1 * BATCH[4:]
    loss = LOSSES["mel"](pair[1:], pair[:1], FULL[:1])
    expected = []
    for window in WINDOWS:
        bands = librosa.filters.mel(sr=48_000, n_fft=window, n_mels=window // 16, norm=None)
        logs = []
        for audio in np.asarray(pair, np.float64)[::-1]:
            left, right = audio.T
            signals = [left, right, (left + right) / 2**0.5, (left - right) / 2**0.5]
            hann = np.hanning(window + 1)[:-1]
            starts = range(0, SAMPLES, window // 4)
            padded = [np.pad(signal, (0, window)) for signal in signals]
            frames = [[signal[s : s + window] for s in starts] for signal in padded]
            frames = np.array(frames) * hann / hann.sum()
            magnitude = np.sqrt(np.abs(np.fft.rfft(frames)) ** 2 + losses.FLOOR**2)
            logs.append(np.log(magnitude @ bands.T + losses.FLOOR))
        expected.append(np.abs(logs[0] - logs[1]).mean())
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)


def test_the_waveform_loss_is_the_mean_over_left_right_mid_and_side():
    full = jnp.full(1, 8)
    target = jnp.ones((1, 8, 2))
    loss = lambda left, right: float(waveform(target + jnp.array([left, right]), target, full)[0])
    np.testing.assert_allclose(loss(0.2, 0.2), (0.2 + 0.2 + 0.2 * 2**0.5) / 4, rtol=1e-5)
    np.testing.assert_allclose(loss(0.2, -0.2), loss(0.2, 0.2), rtol=1e-5)
    np.testing.assert_allclose(loss(0.2, 0.0), (0.2 + 2 * 0.2 / 2**0.5) / 4, rtol=1e-5)


@pytest.mark.filterwarnings("error:Empty filters")
def test_windows_down_to_32_samples_have_no_empty_band_and_finite_gradients():
    windows = (2048, 1024, 512, 256, 128, 64, 32)
    every = partial(losses.mel, windows=windows, sample_rate=48_000)
    jax.eval_shape(every, BATCH, BATCH, FULL)
    target = jnp.stack([SIGNALS["silence"], SIGNALS["noise"]])[:, :64]
    valid = jnp.full(2, 64)

    @jax.jit
    @jax.value_and_grad
    def both(x):
        stft = losses.multi_resolution_stft(x, target, valid, (32,))
        return jnp.sum(stft + losses.mel(x, target, valid, (32,), 48_000))

    for x in (target, 0.5 * target + 1e-3):
        found, gradient = both(x)
        assert np.isfinite(found) and np.isfinite(gradient).all()
    assert found > 0.1
