import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.diffusion.guidance import guide
from jen1_jax.diffusion.objectives import OBJECTIVES


@pytest.fixture(scope="module")
def predictions():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 4, 3)), jnp.float32)


def test_scale_zero_ignores_the_text_one_trusts_it_and_two_goes_as_far_again(predictions):
    conditional, unconditional, _ = predictions
    np.testing.assert_allclose(guide(conditional, unconditional, 0.0), unconditional, atol=1e-6)
    np.testing.assert_allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-6)
    np.testing.assert_allclose(guide(conditional, unconditional, 2.0), 2 * conditional - unconditional, atol=1e-6)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_guiding_the_prediction_guides_the_clean_latent(name, predictions):
    conditional, unconditional, noisy = predictions
    log_snr = jnp.array([-2.0, 3.0])
    clean = lambda prediction: OBJECTIVES[name].clean(prediction, noisy, log_snr)
    guided = guide(clean(conditional), clean(unconditional), 3.0)
    np.testing.assert_allclose(clean(guide(conditional, unconditional, 3.0)), guided, rtol=1e-4, atol=1e-4)
