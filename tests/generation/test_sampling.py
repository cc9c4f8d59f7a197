"""Sampling with a network that always knows the answer, so that whatever is wrong is sampling's own fault."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs.jen1 import get_config
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.diffusion.schedules import SCHEDULES
from jen1_jax.generation.sampling import Plan, Sampler
from jen1_jax.unet import UNet

WINDOW, K = 8, 2
SAYS = 42.0  # what the text asks for; far outside [-1, 1], as latents are


class Oracle(UNet):
    """Predicts, in its objective's terms, that every frame is what the text says, or 1 without text, plus what is shown to it."""

    objective: str = "v"

    def __call__(self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning=None):
        says = jnp.where(text_lengths > 0, text[:, 0, 0], 1.0)[:, None, None]
        clean = jnp.broadcast_to(says + (context * mask).sum(axis=(1, 2), keepdims=True), noisy.shape)
        alpha, sigma = scales(log_snr[:, None, None])
        return OBJECTIVES[self.objective].target(clean, (noisy - alpha * clean) / sigma, log_snr)


@pytest.fixture(scope="module", params=zip(OBJECTIVES, SCHEDULES, strict=True), ids="-".join)
def sampler(request):
    objective, schedule = request.param
    config = get_config()
    config.diffusion.update(objective=objective, schedule=schedule)
    unet = Oracle(K, **config.unet, objective=objective)
    return Sampler(unet, {}, config.diffusion, WINDOW)


def fill(sampler, plan, *, length=1, scale=1.0):
    text = jnp.full((1, 3), SAYS)
    return sampler.fill(plan, text, length, seed=0, steps=5, guidance_scale=scale)


def nothing(frames):
    return Plan(np.zeros((frames, K), np.float32), np.zeros(frames, bool), np.zeros(frames, bool))


def test_what_the_network_answers_is_what_comes_out(sampler):
    """At every level of noise the text is seen, the answer is read as it was meant, and nothing is clipped."""
    np.testing.assert_allclose(fill(sampler, nothing(5)), SAYS, rtol=1e-4)


def test_guidance_is_applied_once_and_only_with_text(sampler):
    np.testing.assert_allclose(fill(sampler, nothing(5), scale=3.0), 1 + 3 * (SAYS - 1), rtol=1e-4)
    np.testing.assert_allclose(fill(sampler, nothing(5), length=0, scale=3.0), 1, rtol=1e-4)


def test_known_frames_stay_and_only_trusted_ones_are_shown(sampler):
    given = np.zeros((WINDOW, K), np.float32)
    given[:4] = [[7], [5], [100], [100]]
    position = np.arange(WINDOW)
    latents = fill(sampler, Plan(given, position < 2, position < 4))
    np.testing.assert_array_equal(latents[:4], given[:4])
    np.testing.assert_allclose(latents[4:], SAYS + 2 * (7 + 5), rtol=1e-4)


def test_a_long_piece_is_filled_window_by_window(sampler):
    latents = fill(sampler, nothing(2 * WINDOW))
    np.testing.assert_allclose(latents[:WINDOW], SAYS, rtol=1e-4)
    half = K * WINDOW / 2  # of the window before is shown to the next
    np.testing.assert_allclose(latents[WINDOW : WINDOW + WINDOW // 2], SAYS + half * SAYS, rtol=1e-4)
