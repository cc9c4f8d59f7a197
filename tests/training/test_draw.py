"""The random numbers of a diffusion step.

Each test excludes an error with which earlier reimplementations of JEN-1 generated only noise,
although their loss fell.
"""

from functools import partial
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jen1_jax.batch import as_float
from jen1_jax.conditioning import CONDITIONERS, Conditioner
from jen1_jax.tasks import TASKS
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.checks import check_autoencoder_training
from jen1_jax.training.draw import draw_autoencoder, draw_diffusion, vary_audio
from jen1_jax.training.inputs import diffusion_inputs
from jen1_numpy.errors import Refusal
from tests import tiny

HOP, K = 64, 6


def untimed():
    config = tiny.config()
    config.unet.conditioning = ()
    return config


@partial(jax.jit, static_argnames="null_text_rate")
def draw(step=0, null_text_rate=0.2):
    """The random numbers for 48 examples of 96 frames."""
    config = untimed()
    config.diffusion.null_text_rate = null_text_rate
    batch = {"latents": jnp.zeros((48, 96, K)), "valid_frames": jnp.full(48, 96)}
    return draw_diffusion(
        jax.random.key(1), jnp.int32(step), batch, config=config, hop=HOP, k=K, window=96
    )


@partial(jax.jit, static_argnames="window")
def windows(batch, step=0, window=96):
    key = jax.random.key(step)
    settings = dict(config=tiny.config(), hop=HOP, k=K, window=window)
    return draw_diffusion(key, jnp.int32(step), batch, **settings)


def test_noise_is_gaussian_with_unit_variance():
    noise = np.asarray(draw()["noise"]).ravel()
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    limit = 3**0.5  # for unit variance
    uniform = jax.random.uniform(jax.random.key(0), noise.shape, minval=-limit, maxval=limit)
    assert stats.kstest(np.asarray(uniform), "norm").pvalue < 1e-3  # the test detects this


def test_every_example_draws_its_own_mask_noise_time_and_task():
    drawn = draw()
    inpainting = np.asarray(drawn["mask"])[np.asarray(drawn["task"]) == 1]
    assert len(inpainting) == 16 and len({mask.tobytes() for mask in inpainting}) > 12
    assert len({noise.tobytes() for noise in np.asarray(drawn["noise"])}) == 48
    assert len(set(np.asarray(drawn["time"]).tolist())) == 48
    assert [int((np.asarray(drawn["task"]) == n).sum()) for n in range(3)] == [16, 16, 16]


def test_the_same_step_draws_the_same_and_another_step_does_not():
    first, again, other = draw(step=3), draw(step=3), draw(step=4)
    np.testing.assert_array_equal(first["mask"], again["mask"])
    assert not np.array_equal(first["mask"], other["mask"])


def test_a_window_of_a_longer_example_has_its_own_position_in_the_piece():
    """The latents of each example are the number of their frame.

    Half of the examples are valid to their end, a quarter to frame 50, a quarter to frame 20.
    """
    valid = np.tile([96, 96, 50, 20], 64)
    batch = {
        "latents": np.broadcast_to(np.arange(96.0)[:, None], (256, 96, K)),
        "valid_frames": valid,
    }
    before = 75_001  # frames of the piece that come before the clip
    start = np.full(256, before * HOP / 48_000, np.float32)
    place = {"start": start, "total": np.full(256, 200.0, np.float32)}
    batch |= {"start": start, "conditions": {"timing": place}}
    drawn = [jax.tree.map(np.asarray, windows(batch, step, window=32)) for step in range(4)]
    firsts = np.stack([each["latents"][:, 0, 0] for each in drawn])
    for first, each in zip(firsts, drawn, strict=True):
        numbers = first[:, None] + np.arange(32.0)
        np.testing.assert_array_equal(each["latents"], np.repeat(numbers[..., None], K, axis=2))
        np.testing.assert_array_equal(each["valid_frames"], np.minimum(valid, 32))
        timing = each["conditions"]["timing"]
        np.testing.assert_allclose(timing["start"], (before + first) * HOP / 48_000, rtol=1e-6)
        np.testing.assert_array_equal(timing["total"], 200)
        assert each["mask"].shape == (256, 32, 1) and each["noise"].shape == (256, 32, K)
    assert (firsts[:, valid == 20] == 0).all()
    for frames in (96, 50):
        found, last = firsts[:, valid == frames], frames - 32
        inside = found[(found > 0) & (found < last)]
        grid = np.prod(tiny.config().unet.factors)
        assert set(found.flat) == {0, *range(-before % grid, last, grid), last}
        # Each end has the share of half a window, and the beginning what rounding down adds.
        shares = np.array([17 + (-before - 1) % grid, 17]) / (last + 33)
        np.testing.assert_allclose([np.mean(found == 0), np.mean(found == last)], shares, atol=0.08)
        np.testing.assert_allclose(inside.mean(), last / 2, atol=0.06 * last)
    assert len(set(firsts[:, 0])) > 1


