"""Losses: finite on every pathological signal, blind to padding, sensitive to what they are for."""

from functools import partial

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.jen1 import get_config
from jen1_jax.autoencoder import losses
from jen1_jax.autoencoder.discriminator import Discriminator
from jen1_jax.autoencoder.losses import waveform
from jen1_jax.autoencoder.objective import autoencoder_terms, discriminator_terms
from jen1_jax.training.autoencoder import prepare
from tests.autoencoder.testing import build

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
TERMS = {
    "waveform": losses.waveform,
    "stft": partial(losses.multi_resolution_stft, windows=WINDOWS),
    "mel": partial(losses.mel, windows=WINDOWS, sample_rate=48_000),
}


@pytest.fixture(scope="module", params=TERMS)
def term(request):
    return jax.jit(TERMS[request.param])


@pytest.fixture(scope="module")
def gradient_of(term):
    return jax.jit(jax.grad(lambda prediction: term(prediction, BATCH, FULL)[0].sum()))


@pytest.mark.parametrize("prediction", SIGNALS)
def test_values_and_gradients_are_finite(term, gradient_of, prediction):
    prediction = jnp.broadcast_to(SIGNALS[prediction], BATCH.shape)
    total, count = term(prediction, BATCH, FULL)
    gradient = gradient_of(prediction)
    assert (
        np.isfinite(total).all() and np.isfinite(gradient).all() and (np.asarray(count) > 0).all()
    )


def test_zero_only_when_equal(term):
    assert np.asarray(term(BATCH, BATCH, FULL)[0]).max() < 1e-5 * SAMPLES
    total, count = term(0.5 * BATCH, BATCH, FULL)
    assert (np.asarray(total / count)[1:] > 0.05).all()


def test_padding_counts_in_nothing(term):
    valid = jnp.array([100, 300, 512, 700, 0])
    behind = (jnp.arange(SAMPLES) >= valid[:, None])[..., None]
    prediction = BATCH[::-1] + 0.1
    clean = term(prediction, BATCH, valid)
    dirty = term(prediction + 5.0 * behind, BATCH - 3.0 * behind, valid)
    np.testing.assert_allclose(clean, dirty, rtol=1e-6)
    gradient = jax.grad(lambda p: term(p, BATCH, valid)[0].sum())(prediction)
    assert not np.where(behind, gradient, 0).any()
    assert np.asarray(clean)[:, -1].tolist() == [0, 0]  # an empty example: no total, no count


def test_examples_do_not_mix(term):
    together = term(BATCH[::-1] * 0.7, BATCH, FULL)
    alone = term((BATCH[::-1] * 0.7)[2:3], BATCH[2:3], FULL[2:3])
    np.testing.assert_allclose(np.asarray(together)[:, 2:3], np.asarray(alone), rtol=1e-5)


def test_waveform_ignores_loudness():
    quiet, loud = (
        losses.waveform(0.5 * g * BATCH[4:], g * BATCH[4:], FULL[4:])[0] for g in (0.1, 1.0)
    )
    np.testing.assert_allclose(quiet, loud, rtol=1e-4)


def test_a_nearly_silent_example_does_not_outweigh_its_batch():
    """The same error on both; without a limit the quiet one would weigh thousands of times more."""
    noise = BATCH[4:]
    quiet, loud = (
        losses.waveform(g * noise + 0.01, g * noise, FULL[4:])[0] / SAMPLES for g in (1e-4, 1.0)
    )
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
    total, _ = TERMS["stft"](mono[None], wide[None], FULL[:1])
    left_right = jnp.abs(
        jnp.abs(losses.stft(mono[None], 256)) - jnp.abs(losses.stft(wide[None], 256))
    ).max()
    assert left_right < 1e-6 and total[0] > 1


@pytest.mark.slow
def test_kl_is_least_at_unit_variance():
    z = jax.random.normal(jax.random.key(0), (1, 4000, 3))
    at = lambda scale, shift=0.0: float(losses.kl(z * scale + shift, jnp.array([4000]))[0][0])
    assert (
        at(1.0) < 0.01 < at(1.3)
        and at(1.0) < at(0.7)
        and at(1.0, 0.5) == pytest.approx(0.125, abs=0.02)
    )
    constant = jnp.zeros((1, 8, 3))
    gradient = jax.grad(lambda z: losses.kl(z, jnp.array([8]))[0].sum())(constant)
    assert np.isfinite(gradient).all()
    padded = jnp.concatenate([z, 9 * z], 1)
    np.testing.assert_allclose(
        losses.kl(padded, jnp.array([4000]))[0], losses.kl(z, jnp.array([4000]))[0], rtol=1e-5
    )


