"""The closed-form start of a spectral autoencoder: principal directions, in unit variance, and what is left out is the least."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder import spectrum
from jen1_jax.errors import Refusal
from jen1_jax.training import principal
from tests.autoencoder.testing import build


@pytest.fixture
def data():
    """Rows of rank 3 about a mean above 0, as levels are."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((200, 3)) * (3, 1, 0.3) @ rng.standard_normal((3, 20)) + 2).astype(
        np.float32
    )


def test_enough_directions_bring_everything_back_at_unit_variance(data):
    mean, into, back = principal.directions(data, 5)
    latents = (data - mean) @ into
    np.testing.assert_allclose(latents @ back + mean, data, atol=1e-3)
    np.testing.assert_allclose(np.cov(latents[:, :3].T, bias=True), np.eye(3), atol=1e-3)
    assert not latents[:, 3:].any() and not back[3:].any()


def test_fewer_directions_are_the_best_of_their_number(data):
    mean, into, back = principal.directions(data, 2)
    weight = np.sqrt(spectrum.QUIET + mean)
    left = ((((data - mean) @ into @ back) - (data - mean)) * weight) ** 2
    values = np.linalg.eigvalsh(np.cov((data * weight).T, bias=True))[::-1]
    assert left.sum() / len(data) == pytest.approx(values[2:].sum(), rel=1e-2)


@pytest.mark.slow
def test_an_autoencoder_begins_as_these_directions():
    model, params = build(strides=(16, 2), window=64, latent_channels=24)
    rng = np.random.default_rng(1)
    t = np.arange(20 * 32) / 48_000
    tones = np.sin(2 * np.pi * rng.uniform(500, 9000, (16, 1, 2)) * t[:, None]) * rng.uniform(
        0.1, 0.5, (16, 1, 2)
    )
    batches = [{"audio": tones.astype(np.float32), "valid_samples": np.full(16, len(t))}]
    params = jax.tree.map(lambda leaf: 0.01 * leaf, params)  # of the bent part, little
    error = jax.jit(
        lambda params, audio: jnp.abs(
            model.apply({"params": params}, audio).levels - spectrum.analyse(audio, model.window)
        ).mean()
    )
    audio = jnp.asarray(batches[0]["audio"])
    begun = principal.begin(model, params, batches)
    assert error(begun, audio) < 0.3 * error(params, audio)


def test_silence_and_nothing_are_no_directions():
    model, params = build(strides=(16, 2), window=64)
    silent = {"audio": np.zeros((2, 320, 2), np.float32), "valid_samples": np.full(2, 320)}
    begun = principal.begin(model, params, [silent])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(begun))
    with pytest.raises(Refusal, match="no audio to begin"):
        principal.begin(model, params, [silent | {"valid_samples": np.zeros(2, int)}])
