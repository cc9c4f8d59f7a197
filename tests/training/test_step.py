"""The training step, on a linear model whose gradients are known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import quickstart
from jen1_jax.keys import named_key
from jen1_jax.models.metrics import read_metrics
from jen1_jax.sharding import make_mesh
from jen1_jax.training.log import Log
from jen1_jax.training.optimizer import adamw
from jen1_jax.training.step import NORMS, Trainable, init_state, make_step, module_norms
from tests import tiny


def linear(weights=None, optimizer=None) -> Trainable:
    """Two tasks with a squared error; example i belongs to task i % 2 and has i + 1 elements."""

    def losses(params, batch, frozen):
        error = jnp.square(batch["x"] @ params["model"]["w"] - batch["y"]).sum(-1)
        return {"even": error, "odd": error}

    def counts(batch):
        odd, count = batch["slot"] % 2 == 1, batch["slot"] + 1.0
        return {"even": count * ~odd, "odd": count * odd}

    return Trainable(
        init=lambda key: {"w": jax.random.normal(key, (3, 2))},
        losses=losses,
        counts=counts,
        weights=weights or {"even": 1.0, "odd": 1.0},
        optimizer=optimizer or optax.sgd(0.01),
    )


def batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((size, 3)).astype(np.float32),
        "y": rng.standard_normal((size, 2)).astype(np.float32),
        "slot": np.arange(size),
    }


def run(trainable, batches, **options):
    trainables = {"model": trainable}
    state = init_state(trainables, jax.random.key(0))
    options = {"ema_decay": 0.9} | options
    step = jax.jit(make_step(trainables, lambda key, step, batch: batch, **options))
    metrics = []
    for item in batches:
        state, values = step(state, item)
        metrics.append({name: float(value) for name, value in values.items()})
    return state, metrics


def test_loss_is_the_sum_of_each_tasks_mean_over_its_own_elements():
    data = batch()
    _, (metrics,) = run(linear(), [data])
    w = np.asarray(init_state({"model": linear()}, jax.random.key(0)).params["model"]["w"])
    error = np.square(data["x"] @ w - data["y"]).sum(-1)
    count = data["slot"] + 1
    means = [(error * count)[n::2].sum() / count[n::2].sum() for n in (0, 1)]
    np.testing.assert_allclose([metrics["loss/even"], metrics["loss/odd"]], means, rtol=1e-5)
    assert metrics["loss"] == pytest.approx(sum(means), rel=1e-5)


def test_a_batch_without_a_task_does_not_change_the_logged_loss_of_the_task(tmp_path):
    trainables = {"model": linear()}
    state = init_state(trainables, jax.random.key(0))
    step = jax.jit(make_step(trainables, lambda key, step, batch: batch, ema_decay=0.9))
    _, both = step(state, batch())
    _, even = step(state, {name: rows[:1] for name, rows in batch().items()})
    assert np.isnan(even["loss/odd"]) and float(even["loss"]) == float(even["loss/even"])
    log = Log(
        "model",
        tmp_path,
        0,
        mesh=make_mesh(tiny.config()),
        training=tiny.config().train_diffusion,
        schedule=lambda step: 0.0,
        audio_seconds=1.0,
        progress=lambda text: None,
    )
    for metrics in (both, even):
        log.add(metrics, np.arange(8))
    log.write(2)
    log.close()
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert record["loss/odd"] == float(both["loss/odd"]) and record["skipped"] == 0
    mean = (float(both["loss/even"]) + float(even["loss/even"])) / 2
    assert record["loss/even"] == pytest.approx(mean)


def test_parameters_that_are_gathered_once_are_read_in_bfloat16_and_updated_in_float32():
    rounded = linear()
    rounded = dataclasses.replace(
        rounded,
        losses=lambda params, *rest: linear().losses(
            jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params), *rest
        ),
    )
    (state, metrics), (expected, same) = (
        run(linear(), [batch()], gather_once=("^w$",)),
        run(rounded, [batch()]),
    )
    assert metrics[0]["loss"] == same[0]["loss"] != run(linear(), [batch()])[1][0]["loss"]
    ours, theirs = state.params["model"]["w"], expected.params["model"]["w"]
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, atol=0.01 * 2**-8 * metrics[0]["grad_norm"])


@pytest.mark.parametrize("microbatches", [2, 4, 8])
def test_microbatches_of_different_counts_do_not_change_the_result(microbatches):
    whole, metrics = run(linear(), [batch()])
    cut, metrics_cut = run(linear(), [batch()], microbatches=microbatches)
    np.testing.assert_allclose(cut.params["model"]["w"], whole.params["model"]["w"], rtol=1e-6)
    assert metrics_cut[0] == pytest.approx(metrics[0], rel=1e-5)


@pytest.mark.parametrize("not_finite", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_the_step_and_nothing_else(not_finite):
    bad = batch(seed=1)
    bad["x"][3, 1] = not_finite
    trainable = linear(optimizer=optax.adamw(0.01))
    before, _ = run(trainable, [batch()])
    after, metrics = run(trainable, [batch(), bad])
    assert metrics[1]["skipped"] == 1 and metrics[0]["skipped"] == 0
    assert int(after.step) == 2 and int(after.updates) == 1
    same = jax.tree.map(np.array_equal, after.replace(step=before.step), before)
    assert all(jax.tree.leaves(same))
    continued, _ = run(trainable, [batch(), bad, batch(seed=2)])
    clean, _ = run(trainable, [batch(), batch(seed=2)])
    np.testing.assert_array_equal(continued.params["model"]["w"], clean.params["model"]["w"])


def test_a_step_whose_gradient_explodes_is_skipped_until_large_ones_are_usual():
    """After `NORMS` equal steps: at a jump of 5 the mean has grown to 2, and 9 > 5 x 1.04^n."""
    usual = linear(optimizer=optax.set_to_zero())
    large = {"x": batch()["x"], "y": batch()["y"], "slot": batch()["slot"]}
    large["x"], large["y"] = 3 * large["x"], 3 * large["y"]  # gradients 9 times as large
    steps = [batch()] * NORMS + [large] * 40
    state, metrics = run(usual, steps, largest_jump=5.0)
    exploded = [values["exploded"] for values in metrics]
    rises = math.ceil(math.log(9 / 5) / math.log(1 + 4 / (NORMS + 1)))
    assert exploded == [0] * NORMS + [1] * rises + [0] * (40 - rises)
    assert exploded == [values["skipped"] for values in metrics]
    assert int(state.updates) == NORMS + 40 - rises and int(state.step) == NORMS + 40
    _, without = run(usual, steps, largest_jump=0.0)
    assert not any(values["skipped"] for values in without)


def test_a_step_that_exploded_changes_the_step_and_the_mean_of_the_norms_alone():
    trainable = linear(optimizer=optax.adamw(0.0))
    large = batch() | {"y": 100 * batch()["y"]}
    before, _ = run(trainable, [batch()] * NORMS, largest_jump=2.0)
    after, metrics = run(trainable, [batch()] * NORMS + [large], largest_jump=2.0)
    assert metrics[-1]["exploded"] == 1 and after.norm > before.norm
    same = jax.tree.map(np.array_equal, after.replace(step=before.step, norm=before.norm), before)
    assert all(jax.tree.leaves(same))


def test_the_norms_of_the_modules_are_parts_of_the_whole_norm():
    gradient = {"unet": {"stem": {"w": jnp.full(4, 3.0)}, "output": {"w": jnp.full(9, 2.0)}}}
    norms = module_norms(gradient)
    assert norms == {"grad_norm/unet/stem": 6.0, "grad_norm/unet/output": 6.0}


def test_the_decay_of_the_ema_rises_to_its_configured_value():
    state, _ = run(linear(), [batch(seed=n) for n in range(3)], ema_decay=0.9)
    trainables = {"model": linear()}
    step = jax.jit(make_step(trainables, lambda key, step, batch: batch, ema_decay=0.9))
    expected = current = init_state(trainables, jax.random.key(0))
    ema = np.asarray(expected.params["model"]["w"])
    for n in range(3):
        current, _ = step(current, batch(seed=n))
        decay = min(0.9, (1 + n) / (10 + n))
        ema = decay * ema + (1 - decay) * np.asarray(current.params["model"]["w"])
    np.testing.assert_allclose(state.ema["model"]["w"], ema, rtol=1e-5)


def follower() -> Trainable:
    """Like an adversary: its loss depends on the first trainable and changes only its own value."""
    return Trainable(
        init=lambda key: {"v": jnp.ones(())},
        losses=lambda params, batch, frozen: {
            "gap": jnp.tile((params["second"]["v"] - params["model"]["w"].sum()) ** 2, 8)
        },
        counts=lambda batch: {"gap": jnp.ones(8)},
        weights={"gap": 1.0},
        optimizer=optax.sgd(0.5),
    )


def step_both(batch):
    trainables = {"model": linear(), "second": follower()}
    state = init_state(trainables, jax.random.key(0))
    step = jax.jit(make_step(trainables, lambda key, step, batch: batch, ema_decay=0.9))
    return state, *step(state, batch)


def test_all_trainables_are_updated_in_a_step_each_by_its_own_loss():
    before, after, metrics = step_both(batch())
    alone, (metrics_alone,) = run(linear(), [batch()])
    np.testing.assert_array_equal(after.params["model"]["w"], alone.params["model"]["w"])
    np.testing.assert_allclose(
        after.params["second"]["v"], before.params["model"]["w"].sum(), rtol=1e-5
    )
    assert float(metrics["loss"]) == metrics_alone["loss"] and float(metrics["loss/gap"]) > 0


def test_a_step_that_one_trainable_has_to_skip_is_skipped_by_both():
    bad = batch()
    bad["y"][0] = np.nan  # only the first trainable reads it
    before, after, metrics = step_both(bad)
    assert float(metrics["skipped"]) == 1 and int(after.step) == 1
    same = jax.tree.map(np.array_equal, after.replace(step=before.step), before)
    assert all(jax.tree.leaves(same))


def test_the_ema_of_constant_parameters_is_constant_bit_for_bit():
    constant = linear(optimizer=optax.set_to_zero())
    state, _ = run(constant, [batch(seed=n) for n in range(5)])
    initial = init_state({"model": constant}, jax.random.key(0))
    np.testing.assert_array_equal(state.ema["model"]["w"], initial.params["model"]["w"])


def test_named_keys_differ_by_name_and_are_reproducible():
    key = jax.random.key(0)
    draw = lambda name: float(jax.random.uniform(named_key(key, name)))
    assert len({draw(name) for name in ("noise", "times", "tasks")}) == 3
    assert draw("noise") == draw("noise")


@pytest.mark.parametrize("size", [0.1, 30.0])
def test_gradients_are_clipped_by_their_global_norm(size):
    config = quickstart.get_config().train_diffusion
    gradient = {"w": size * batch()["x"], "b": size * batch(seed=1)["y"]}
    clipped, _ = optax.clip_by_global_norm(config.clip).update(gradient, optax.EmptyState())
    optimizer, _ = adamw(config)

    def moments(slopes):
        _, state = optimizer.update(slopes, optimizer.init(gradient), gradient)
        return optax.tree.get(state, "mu")

    assert (optax.global_norm(gradient) > config.clip) == (size == 30.0)
    equal = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(equal, moments(gradient), moments(clipped))
