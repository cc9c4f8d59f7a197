"""The initialisation of an autoencoder of levels with principal directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder import spectrum
from jen1_jax.training import principal
from jen1_numpy.errors import Refusal
from tests.autoencoder.testing import build


@pytest.fixture
def data():
    """Rows of rank 3 with a mean above 0, like levels."""
    rng = np.random.default_rng(0)
    coordinates = rng.standard_normal((200, 3)) * (3, 1, 0.3)
    return (coordinates @ rng.standard_normal((3, 20)) + 2).astype(np.float32)


def test_enough_directions_reconstruct_the_data_and_have_unit_variance(data):
    mean, into, back = principal.directions(data, 5, np.ones(20))
    latents = (data - mean) @ into
    np.testing.assert_allclose(latents @ back + mean, data, atol=1e-3)
    np.testing.assert_allclose(np.cov(latents[:, :3].T, bias=True), np.eye(3), atol=1e-3)
    assert not latents[:, 3:].any() and not back[3:].any()


def test_fewer_directions_leave_the_smallest_possible_error(data):
    shares = np.linspace(0.25, 1, 20)
    mean, into, back = principal.directions(data, 2, shares)
    weight = np.sqrt(shares * (spectrum.WEIGHT_OF_SILENCE + mean))
    centred = data - mean
    error = ((centred @ into @ back - centred) * weight) ** 2
    variances = np.linalg.eigvalsh(np.cov((data * weight).T, bias=True))[::-1]
    assert error.sum() / len(data) == pytest.approx(variances[2:].sum(), rel=1e-2)


@pytest.mark.slow
def test_the_initialised_autoencoder_has_a_much_smaller_error():
    model, params = build(strides=(16, 2), window=64, latent_channels=24)
    rng = np.random.default_rng(1)
    t = np.arange(20 * 32) / 48_000
    tones = np.sin(2 * np.pi * rng.uniform(500, 9000, (16, 1, 2)) * t[:, None])
    tones *= rng.uniform(0.1, 0.5, (16, 1, 2))
    batches = [{"audio": tones.astype(np.float32), "valid_samples": np.full(16, len(t))}]
    params = jax.tree.map(lambda leaf: 0.01 * leaf, params)  # a small nonlinear part
    audio = jnp.asarray(batches[0]["audio"])
    levels = spectrum.analyse(audio, model.layout)

    @jax.jit
    def error(params):
        return jnp.abs(model.apply({"params": params}, audio).levels - levels).mean()

    assert error(principal.begin(model, params, batches)) < 0.3 * error(params)


def test_silence_gives_finite_parameters_and_no_audio_is_refused():
    model, params = build(strides=(16, 2), window=64)
    silent = {"audio": np.zeros((2, 320, 2), np.float32), "valid_samples": np.full(2, 320)}
    initialised = principal.begin(model, params, [silent])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(initialised))
    with pytest.raises(Refusal, match="no audio to initialise"):
        principal.begin(model, params, [silent | {"valid_samples": np.zeros(2, int)}])
