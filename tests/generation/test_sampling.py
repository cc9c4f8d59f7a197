"""Sampling with networks whose answers are known, so that every error is sampling's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.jen1 import get_config
from jen1_jax.conditioning.timing import Timing
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.diffusion.samplers import SAMPLERS
from jen1_jax.diffusion.schedules import SCHEDULES, make_schedule
from jen1_jax.generation.sampling import Batch, LatentSampler
from jen1_jax.unet import UNet
from jen1_numpy.prompts import Prompts
from jen1_numpy.windows import Piece, Request

WINDOW, K = 8, 2
FRAME_RATE = 4.0
NEGATIVE = 10.0  # the value of the negative prompt, to these networks
TEXT = 42.0  # the value of the text; far outside [-1, 1], as latents are


def configuration():
    config = get_config()
    config.unet.factors = (2, 2)
    return config


class Oracle(UNet):
    """Predicts that every frame is the text's value (1 without text) plus the context's sum."""

    objective: str = "v"

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning=None
    ):
        values = jnp.where(text_lengths > 0, text[:, 0, 0], 1.0)[:, None, None]
        clean = jnp.broadcast_to(
            values + (context * mask).sum(axis=(1, 2), keepdims=True), noisy.shape
        )
        alpha, sigma = scales(log_snr[:, None, None])
        return OBJECTIVES[self.objective].target(clean, (noisy - alpha * clean) / sigma, log_snr)


@pytest.fixture(
    scope="module", params=zip(OBJECTIVES, SCHEDULES, SAMPLERS, strict=False), ids="-".join
)
def sampler(request):
    objective, schedule, method = request.param
    config = configuration()
    config.diffusion.update(objective=objective, schedule=schedule, sampler=method)
    unet = Oracle(K, **config.unet, objective=objective)
    return LatentSampler(unet, {}, config.diffusion, WINDOW, FRAME_RATE)


def sample(sampler, *requests, lengths=(1,), negative=(0,), scale=1.0, values=(TEXT,), **options):
    count = len(requests)
    tokens = lambda values: jnp.broadcast_to(jnp.array(values)[:, None, None], (count, 1, 3))
    each = lambda lengths: np.broadcast_to(np.array(lengths), count)
    prompts = Prompts(tokens(values), each(lengths), tokens([NEGATIVE]), each(negative))
    options = {"seeds": [0] * count, "steps": 5} | options
    latents = sampler.sample(requests, prompts, guidance_scale=scale, **options)
    return latents[0] if count == 1 else latents


def nothing(frames, start=0.0, total=10.0):
    return beginning(np.zeros((frames, K), np.float32), 0, 0, start, total)


def beginning(latents, context, given, start=0.0, total=10.0):
    """A request whose first `given` frames are given, and whose first `context` are context."""
    position = np.arange(len(latents))
    return Request(latents, position < context, position < given, start, total)


def test_the_networks_answer_is_the_result(sampler):
    """At every noise level the text is read, the objective is inverted, and nothing is clipped."""
    np.testing.assert_allclose(sample(sampler, nothing(5)), TEXT, rtol=1e-4)


def test_guidance_is_applied_once_and_only_with_text(sampler):
    np.testing.assert_allclose(
        sample(sampler, nothing(5), scale=3.0), 1 + 3 * (TEXT - 1), rtol=1e-4
    )
    np.testing.assert_allclose(sample(sampler, nothing(5), lengths=(0,), scale=3.0), 1, rtol=1e-4)


def test_context_frames_stay_and_only_they_are_shown_at_the_end(sampler):
    """The last step, at which there is little noise, decides an oracle's answer."""
    given = np.zeros((WINDOW, K), np.float32)
    given[:4] = [[7], [5], [100], [100]]
    latents = sample(sampler, beginning(given, 2, 4), steps=20)
    np.testing.assert_array_equal(latents[:2], given[:2])
    shown = 2 * (7 + 5)
    np.testing.assert_allclose(latents[4:], TEXT + shown, rtol=1e-4)
    # The half without text sees the same context.
    guided = sample(sampler, beginning(given, 2, 4), scale=3.0, steps=20)
    np.testing.assert_allclose(guided[4:], 1 + shown + 3 * (TEXT - 1), rtol=1e-4)


