"""Schedules, objectives, guidance and samplers in PyTorch equal ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict

from configs.jen1 import get_config
from jen1_jax.config import to_plain
from jen1_jax.diffusion import guidance, objectives, samplers, schedules
from jen1_numpy.errors import Refusal
from jen1_torch import diffusion
from jen1_torch import samplers as torch_samplers
from jen1_torch import schedules as torch_schedules
from tests.export.testing import distance

LIMIT = 1e-5
TIMES = np.float32([0.0, 0.001, 0.0317, 0.5, 0.75, 0.999, 1.0])


def settings(**changes):
    """The section `diffusion` of both frameworks."""
    config = get_config().diffusion.copy_and_resolve_references().unlock()
    config.update({"objective": "v"} | changes)
    return config, to_plain(config)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def both(*arrays):
    return tuple(map(jnp.asarray, arrays)), tuple(map(torch.tensor, arrays))


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_schedules_equal(name, terminal):
    ours, theirs = settings(schedule=name, zero_terminal_snr=terminal)
    expected = schedules.make_schedule(ours).log_snr(jnp.asarray(TIMES))
    result = torch_schedules.make_schedule(theirs).log_snr(torch.tensor(TIMES))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result.isfinite(), finite)
    assert finite[:-1].all()
    assert distance(result[torch.tensor(finite)], expected[finite]) < LIMIT


@pytest.mark.parametrize("steps, strength", [(1, 1.0), (7, 1.0), (4, 0.3), (3, 1e-4)])
@pytest.mark.parametrize("times", sorted(schedules.TIMES))
def test_the_levels_of_the_steps_equal(times, steps, strength):
    changes = dict(times=times, times_mean=0.4, times_std=1.3, reference_frames=64)
    ours, theirs = settings(schedule="cosine", **changes)
    expected = schedules.sample_log_snrs(
        schedules.make_schedule(ours), steps, strength, schedules.earliest_time(ours)
    )
    expected = schedules.shift(expected, 96, ours)
    result = torch_schedules.sample_log_snrs(
        torch_schedules.make_schedule(theirs),
        steps,
        strength,
        torch_schedules.earliest_time(theirs),
    )
    result = torch_schedules.shift(result, 96, theirs)
    assert len(result) == steps + 1 and result[-1] == np.inf == expected[-1]
    assert distance(result[:-1], expected[:-1]) < LIMIT


@pytest.mark.parametrize("name", sorted(objectives.OBJECTIVES))
def test_objectives_equal_and_invert(name):
    clean, noise, log_snr = random(3, 5, 2), random(3, 5, 2, seed=1), np.float32([-8, 0.5, 9])
    ours, theirs = both(clean, noise, log_snr)
    noisy = objectives.corrupt(*ours)
    assert distance(diffusion.corrupt(*theirs), noisy) < LIMIT
    target = objectives.OBJECTIVES[name].target(*ours)
    objective = diffusion.OBJECTIVES[name]
    assert distance(objective.target(*theirs), target) < LIMIT
    (prediction, noisy, level), inputs = both(random(3, 5, 2, seed=2), np.array(noisy), log_snr)
    expected = objectives.OBJECTIVES[name].clean(prediction, noisy, level)
    assert distance(objective.clean(*inputs), expected) < LIMIT


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rescale": 0.7},
        {"parallel": 0.2},
        {"limit": 0.5},
        {"rescale": 0.7, "parallel": 0.0, "limit": 0.5},
    ],
    ids=str,
)
def test_guidance_equals(options):
    """Also with frames that do not count, and in an example without any that do."""
    counts = np.ones((3, 6, 1), np.float32)
    counts[1, :4], counts[2] = 0, 0
    ours, theirs = both(random(3, 6, 2), random(3, 6, 2, seed=1), counts)
    expected = guidance.guide(*ours[:2], 3.0, ours[2], **options)
    assert distance(diffusion.guide(*theirs[:2], 3.0, theirs[2], **options), expected) < LIMIT


@pytest.mark.parametrize("first", [-np.inf, -9.0])
@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_samplers_equal(name, first):
    """With a linear network, and with noise from our keys where a sampler draws some."""
    noise, weights = random(2, 5, 3), random(3, 3, seed=1)
    log_snrs = np.float32([first, -4.0, -4.0, -0.5, 2.0, 7.0, np.inf])
    keys = jax.random.split(jax.random.key(0), len(noise))

    def answer(noisy, level, tanh):
        return 0.3 * noisy @ weights + tanh(level / 4)

    expected = samplers.sample(
        samplers.SAMPLERS[name],
        lambda noisy, log_snr: answer(noisy, log_snr[:, None, None], jnp.tanh),
        jnp.asarray(noise),
        jnp.asarray(log_snrs),
        keys,
    )
    steps = iter(range(len(log_snrs)))

    def fresh():
        step = next(steps)
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, step), noise.shape[1:])
        return torch.tensor(np.array(jax.vmap(draw)(keys)))

    weights = torch.tensor(weights)
    result = torch_samplers.sample(
        torch_samplers.SAMPLERS[name],
        lambda noisy, log_snr: answer(noisy, log_snr, torch.tanh),
        torch.tensor(noise),
        torch.tensor(log_snrs),
        fresh,
    )
    assert distance(result, expected) < LIMIT


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "quadratic"},
        {"num_steps": 1},
        {"objective": "epsilon", "zero_terminal_snr": True},
        {"sampler": "plms"},
        {"eta": 1.5},
        {"sampler": "heun", "eta": 0.5},
    ],
    ids=str,
)
def test_settings_are_refused_alike(changes):
    config, plain = settings(**changes)

    def message(refusal, schedule, sampler, section):
        with pytest.raises(refusal) as caught:
            schedule(section)
            sampler(section)
        return str(caught.value)

    ours = message(Refusal, schedules.make_schedule, samplers.make_sampler, ConfigDict(config))
    theirs = message(Refusal, torch_schedules.make_schedule, torch_samplers.make_sampler, plain)
    assert theirs == ours
