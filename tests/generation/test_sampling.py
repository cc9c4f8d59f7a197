"""Sampling with a network that always knows the answer, so that whatever is wrong is sampling's own fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.jen1 import get_config
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.diffusion.samplers import SAMPLERS
from jen1_jax.diffusion.schedules import SCHEDULES, make_schedule
from jen1_jax.generation.sampling import Plan, Prompts, Sampler, _Piece
from jen1_jax.layers.embeddings import timing_features
from jen1_jax.unet import UNet

WINDOW, K = 8, 2
GRID = 4  # on which windows begin
FRAME_RATE = 4.0
UNLIKE = 10.0  # what the negative prompt asks for
SAYS = 42.0  # what the text asks for; far outside [-1, 1], as latents are


def configuration():
    config = get_config()
    config.unet.factors = (2, 2)
    return config


class Oracle(UNet):
    """Predicts, in its objective's terms, that every frame is what the text says, or 1 without text, plus what is shown to it."""

    objective: str = "v"

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning=None
    ):
        says = jnp.where(text_lengths > 0, text[:, 0, 0], 1.0)[:, None, None]
        clean = jnp.broadcast_to(
            says + (context * mask).sum(axis=(1, 2), keepdims=True), noisy.shape
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
    return Sampler(unet, {}, config.diffusion, WINDOW, FRAME_RATE)


def fill(sampler, *plans, lengths=(1,), negative=(0,), scale=1.0, says=(SAYS,), **options):
    tokens = lambda values: jnp.broadcast_to(jnp.array(values)[:, None, None], (len(plans), 1, 3))
    count = lambda lengths: np.broadcast_to(np.array(lengths), len(plans))
    prompts = Prompts(tokens(says), count(lengths), tokens([UNLIKE]), count(negative))
    options = {"seeds": [0] * len(plans), "steps": 5} | options
    made = sampler.fill(plans, prompts, guidance_scale=scale, **options)
    return made[0] if len(plans) == 1 else made


def nothing(frames, start=0.0, total=10.0):
    return given(np.zeros((frames, K), np.float32), 0, 0, start, total)


def given(latents, trusted, known, start=0.0, total=10.0):
    """A piece of which the first `known` frames are known, and the first `trusted` are trusted."""
    position = np.arange(len(latents))
    return Plan(latents, position < trusted, position < known, start, total)


def test_what_the_network_answers_is_what_comes_out(sampler):
    """At every level of noise the text is seen, the answer is read as it was meant, and nothing is clipped."""
    np.testing.assert_allclose(fill(sampler, nothing(5)), SAYS, rtol=1e-4)


def test_guidance_is_applied_once_and_only_with_text(sampler):
    np.testing.assert_allclose(fill(sampler, nothing(5), scale=3.0), 1 + 3 * (SAYS - 1), rtol=1e-4)
    np.testing.assert_allclose(fill(sampler, nothing(5), lengths=(0,), scale=3.0), 1, rtol=1e-4)


def test_trusted_frames_stay_and_only_they_are_shown_at_the_end(sampler):
    """An oracle's answer is decided by the last step, at which there is little noise."""
    known = np.zeros((WINDOW, K), np.float32)
    known[:4] = [[7], [5], [100], [100]]
    latents = fill(sampler, given(known, 2, 4), steps=20)
    np.testing.assert_array_equal(latents[:2], known[:2])
    shown = 2 * (7 + 5)
    np.testing.assert_allclose(latents[4:], SAYS + shown, rtol=1e-4)
    guided = fill(
        sampler, given(known, 2, 4), scale=3.0, steps=20
    )  # without text it is shown the same
    np.testing.assert_allclose(guided[4:], 1 + shown + 3 * (SAYS - 1), rtol=1e-4)


def test_a_long_piece_is_filled_window_by_window(sampler):
    latents = fill(sampler, nothing(2 * WINDOW))
    np.testing.assert_allclose(latents[:WINDOW], SAYS, rtol=1e-4)
    half = K * WINDOW / 2  # of the window before is shown to the next
    np.testing.assert_allclose(
        latents[WINDOW : WINDOW + WINDOW // 2], SAYS + half * SAYS, rtol=1e-4
    )


def test_a_negative_prompt_takes_the_place_of_no_text(sampler):
    latents = fill(sampler, nothing(5), negative=(1,), scale=3.0)
    np.testing.assert_allclose(latents, UNLIKE + 3 * (SAYS - UNLIKE), rtol=1e-4)


@pytest.mark.slow
def test_guidance_keeps_to_its_interval(sampler):
    def within(interval, steps):
        settings = sampler.config.copy_and_resolve_references()
        settings.guidance_interval = interval
        return fill(
            Sampler(sampler.unet, {}, settings, WINDOW, FRAME_RATE),
            nothing(5),
            scale=3.0,
            steps=steps,
        )

    # an oracle's answer is decided by the last step, which ends at 0; a single one is taken at 1
    np.testing.assert_allclose(within((0.6, 1.0), 5), SAYS, rtol=1e-4)
    np.testing.assert_allclose(within((0.6, 1.0), 1), 1 + 3 * (SAYS - 1), rtol=1e-4)
    np.testing.assert_allclose(within((0.0, 0.4), 1), SAYS, rtol=1e-4)


class LouderWhereGiven(Oracle):
    """An oracle to which text makes a hundred times the difference at frames that are shown to it."""

    def __call__(self, noisy, context, mask, log_snr, text, text_lengths, *rest):
        says = jnp.where(text_lengths > 0, text[:, 0, 0], 1.0)[:, None, None]
        return jnp.broadcast_to(
            says * (1 + 100 * mask), noisy.shape
        )  # of the objective x0: its clean latents


def test_the_limit_of_guidance_measures_the_generated_frames_alone():
    config = configuration()
    config.diffusion.update(objective="x0", schedule="cosine", guidance_limit=1.0)
    sampler = Sampler(LouderWhereGiven(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE)
    plan = given(np.zeros((5, K), np.float32), 2, 2)
    np.testing.assert_allclose(fill(sampler, plan, scale=3.0)[2:], SAYS + 2 * 1.0, rtol=1e-4)


@pytest.mark.slow
def test_every_piece_of_a_batch_is_what_it_is_alone(sampler):
    known = np.zeros((WINDOW, K), np.float32)
    known[:3] = 7
    mixed = [nothing(3), given(known, 2, 3), nothing(2 * WINDOW)]
    says, lengths, seeds = (SAYS, 3.0, -5.0), (1, 1, 0), [4, 9, 2]
    together = fill(sampler, *mixed, says=says, lengths=lengths, seeds=seeds, scale=2.0)
    for row, plan in enumerate(mixed):
        alone = fill(
            sampler,
            plan,
            says=says[row : row + 1],
            lengths=lengths[row : row + 1],
            seeds=seeds[row : row + 1],
            scale=2.0,
        )
        np.testing.assert_allclose(together[row], alone, rtol=1e-4)


class Keeps(UNet):
    """Takes what it sees for the signal, and no noise to be in it: predicts v so that the clean latent is noisy / alpha."""

    def __call__(self, noisy, context, mask, log_snr, *_):
        alpha, sigma = scales(log_snr[:, None, None])
        return -sigma / alpha * noisy


def test_a_variation_begins_with_the_given_latents_under_noise():
    config = configuration()
    config.diffusion.update(objective="v", schedule="cosine")
    sampler = Sampler(Keeps(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE)
    plan = given(np.full((WINDOW, K), 5, np.float32), 0, 0)
    made = {start: fill(sampler, plan, start=start, steps=1) for start in (0.01, 0.5)}
    noise = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (WINDOW, K)))
    for start, latents in made.items():
        alpha, sigma = scales(make_schedule(config.diffusion).log_snr(jnp.array(start)))
        np.testing.assert_allclose(latents, 5 + sigma / alpha * noise, rtol=1e-4)


RHO, LENGTH, PIECES, CHANNELS = 0.9, 64, 16, 256
COVARIANCE = RHO ** np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))