def test_a_long_piece_is_sampled_window_by_window(sampler):
    latents = sample(sampler, nothing(2 * WINDOW))
    np.testing.assert_allclose(latents[:WINDOW], TEXT, rtol=1e-4)
    half = K * WINDOW / 2  # numbers of the window before, which the next one sees
    np.testing.assert_allclose(
        latents[WINDOW : WINDOW + WINDOW // 2], TEXT + half * TEXT, rtol=1e-4
    )


def test_a_negative_prompt_takes_the_place_of_no_text(sampler):
    latents = sample(sampler, nothing(5), negative=(1,), scale=3.0)
    np.testing.assert_allclose(latents, NEGATIVE + 3 * (TEXT - NEGATIVE), rtol=1e-4)


@pytest.mark.slow
def test_guidance_keeps_to_its_interval(sampler):
    def within(interval, steps):
        settings = sampler.diffusion.copy_and_resolve_references()
        settings.guidance_interval = interval
        return sample(
            LatentSampler(sampler.unet, {}, settings, WINDOW, FRAME_RATE),
            nothing(5),
            scale=3.0,
            steps=steps,
        )

    # The last step, which ends at time 0, decides an oracle's answer; a single step is at time 1.
    np.testing.assert_allclose(within((0.6, 1.0), 5), TEXT, rtol=1e-4)
    np.testing.assert_allclose(within((0.6, 1.0), 1), 1 + 3 * (TEXT - 1), rtol=1e-4)
    np.testing.assert_allclose(within((0.0, 0.4), 1), TEXT, rtol=1e-4)


class LouderWhereGiven(Oracle):
    """An oracle whose answer to text is a hundred times as large at context frames."""

    def __call__(self, noisy, context, mask, log_snr, text, text_lengths, *rest):
        values = jnp.where(text_lengths > 0, text[:, 0, 0], 1.0)[:, None, None]
        # With the objective x0 the prediction is the clean latents.
        return jnp.broadcast_to(values * (1 + 100 * mask), noisy.shape)


def test_the_limit_of_guidance_measures_the_generated_frames_alone():
    config = configuration()
    config.diffusion.update(objective="x0", schedule="cosine", guidance_limit=1.0)
    sampler = LatentSampler(
        LouderWhereGiven(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE
    )
    request = beginning(np.zeros((5, K), np.float32), 2, 2)
    np.testing.assert_allclose(sample(sampler, request, scale=3.0)[2:], TEXT + 2 * 1.0, rtol=1e-4)


@pytest.mark.slow
def test_every_piece_of_a_batch_is_what_it_is_alone(sampler):
    given = np.zeros((WINDOW, K), np.float32)
    given[:3] = 7
    mixed = [nothing(3), beginning(given, 2, 3), nothing(2 * WINDOW)]
    values, lengths, seeds = (TEXT, 3.0, -5.0), (1, 1, 0), [4, 9, 2]
    together = sample(sampler, *mixed, values=values, lengths=lengths, seeds=seeds, scale=2.0)
    for row, request in enumerate(mixed):
        alone = sample(
            sampler,
            request,
            values=values[row : row + 1],
            lengths=lengths[row : row + 1],
            seeds=seeds[row : row + 1],
            scale=2.0,
        )
        np.testing.assert_allclose(together[row], alone, rtol=1e-4)


def test_with_a_shift_by_length_every_piece_has_the_levels_of_its_own_length(monkeypatch):
    config, levels = configuration(), []
    config.diffusion.update(objective="x0", schedule="cosine", reference_frames=4)
    sampler = LatentSampler(
        Oracle(K, **config.unet, objective="x0"),
        {},
        config.diffusion,
        WINDOW,
        FRAME_RATE,
        whole_windows=False,
    )
    step = LatentSampler.step

    def watch(self, batch, state, index, log_snrs, scale):
        levels.append((np.asarray(batch.windows.valid).sum(axis=(1, 2)), log_snrs))
        return step(self, batch, state, index, log_snrs, scale)

    monkeypatch.setattr(LatentSampler, "step", watch)
    for latents in sample(sampler, nothing(4), nothing(WINDOW), nothing(4), steps=2):
        np.testing.assert_allclose(latents, TEXT, rtol=1e-4)
    assert [valid.tolist() for valid, _ in levels] == [[4, 4]] * 2 + [[8]] * 2
    for valid, log_snrs in levels:
        np.testing.assert_array_equal(log_snrs, sampler.log_snrs(2, frames=int(valid[0])))
    np.testing.assert_allclose(levels[0][1] - np.log(2), levels[2][1], rtol=1e-5)


@pytest.mark.slow
def test_the_interval_of_guidance_is_of_the_shifted_times():
    """The only step is at time 1, whatever the log-SNR is there."""
    config = configuration()
    for frames, interval, scale in ((8, (0.9, 1.0), 3), (8, (0.0, 0.9), 1)):
        config.diffusion.update(
            objective="x0", schedule="cosine", reference_frames=1, guidance_interval=interval
        )
        unet = Oracle(K, **config.unet, objective="x0")
        sampler = LatentSampler(unet, {}, config.diffusion, WINDOW, FRAME_RATE)
        found = sample(sampler, nothing(frames), scale=3.0, steps=1)
        np.testing.assert_allclose(found, 1 + scale * (TEXT - 1), rtol=1e-4)


class Keeps(UNet):
    """Takes its input to be free of noise: predicts v so that the clean latent is noisy / alpha."""

    def __call__(self, noisy, context, mask, log_snr, *_):
        alpha, sigma = scales(log_snr[:, None, None])
        return -sigma / alpha * noisy


def test_a_variation_begins_with_the_given_latents_under_noise():
    config = configuration()
    config.diffusion.update(objective="v", schedule="cosine")
    sampler = LatentSampler(Keeps(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE)
    request = beginning(np.full((WINDOW, K), 5, np.float32), 0, 0)
    results = {time: sample(sampler, request, strength=time, steps=1) for time in (0.01, 0.5)}
    noise = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (WINDOW, K)))
    for time, latents in results.items():
        alpha, sigma = scales(make_schedule(config.diffusion).log_snr(jnp.array(time)))
        np.testing.assert_allclose(latents, 5 + sigma / alpha * noise, rtol=1e-4)


def test_at_full_strength_nothing_is_left_of_the_given_latents():
    config = configuration()
    config.diffusion.update(objective="v", schedule="cosine")
    sampler = LatentSampler(Keeps(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE)
    zeros, others = (
        sample(sampler, beginning(np.full((WINDOW, K), value, np.float32), 0, 0), steps=1)
        for value in (0, 5)
    )
    np.testing.assert_array_equal(zeros, others)


RHO, LENGTH, PIECES, CHANNELS = 0.9, 64, 16, 256
COVARIANCE = RHO ** np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))


