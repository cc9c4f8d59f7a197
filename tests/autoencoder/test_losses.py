"""Losses: finite on every pathological signal, blind to padding, sensitive to what they are for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jen1_jax.autoencoder import losses
from jen1_jax.autoencoder.objective import loss_terms
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
TERMS = {"waveform": losses.waveform, "stft": partial(losses.multi_resolution_stft, windows=WINDOWS)}


@pytest.fixture(scope="module", params=TERMS)
def term(request):
    return jax.jit(TERMS[request.param])


@pytest.mark.parametrize("prediction", SIGNALS)
def test_values_and_gradients_are_finite(term, prediction):
    prediction = jnp.broadcast_to(SIGNALS[prediction], BATCH.shape)
    total, count = term(prediction, BATCH, FULL)
    gradient = jax.grad(lambda p: term(p, BATCH, FULL)[0].sum())(prediction)
    assert np.isfinite(total).all() and np.isfinite(gradient).all() and (np.asarray(count) > 0).all()


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
    quiet, loud = (losses.waveform(0.5 * g * BATCH[4:], g * BATCH[4:], FULL[4:])[0] for g in (0.1, 1.0))
    np.testing.assert_allclose(quiet, loud, rtol=1e-4)


def test_stft_matches_a_plain_transform():
    x = np.asarray(BATCH[4])
    ours = losses.stft(jnp.asarray(x)[None], 64)[0, 1, 5]
    hann = np.hanning(65)[:-1]
    np.testing.assert_allclose(ours, np.fft.rfft(x[80:144, 1] * hann / hann.sum()), atol=1e-6)


def test_stft_hears_a_collapsed_stereo_image():
    """Left and right of equal magnitude spectra but opposite sign: only mid and side tell them from mono."""
    mono, wide = SIGNALS["noise"][:, :1] * jnp.ones(2), SIGNALS["noise"][:, :1] * jnp.array([1.0, -1.0])
    total, _ = TERMS["stft"](mono[None], wide[None], FULL[:1])
    left_right = jnp.abs(jnp.abs(losses.stft(mono[None], 256)) - jnp.abs(losses.stft(wide[None], 256))).max()
    assert left_right < 1e-6 and total[0] > 1


def test_kl_is_least_at_unit_variance():
    z = jax.random.normal(jax.random.key(0), (1, 4000, 3))
    at = lambda scale, shift=0.0: float(losses.kl(z * scale + shift, jnp.array([4000]))[0][0])
    assert at(1.0) < 0.01 < at(1.3) and at(1.0) < at(0.7) and at(1.0, 0.5) == pytest.approx(0.125, abs=0.02)
    constant = jnp.zeros((1, 8, 3))
    gradient = jax.grad(lambda z: losses.kl(z, jnp.array([8]))[0].sum())(constant)
    assert np.isfinite(gradient).all()
    padded = jnp.concatenate([z, 9 * z], 1)
    np.testing.assert_allclose(losses.kl(padded, jnp.array([4000]))[0], losses.kl(z, jnp.array([4000]))[0], rtol=1e-5)


def test_objective_names_its_terms_and_has_finite_gradients():
    model, params = build(dilations=(1,))
    config = ConfigDict(dict(losses=dict(waveform=1.0, stft=0.5, kl=0.1), stft_windows=WINDOWS))
    terms = lambda p: loss_terms(model, p, BATCH, FULL - 50, jax.random.key(1), config)
    total = lambda named: sum(total.sum() for total, _ in named.values())
    gradient, named = jax.jit(jax.grad(lambda p: (total(terms(p)), terms(p)), has_aux=True))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))  # every parameter learns
    assert set(named) == {"waveform", "stft", "kl"}
    assert all(value.shape == (len(SIGNALS),) for pair in named.values() for value in pair)
    config.losses.kl = 0.0
    assert set(jax.eval_shape(terms, params)) == {"waveform", "stft"}