class Exact(UNet):
    """The exact denoiser of an AR(1) process: the mean of the clean frames, given what is shown and what is noisy."""

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning=None
    ):
        alpha, sigma = scales(log_snr[0])
        weight = jnp.where(mask[0] > 0, 1e5, (alpha / sigma) ** 2)  # all pieces have the same mask
        seen = jnp.where(mask > 0, context, noisy / alpha)
        precision = jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32) + jnp.diag(weight[:, 0])
        return jnp.einsum("fg,bgk->bfk", jnp.linalg.inv(precision), weight * seen)


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("inpaint", [True, False])
def test_what_is_made_goes_on_from_the_margin_as_the_process_does(inpaint, margin):
    """Its step across the border is the process's own, within 5 %; where margins were only put back, up to 1.8 times that."""
    config = configuration()
    config.diffusion.update(objective="x0", schedule="cosine", sampler="heun")
    sampler = Sampler(Exact(CHANNELS, **config.unet), {}, config.diffusion, LENGTH, FRAME_RATE)
    rng, frame = np.random.default_rng(0), np.arange(LENGTH)
    process = (
        rng.multivariate_normal(np.zeros(LENGTH), COVARIANCE, (PIECES, CHANNELS))
        .astype(np.float32)
        .swapaxes(1, 2)
    )
    hole = (frame >= 24) & (frame < 40) if inpaint else frame >= 32
    near = np.convolve(hole, np.ones(2 * margin + 1), "same") > 0
    plans = [Plan(piece, ~near, ~hole, 0.0, 10.0) for piece in process]
    made = np.stack(fill(sampler, *plans, seeds=list(range(PIECES)), steps=50))
    result = np.where(hole[:, None], made, process)
    borders = np.flatnonzero(np.diff(hole))
    steps = result[:, borders + 1] - result[:, borders]
    assert np.sqrt(np.mean(steps**2) / (2 * (1 - RHO))) == pytest.approx(1, abs=0.05)