def test_a_share_of_the_examples_is_cut_to_a_random_length_before_its_mask_is_drawn():
    config, grid = tiny.config(), np.prod(tiny.config().unet.factors)
    valid = np.tile([96, 96, 40, 2], 100)
    batch = {"latents": jnp.zeros((400, 96, K)), "valid_frames": jnp.asarray(valid)}
    place = {"start": jnp.full(400, 30.0), "total": jnp.full(400, 90.0)}
    batch |= {"conditions": {"timing": place}}
    config.data.short_rate = 0.5
    settings = dict(config=config, hop=HOP, k=K, window=96)
    drawn = jax.jit(partial(draw_diffusion, **settings))(jax.random.key(0), jnp.int32(0), batch)
    found, mask = np.asarray(drawn["valid_frames"]), np.asarray(drawn["mask"])[..., 0]
    assert (found <= valid).all() and (found[valid == 2] == 2).all() and found.min() == 2
    cut = found[valid == 96]
    shorter = cut[cut < 96]
    assert 0.4 < (cut < 96).mean() < 0.6
    assert shorter.min() < grid + 6 and 45 < shorter.mean() < 55
    assert not (mask * (np.arange(96) >= found[:, None])).any()
    ends = np.where(found < valid, 30 + found * HOP / 48_000, 90)  # a shortened piece ends there
    np.testing.assert_allclose(drawn["conditions"]["timing"]["total"], ends, rtol=1e-6)
    inpainted = np.asarray(drawn["task"]) == list(TASKS).index("inpainting")
    share = (1 - mask.sum(1) / found)[inpainted & (found > 10)]
    assert share.min() > 0.1 and share.max() < 0.9  # of the valid frames, not of the window


@pytest.mark.slow
def test_text_is_left_out_at_the_configured_rate_only():
    assert not np.asarray(draw(null_text_rate=0.0)["null_text"]).any()
    assert np.asarray(draw(null_text_rate=1.0)["null_text"]).all()
    assert 0.1 < np.mean([draw(step)["null_text"] for step in range(10)]) < 0.3


class Loudness(Conditioner):
    names = fields = ("loudness",)
    null_rate = 0.5


def test_conditions_are_left_out_at_their_own_rate(monkeypatch):
    """Text and conditions are left out independently of each other."""
    monkeypatch.setitem(CONDITIONERS, "loudness", Loudness())
    config = tiny.config()
    config.unet.conditioning = ("timing", "loudness")
    config.diffusion.null_text_rate = 0.5
    ones = jnp.ones(400)
    conditions = {"timing": {"start": ones, "total": 9 * ones}, "loudness": {"loudness": ones}}
    batch = {"latents": jnp.zeros((400, 96, K)), "valid_frames": jnp.full(400, 96)}
    batch |= {"conditions": conditions}
    settings = dict(config=config, hop=HOP, k=K, window=96)
    drawn = jax.jit(partial(draw_diffusion, **settings))(jax.random.key(0), jnp.int32(0), batch)
    left_out = np.isnan(drawn["conditions"]["loudness"]["loudness"])
    assert 0.4 < left_out.mean() < 0.6
    assert 0.15 < (left_out & np.asarray(drawn["null_text"])).mean() < 0.35
    np.testing.assert_array_equal(drawn["conditions"]["timing"]["total"], 9)