class Exact(UNet):
    """The exact denoiser of an AR(1) process: the mean of the clean frames, given all inputs."""

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning=None
    ):
        alpha, sigma = scales(log_snr[0])
        # All pieces have the same mask.
        weight = jnp.where(mask[0] > 0, 1e5, (alpha / sigma) ** 2)
        seen = jnp.where(mask > 0, context, noisy / alpha)
        precision = jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32) + jnp.diag(weight[:, 0])
        return jnp.einsum("fg,bgk->bfk", jnp.linalg.inv(precision), weight * seen)


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("inpaint", [True, False])
def test_generated_frames_continue_the_margin_as_the_process_does(inpaint, margin):
    """The step across the border is the process's own, within 5 %.

    If margins were only put back after sampling, it would be up to 1.8 times as large.
    """
    config = configuration()
    config.diffusion.update(objective="x0", schedule="cosine", sampler="heun")
    sampler = LatentSampler(
        Exact(CHANNELS, **config.unet), {}, config.diffusion, LENGTH, FRAME_RATE
    )
    rng, frame = np.random.default_rng(0), np.arange(LENGTH)
    process = (
        rng.multivariate_normal(np.zeros(LENGTH), COVARIANCE, (PIECES, CHANNELS))
        .astype(np.float32)
        .swapaxes(1, 2)
    )
    hole = (frame >= 24) & (frame < 40) if inpaint else frame >= 32
    near = np.convolve(hole, np.ones(2 * margin + 1), "same") > 0
    requests = [Request(piece, ~near, ~hole, 0.0, 10.0) for piece in process]
    latents = np.stack(sample(sampler, *requests, seeds=list(range(PIECES)), steps=50))
    result = np.where(hole[:, None], latents, process)
    borders = np.flatnonzero(np.diff(hole))
    steps = result[:, borders + 1] - result[:, borders]
    assert np.sqrt(np.mean(steps**2) / (2 * (1 - RHO))) == pytest.approx(1, abs=0.05)


class Extent(UNet):
    """Predicts that every frame is the number of frames that are not padding."""

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning=None
    ):
        # With the objective x0 the prediction is the clean latents.
        return jnp.broadcast_to(valid.sum(axis=1, keepdims=True), noisy.shape)