class Extent(UNet):
    """Predicts that every frame is the number of frames that are real."""

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning=None
    ):
        return jnp.broadcast_to(
            valid.sum(axis=1, keepdims=True), noisy.shape
        )  # of the objective x0: its clean latents


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("frames", [1, 3, 7, WINDOW])
def test_a_short_piece_is_padding_only_to_a_model_that_has_seen_padding(frames, whole):
    config = configuration()
    config.diffusion.update(objective="x0", schedule="cosine")
    sampler = Sampler(Extent(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE, whole)
    known = np.zeros((frames, K), np.float32)
    for plan in (nothing(frames), given(known, frames - 1, frames - 1)):
        latents = fill(sampler, plan, scale=2.0)
        assert latents.shape == (frames, K)
        np.testing.assert_allclose(latents[-1], WINDOW if whole else frames, rtol=1e-5)


def test_a_short_piece_is_the_beginning_of_a_whole_window(sampler):
    short, window, longer = (
        fill(sampler, nothing(frames), scale=2.0) for frames in (3, WINDOW, 3 * WINDOW)
    )
    np.testing.assert_array_equal(short, window[:3])
    np.testing.assert_array_equal(longer[:WINDOW], window)


class Clock(UNet):
    """Predicts that every frame of a window is what the network is told of the window's time, summed up in `K` numbers."""

    def __call__(
        self, noisy, context, mask, log_snr, text, text_lengths, valid, causal, conditioning
    ):
        alpha, sigma = scales(log_snr[:, None, None])
        clean = jnp.broadcast_to(summed_up(conditioning["timing"])[:, None], noisy.shape)
        return OBJECTIVES["v"].target(clean, (noisy - alpha * clean) / sigma, log_snr)


def summed_up(features):
    return features @ np.random.default_rng(0).normal(size=(128, K)).astype(np.float32)


def test_every_window_knows_where_in_its_piece_it_begins_and_how_long_that_is():
    """Under guidance too, where the unguided half is told the same: there is no difference to follow."""
    config = configuration()
    config.unet.conditioning = ("timing",)
    config.diffusion.update(objective="v", schedule="cosine")
    sampler = Sampler(Clock(K, **config.unet), {}, config.diffusion, WINDOW, FRAME_RATE)
    half = WINDOW // 2  # of a window's frames are new once there is something to go on from
    begun = given(
        np.zeros((3 * WINDOW, K), np.float32), 3 * half, 3 * half, start=30.25, total=100.0
    )
    whole, rest = fill(sampler, nothing(2 * WINDOW, total=4.0), begun, scale=3.0)
    np.testing.assert_array_equal(rest[: 3 * half], 0)
    found = [
        whole[:WINDOW],
        whole[WINDOW:][:half],
        whole[WINDOW:][half:],
        *np.split(rest[3 * half :], [3, 7, 11]),
    ]
    starts = jnp.float32(
        [0, 1, 2, 32, 33, 34, 34.25]
    )  # at whole seconds, four frames, but for the last window of all
    totals = jnp.float32([4, 4, 4, 100, 100, 100, 100])
    for frames, told in zip(found, summed_up(timing_features(starts, totals)), strict=True):
        np.testing.assert_allclose(frames, np.tile(told, (len(frames), 1)), rtol=1e-4, atol=1e-4)


def test_a_whole_window_in_place_of_a_short_piece_is_told_its_own_length():
    known = np.zeros(3, bool)
    for whole, total in ((True, 30 + WINDOW / FRAME_RATE), (False, 30.75)):
        piece = _Piece(
            Plan(np.zeros((3, K)), known, known, 30.0, 30.75), WINDOW, GRID, FRAME_RATE, whole
        )
        np.testing.assert_allclose(piece.inputs(piece.window(None)[0])[-1], [30, total])


def test_a_margin_is_corrected_with_its_own_hole_and_not_before():
    known = np.ones(WINDOW, bool)
    known[3], known[6] = False, False
    trusted = np.zeros(WINDOW, bool)
    trusted[0] = True
    piece = _Piece(
        Plan(np.zeros((WINDOW, K)), trusted, known, 0.0, 10.0), WINDOW, GRID, FRAME_RATE, True
    )
    piece.known[6] = (
        True  # as if its hole lay in another window, with a margin of one frame at 5 and 7
    )
    piece.trusted[4] = True
    piece.fill(slice(0, WINDOW), np.ones((WINDOW, K), np.float32))
    np.testing.assert_array_equal(piece.latents[:, 0], [1, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(piece.trusted, [1, 1, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("start", [0.0, 30.0, 30.25, 31.75])
def test_windows_begin_on_the_grid_and_hold_their_hole(start):
    """Of pieces that begin anywhere in a longer one; only the piece's ends and long holes keep a window from the grid."""
    frames, before = 5 * WINDOW, round(start * FRAME_RATE)
    for first in range(1, frames):
        for run in range(1, frames - first + 1):
            known = np.ones(frames, bool)
            known[first : first + run] = False
            piece = _Piece(
                Plan(np.zeros((frames, K)), known, known, start, 100.0),
                WINDOW,
                GRID,
                FRAME_RATE,
                True,
            )
            missing = piece.missing
            window, _ = piece.window(None)
            assert (
                0 <= window.start <= first < window.stop <= frames
                and window.stop - window.start == WINDOW
            )
            hole = run < WINDOW and first + run < frames
            assert not hole or first + run <= window.stop
            inside = 0 < window.start < frames - WINDOW
            assert (
                not inside or (before + window.start) % GRID == 0 or (hole and run > WINDOW - GRID)
            )
            assert not inside or hole or WINDOW // 2 <= first - window.start < WINDOW // 2 + GRID
            piece.fill(window, np.zeros((WINDOW, K)))
            assert piece.missing < missing