def crops(**changes):
    """The audio of 1000 crops of two samples before and after the draw, and all that was drawn."""
    training = tiny.config().train_autoencoder
    training.update(changes)
    audio = jax.random.normal(jax.random.key(0), (1000, 2, 2))
    drawn = draw_autoencoder(jax.random.key(1), jnp.int32(0), {"audio": audio}, training=training)
    return np.asarray(audio), np.asarray(drawn["audio"]), drawn


def test_by_default_audio_is_not_changed():
    before, after, drawn = crops()
    np.testing.assert_array_equal(after, before)
    assert drawn["mask_key"].shape == (1000,)


def test_the_sign_of_a_share_of_the_crops_is_flipped_in_both_channels():
    before, after, _ = crops(polarity_flip=0.25)
    flipped = (after == -before).all(axis=(1, 2))
    np.testing.assert_array_equal(after[~flipped], before[~flipped])
    assert 0.2 < flipped.mean() < 0.3


def test_each_crop_gets_its_own_gain_of_the_range():
    before, after, drawn = crops(gain_db=(-12.0, 3.0))
    decibels = 20 * np.log10(after / before)
    np.testing.assert_allclose(
        decibels, np.broadcast_to(decibels[:, :1, :1], after.shape), atol=1e-3
    )
    each = decibels[:, 0, 0]
    assert stats.kstest(each, stats.uniform(-12, 15).cdf).pvalue > 1e-3
    keys = jax.random.key_data(crops()[2]["mask_key"])  # the other random numbers stay
    np.testing.assert_array_equal(jax.random.key_data(drawn["mask_key"]), keys)


def test_channels_are_swapped_but_where_the_text_names_a_side():
    before, after, _ = crops(channel_swap=0.5)
    swapped = (after == before[..., ::-1]).all(axis=(1, 2))
    np.testing.assert_array_equal(after[~swapped], before[~swapped])
    assert 0.4 < swapped.mean() < 0.6
    training = tiny.config().train_diffusion
    training.update(channel_swap=1.0, polarity_flip=1.0)
    rng = np.random.default_rng(0)
    names = ("audio", "before", "after")
    batch = {name: rng.integers(-32767, 32768, (2, 4, 2)).astype(np.int16) for name in names}
    captions = ["a drum to the left", "a drum"]
    text = Mock(
        spec=TextEncoder,
        trainable=False,
        embed=lambda said: (np.zeros((2, 1, 1)), np.zeros(2, int)),
    )
    text.max_length, text.tokenizer = 9, Mock()
    config = tiny.config()
    config.unet.conditioning = ()
    inputs = diffusion_inputs(batch | {"caption": captions}, config, text)
    assert inputs["sided"].tolist() == [True, False]
    found = vary_audio(jax.random.key(0), as_float(inputs), training)
    for name in names:
        given = -batch[name] / np.float32(32767)
        np.testing.assert_allclose(found[name][0], given[0], rtol=1e-6)
        np.testing.assert_allclose(found[name][1], given[1, :, ::-1], rtol=1e-6)


def test_16_bit_audio_is_trained_on_as_float():
    rng = np.random.default_rng(0)
    pcm = rng.integers(-32767, 32768, (3, 8, 2)).astype(np.int16)
    training = tiny.config().train_autoencoder
    draw = lambda audio: draw_autoencoder(
        jax.random.key(1), jnp.int32(0), {"audio": audio}, training=training
    )["audio"]
    np.testing.assert_allclose(draw(jnp.asarray(pcm)), draw(pcm / np.float32(32767)), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        (dict(polarity_flip=1.5), "polarity_flip is a share"),
        (dict(decay_share=-0.5), "decay_share is a share"),
        (dict(gain_db=(3.0, -3.0)), "gain_db is a smallest and a largest gain"),
        (dict(gain_db=(-3.0,)), "gain_db is a smallest and a largest gain"),
    ],
)
def test_impossible_changes_of_the_audio_are_refused(changes, refused):
    config = tiny.config()
    config.train_autoencoder.update(changes)
    with pytest.raises(Refusal, match=refused):
        check_autoencoder_training(config)