@pytest.mark.parametrize("whole_windows", [True, False])
@pytest.mark.parametrize("frames", [1, 3, 7, WINDOW])
def test_a_short_piece_has_padding_only_for_a_model_trained_with_padding(frames, whole_windows):
    config = configuration()
    config.diffusion.update(objective="x0", schedule="cosine")
    sampler = LatentSampler(
        Extent(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE, whole_windows
    )
    given = np.zeros((frames, K), np.float32)
    for request in (nothing(frames), beginning(given, frames - 1, frames - 1)):
        latents = sample(sampler, request, scale=2.0)
        assert latents.shape == (frames, K)
        np.testing.assert_allclose(latents[-1], WINDOW if whole_windows else frames, rtol=1e-5)


def test_a_short_piece_is_the_beginning_of_a_whole_window(sampler):
    short, window, longer = (
        sample(sampler, nothing(frames), scale=2.0) for frames in (3, WINDOW, 3 * WINDOW)
    )
    np.testing.assert_array_equal(short, window[:3])
    np.testing.assert_array_equal(longer[:WINDOW], window)


class Clock(UNet):
    """Predicts that every frame is the projection of the timing features on `K` numbers."""

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning
    ):
        alpha, sigma = scales(log_snr[:, None, None])
        clean = jnp.broadcast_to(projected(conditioning["timing"])[:, None], noisy.shape)
        return OBJECTIVES["v"].target(clean, (noisy - alpha * clean) / sigma, log_snr)


def projected(features):
    return features @ np.random.default_rng(0).normal(size=(128, K)).astype(np.float32)


def test_every_window_has_its_start_and_its_pieces_length_as_timing():
    """With guidance too: both halves get the same timing, so guidance adds nothing."""
    config = configuration()
    config.unet.conditioning = ("timing",)
    config.diffusion.update(objective="v", schedule="cosine")
    sampler = LatentSampler(Clock(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE)
    half = WINDOW // 2  # of a window's frames are new where it has context
    begun = beginning(
        np.zeros((3 * WINDOW, K), np.float32), 3 * half, 3 * half, start=30.25, total=100.0
    )
    full, rest = sample(sampler, nothing(2 * WINDOW, total=4.0), begun, scale=3.0)
    np.testing.assert_array_equal(rest[: 3 * half], 0)
    found = [
        full[:WINDOW],
        full[WINDOW:][:half],
        full[WINDOW:][half:],
        *np.split(rest[3 * half :], [3, 7, 11]),
    ]
    # At whole seconds, which are four frames; only the last window is moved.
    starts = jnp.float32([0, 1, 2, 32, 33, 34, 34.25])
    totals = jnp.float32([4, 4, 4, 100, 100, 100, 100])
    places = {"start": starts, "total": totals}
    for frames, expected in zip(found, projected(Timing().features(places)), strict=True):
        np.testing.assert_allclose(
            frames, np.tile(expected, (len(frames), 1)), rtol=1e-4, atol=1e-4
        )


def test_steps_show_the_clean_estimate_and_any_number_of_them_uses_one_compilation():
    config = configuration()
    config.diffusion.update(objective="v", schedule="cosine")
    sampler = LatentSampler(Oracle(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE)
    piece = Piece(nothing(WINDOW), WINDOW, 4, FRAME_RATE, True, lambda values, seconds: {})
    windows = jax.tree.map(lambda part: part[None], piece.inputs(piece.window(), None))
    text, lengths = jnp.full((1, 1, 3), TEXT), np.array([1])
    prompts = Prompts(text, lengths, text, lengths)
    batch = Batch(windows, prompts, jnp.ones((1, WINDOW, K)), jax.random.key(0)[None])
    for steps in (2, 5):
        log_snrs = sampler.log_snrs(steps)
        state = sampler.start(batch)
        for index in range(steps):
            state = sampler.step(batch, state, index, log_snrs, guidance_scale=1.0)
            np.testing.assert_allclose(state.clean, TEXT, rtol=1e-4)
        np.testing.assert_allclose(sampler.latents(state), TEXT, rtol=1e-4)
    assert sampler._step._cache_size() == 1


def test_progress_counts_the_steps_and_can_end_the_sampling(sampler):
    calls = []

    def progress(done, total):
        calls.append((done, total))
        if len(calls) > 8:
            raise KeyboardInterrupt

    sample(sampler, nothing(WINDOW), steps=4, progress=progress)
    assert calls == [(0, 8), (2, 8), (4, 8), (6, 8)]
    with pytest.raises(KeyboardInterrupt):
        sample(sampler, nothing(2 * WINDOW), steps=4, progress=progress)
    assert calls[4:] == [(0, 16), (2, 16), (4, 16), (6, 16), (8, 16)]