@pytest.mark.slow
def test_mel_is_the_distance_of_log_mel_magnitudes():
    """Against librosa's own path from magnitudes to bands, in float64."""
    pair = BATCH[3:5] + 0.1 * BATCH[4:]
    total, count = TERMS["mel"](pair[1:], pair[:1], FULL[:1])
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
    np.testing.assert_allclose(total / count, np.mean(expected), rtol=1e-4)


@pytest.fixture(scope="module")
def players():
    model, params = build(dilations=(1,))
    judge = Discriminator((64, 32), 4)
    params = {
        "autoencoder": params,
        "discriminator": judge.init(jax.random.key(2), BATCH[:1])["params"],
    }
    every = dict(
        waveform=1.0, stft=0.5, mel=1.0, levels=0.0, kl=0.1, adversarial=0.1, feature_matching=5.0
    )
    config = ConfigDict(dict(losses=every, stft_windows=WINDOWS, adversary=dict(loss="hinge")))
    return model, judge, params, config


def own_gradient(terms, params, name):
    """The terms, and the gradient of their sum by one player's parameters."""
    total = lambda own: sum(total.sum() for total, _ in terms(params | {name: own}).values())
    return jax.jit(lambda p: terms(p))(params), jax.jit(jax.grad(total))(params[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_both_players_name_their_terms_and_learn_with_every_parameter(players, kind):
    model, judge, params, config = players
    config = config.copy_and_resolve_references()
    config.adversary.loss = kind
    args = (BATCH, FULL - 50, jax.random.key(1), jnp.float32(0.5), config)
    for name, terms, names in (
        (
            "autoencoder",
            lambda p: autoencoder_terms(model, judge, p, *args, 48_000),
            {name for name, weight in config.losses.items() if weight},
        ),
        ("discriminator", lambda p: discriminator_terms(model, judge, p, *args), {"discriminator"}),
    ):
        named, gradient = own_gradient(terms, params, name)
        assert set(named) == names and all(
            value.shape == (len(SIGNALS),) for pair in named.values() for value in pair
        )
        assert all(
            np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient)
        )


@pytest.mark.slow
def test_terms_without_weight_are_left_out(players):
    model, judge, params, config = players
    config = config.copy_and_resolve_references()
    config.losses.update(kl=0.0, adversarial=0.0, feature_matching=0.0)
    terms = lambda p: autoencoder_terms(
        model, judge, p, BATCH, FULL, jax.random.key(1), jnp.float32(1), config, 48_000
    )
    assert set(jax.eval_shape(terms, {"autoencoder": params["autoencoder"]})) == {
        "waveform",
        "stft",
        "mel",
    }


@pytest.mark.slow
def test_before_its_start_the_adversary_is_neither_heard_nor_taught(players):
    model, judge, params, config = players
    args = (BATCH, FULL, jax.random.key(1), None, config)
    named, _ = own_gradient(
        lambda p: autoencoder_terms(model, judge, p, *args, 48_000), params, "autoencoder"
    )
    assert (
        not np.asarray(named["adversarial"][0]).any()
        and not np.asarray(named["feature_matching"][0]).any()
    )
    _, gradient = own_gradient(
        lambda p: discriminator_terms(model, judge, p, *args), params, "discriminator"
    )
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_the_adversary_comes_in_at_its_start_and_not_before():
    config = get_config().train_autoencoder
    config.adversary.update(start=5, ramp=4)
    batch = {
        "audio": np.zeros((2, 8, 2), np.float32),
        "valid_samples": np.full(2, 8),
        "index": np.arange(2),
    }
    assert "ramp" not in prepare(4, batch, config)
    for step, ramp in ((5, 0.25), (7, 0.75), (8, 1.0), (100, 1.0)):
        np.testing.assert_array_equal(
            prepare(step, batch, config)["ramp"], np.full(2, ramp, np.float32)
        )


def test_waveform_hears_left_right_mid_and_side():
    full = jnp.full(1, 8)
    target = jnp.ones((1, 8, 2))
    off = lambda left, right: (
        float(waveform(target + jnp.array([left, right]), target, full)[0][0]) / 8
    )
    np.testing.assert_allclose(off(0.2, 0.2), (0.2 + 0.2 + 0.2 * 2**0.5) / 4, rtol=1e-5)
    np.testing.assert_allclose(off(0.2, -0.2), off(0.2, 0.2), rtol=1e-5)
    np.testing.assert_allclose(off(0.2, 0.0), (0.2 + 2 * 0.2 / 2**0.5) / 4, rtol=1e-5)
