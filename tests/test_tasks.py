"""The masks and modes of the tasks, their shares of a batch, and their weights in the loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from configs.jen1 import get_config
from jen1_jax.tasks import TASKS, Task, assign, draw_tasks, loss_mask, weights
from jen1_numpy.errors import Refusal

FRAMES = 40
NAMES = list(TASKS)


def config(**changes) -> ConfigDict:
    return ConfigDict(get_config().tasks.to_dict() | changes)


@pytest.fixture(scope="module")
def drawn():
    """Many examples of each task as (valid_frames [b], mask [b, frames], causal [b])."""
    valid = jnp.tile(jnp.arange(FRAMES + 1), 60)
    keys = jax.random.split(jax.random.key(0), len(valid))

    def examples(task):
        draw_one = lambda key, valid: task.draw(key, valid, FRAMES, config())
        mask, causal = jax.jit(jax.vmap(draw_one))(keys, valid)
        return np.asarray(valid), np.asarray(mask), np.asarray(causal)

    return {name: examples(task) for name, task in TASKS.items()}


@pytest.fixture(scope="module")
def mixed():
    """A function of key, step and length of the first example that draws a batch of twelve."""
    compiled = jax.jit(lambda key, step, valid: draw_tasks(key, valid, FRAMES, step, config()))
    lengths = lambda first: jnp.full(12, FRAMES).at[0].set(first)
    return lambda key, step, first=FRAMES: compiled(key, step, lengths(first))


def counts(batch: int, steps: np.ndarray) -> np.ndarray:
    """The number of examples of each task in a batch, at each step."""
    tasks = jax.jit(jax.vmap(lambda step: assign(batch, step, config().ratios)))(steps)
    return np.sum(np.asarray(tasks)[..., None] == np.arange(3), axis=1)


def spans(row: np.ndarray) -> int:
    """The number of runs of ones."""
    return int((np.diff(row, prepend=0) == 1).sum())


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_zero_or_one_and_zero_in_the_padding(name, drawn):
    valid, mask, _ = drawn[name]
    assert np.isin(mask, (0, 1)).all()
    assert not mask[np.arange(FRAMES) >= valid[:, None]].any()


def test_text_to_music_gives_nothing_and_has_both_modes(drawn):
    _, mask, causal = drawn["text_to_music"]
    assert not mask.any()
    assert abs(causal.mean() - 0.5) < 0.05  # 2460 draws: five standard deviations


def test_a_share_of_the_text_to_music_examples_is_causal():
    keys = jax.random.split(jax.random.key(0), 1000)
    for share in (0.0, 0.1, 1.0):
        draw = partial(
            TASKS["text_to_music"].draw, frames=4, config=config(text_to_music_causal=share)
        )
        _, causal = jax.vmap(lambda key, draw=draw: draw(key, jnp.int32(4)))(keys)
        assert abs(np.mean(causal) - share) < 0.05 and (share == 0.1 or (causal == share).all())


def test_the_recipe_of_stable_audio_can_be_configured():
    """80 % text-to-music, 10 % inpainting, 10 % causal, and every example counts the same."""
    shares = {"text_to_music": 0.8, "inpainting": 0.1, "continuation": 0.1}
    settings = config(ratios=shares, weights=shares)
    assert np.bincount(assign(100, 7, settings.ratios)).tolist() == [80, 10, 10]
    assert weights(settings) == shares


@pytest.mark.parametrize("name", ["inpainting", "continuation"])
def test_the_generated_share_of_the_valid_frames_is_within_its_bounds_and_reaches_them(name, drawn):
    valid, mask, _ = drawn[name]
    generated = valid - mask.sum(axis=1)
    long = valid >= 2  # a single frame is generated, though this share is not within the bounds
    assert (generated[long] >= 0.2 * valid[long] - 1e-6).all()
    assert (generated[long] <= 0.8 * valid[long] + 1e-6).all()
    assert (generated[valid == 1] == 1).all() and (generated[valid == 0] == 0).all()
    at_40 = generated[valid == 40]
    assert at_40.min() < 12 and at_40.max() > 28 and 18 < at_40.mean() < 22


def test_inpainting_generates_one_to_three_spans_and_is_not_causal(drawn):
    valid, mask, causal = drawn["inpainting"]
    holes = (mask == 0) & (np.arange(FRAMES) < valid[:, None])
    counts = np.array([spans(row) for row in holes.astype(int)])
    assert set(counts[valid >= 10]) == {1, 2, 3}
    shares = np.bincount(counts[valid >= 30], minlength=4)[1:] / (valid >= 30).sum()
    np.testing.assert_allclose(shares, 1 / 3, atol=0.09)  # 660 draws: five standard deviations
    assert not causal.any()


def test_inpainting_gives_each_frame_in_some_examples_and_generates_it_in_others(drawn):
    valid, mask, _ = drawn["inpainting"]
    given = mask[valid == FRAMES]
    assert given.max(axis=0).all() and not given.min(axis=0).any()


def test_continuation_gives_the_beginning_and_is_causal(drawn):
    valid, mask, causal = drawn["continuation"]
    given = mask.sum(axis=1)
    np.testing.assert_array_equal(mask, np.arange(FRAMES) < given[:, None])
    assert (given[valid >= 2] >= 1).all() and causal.all()


def test_inpainting_is_uniform_in_the_number_of_spans_and_in_the_share_and_symmetric_in_time():
    count, bounds = 4000, (8, 32)  # a fifth and four fifths of the frames
    draw_one = lambda key: TASKS["inpainting"].draw(key, jnp.int32(FRAMES), FRAMES, config())
    mask, _ = jax.jit(jax.vmap(draw_one))(jax.random.split(jax.random.key(1), count))
    hole = 1 - np.asarray(mask)
    found = np.bincount([spans(row) for row in hole], minlength=4)
    np.testing.assert_allclose(found / count, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.03)
    totals = np.bincount(hole.sum(1).astype(int), minlength=FRAMES)
    assert totals[: bounds[0]].sum() == totals[bounds[1] + 1 :].sum() == 0
    assert stats.chisquare(totals[bounds[0] : bounds[1] + 1]).pvalue > 1e-3
    rate = hole.mean(0)
    np.testing.assert_allclose(rate, rate[::-1], atol=0.03)
    assert rate[0] > 0.1  # the first frame is sometimes generated
    assert rate.max() < 0.7  # frames in the middle are sometimes given


def test_every_example_of_a_batch_has_its_own_mask(mixed):
    batches = [mixed(jax.random.key(0), step) for step in range(5)]
    for name in ("inpainting", "continuation"):
        masks = [batch.mask[batch.task == NAMES.index(name)] for batch in batches]
        distinct = [len(np.unique(mask, axis=0)) for mask in masks]
        assert np.mean(distinct) > 3, distinct  # of 4; two of 25 lengths may be the same


def test_text_to_music_mixes_both_modes_in_a_batch(mixed):
    batches = [mixed(jax.random.key(0), step) for step in range(5)]
    modes = [batch.causal[batch.task == 0] for batch in batches]
    assert any(0 < np.mean(mode) < 1 for mode in modes)


def test_a_draw_is_a_function_of_key_step_and_example(mixed):
    batch = mixed(jax.random.key(0), 3)
    jax.tree.map(np.testing.assert_array_equal, batch, mixed(jax.random.key(0), 3))
    assert np.any(batch.mask != mixed(jax.random.key(1), 3).mask)
    assert np.any(batch.mask != mixed(jax.random.key(0), 4).mask)
    with_shorter_first = mixed(jax.random.key(0), 3, first=20)
    np.testing.assert_array_equal(with_shorter_first.mask[1:], batch.mask[1:])


def test_the_masks_and_modes_of_a_batch_are_those_of_its_tasks(mixed):
    batch = mixed(jax.random.key(0), 0)
    mask, task = np.asarray(batch.mask[..., 0]), np.asarray(batch.task)
    assert not mask[task == NAMES.index("text_to_music")].any()
    assert not np.asarray(batch.causal)[task == NAMES.index("inpainting")].any()
    assert np.asarray(batch.causal)[task == NAMES.index("continuation")].all()
    assert (mask[task == NAMES.index("continuation"), 0] == 1).all()


@pytest.mark.parametrize("batch", [3, 96])
def test_a_batch_divisible_by_three_has_exact_thirds_at_every_step(batch):
    np.testing.assert_array_equal(counts(batch, np.arange(50)), np.full((50, 3), batch // 3))


@pytest.mark.parametrize("batch", [1, 8])
def test_in_other_batches_each_task_gets_its_share_over_the_steps(batch):
    tasks = counts(batch, np.arange(10**6, 10**6 + 300))
    assert (tasks >= batch // 3).all() and (tasks <= batch // 3 + 1).all()
    np.testing.assert_allclose(tasks.sum(axis=0), 100 * batch, atol=4)


def test_each_half_of_a_batch_has_about_the_shares_of_the_whole():
    tasks = np.asarray(assign(24, 0, config().ratios)).reshape(2, 12)
    for half in tasks:
        assert (np.abs(np.bincount(half, minlength=3) - 4) <= 1).all()


def test_ratios_set_the_shares_and_zero_removes_a_task():
    tasks = assign(8, 5, ConfigDict(dict(text_to_music=3.0, inpainting=0.0, continuation=1.0)))
    np.testing.assert_array_equal(np.bincount(tasks, minlength=3), [6, 0, 2])
    only_inpainting = assign(8, 5, ConfigDict(dict(inpainting=2.0)))
    np.testing.assert_array_equal(only_inpainting, np.full(8, NAMES.index("inpainting")))


def test_a_task_that_is_added_to_the_registry_is_drawn(monkeypatch):
    def everything_given(key, valid_frames, frames, config):
        return (jnp.arange(frames) < valid_frames).astype(jnp.float32), jnp.zeros((), bool)

    monkeypatch.setitem(TASKS, "reconstruction", Task("reconstruction", everything_given))
    only_it = config(ratios={"reconstruction": 1.0})
    draw = jax.jit(lambda key, valid: draw_tasks(key, valid, 5, 0, only_it))
    batch = draw(jax.random.key(0), jnp.array([3, 5]))
    np.testing.assert_array_equal(batch.mask[..., 0], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(ratios={"inpaint": 1.0}), r"'inpaint'.*text_to_music, inpainting, continuation"),
        (dict(ratios={"inpainting": 0.0}), "ratios"),
        (dict(ratios={"inpainting": 1.0, "continuation": -0.5}), "ratios"),
        (dict(min_generated=0.9), "min_generated"),
        (dict(max_generated=1.2), "max_generated"),
        (dict(min_generated=0.0), "min_generated"),
        (dict(max_spans=0), "max_spans"),
        (dict(text_to_music_causal=1.5), "text_to_music_causal is a share"),
    ],
)
def test_impossible_settings_are_refused(changes, named):
    with pytest.raises(Refusal, match=named):
        draw_tasks(jax.random.key(0), jnp.array([8]), 8, 0, config(**changes))


def test_the_weight_of_a_task_is_the_configured_one_or_1(monkeypatch):
    configured = weights(config(weights={"text_to_music": 3.0, "inpainting": 0.0}))
    assert configured == {"text_to_music": 3.0, "inpainting": 0.0, "continuation": 1.0}
    monkeypatch.setitem(TASKS, "reconstruction", Task("reconstruction", TASKS["inpainting"].draw))
    assert weights(config())["reconstruction"] == 1.0


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(weights={"inpaint": 1.0}), r"'inpaint'.*text_to_music, inpainting, continuation"),
        (dict(ratios={"inpaint": 1.0}), r"'inpaint'.*text_to_music, inpainting, continuation"),
        (dict(weights={"inpainting": -0.5}), "not negative"),
        (dict(weights={"inpainting": float("nan")}), "finite"),
        (dict(weights={"inpainting": 0.0}, ratios={"inpainting": 1.0}), "is 0 for every task"),
    ],
)
def test_weights_without_a_loss_are_refused(changes, named):
    with pytest.raises(Refusal, match=named):
        weights(config(**changes))


def test_the_loss_counts_all_valid_frames_or_only_the_generated_ones():
    valid, mask = jnp.array([[1.0, 1, 1, 0]])[..., None], jnp.array([[1.0, 0, 1, 0]])[..., None]
    np.testing.assert_array_equal(loss_mask(mask, valid, "all"), [[1, 1, 1, 0]])
    np.testing.assert_array_equal(loss_mask(mask, valid, "generated"), [[0, 1, 0, 0]])
    with pytest.raises(Refusal, match=r"'given'.*all, generated"):
        loss_mask(mask, valid, "given")
