import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from configs.jen1 import get_config
from jen1_jax.diffusion.schedules import (
    SCHEDULES,
    Beta,
    Cosine,
    StraightPath,
    draw_times,
    earliest_time,
    make_schedule,
    sample_log_snrs,
    shift,
)
from jen1_numpy.errors import Refusal


def config(**changes) -> ConfigDict:
    return ConfigDict(get_config().diffusion.to_dict() | changes)


@pytest.fixture(params=sorted(SCHEDULES))
def schedule(request):
    return make_schedule(config(schedule=request.param))


BETAS = {
    "linear": lambda u: 0.0015 + u * 0.018,
    "scaled_linear": lambda u: (0.0015**0.5 * (1 - u) + 0.0195**0.5 * u) ** 2,
}


@pytest.mark.parametrize("name", BETAS)
def test_a_discrete_step_keeps_its_log_snr(name):
    schedule, expected, alpha_squared = make_schedule(config(schedule=name)), [], 1.0
    for i in range(1000):
        alpha_squared *= 1 - BETAS[name](i / 999)
        expected.append(np.log(alpha_squared / (1 - alpha_squared)))
    np.testing.assert_allclose(
        schedule.log_snr(jnp.arange(1000) / 999), expected, rtol=1e-5, atol=1e-5
    )


def test_between_two_steps_log_snr_is_linear():
    schedule = Beta(5, 0.1, 0.4)
    here, between, there = schedule.log_snr(jnp.array([0.25, 0.3125, 0.5]))
    np.testing.assert_allclose(between, 0.75 * here + 0.25 * there, rtol=1e-6)


def test_cosine_turns_at_constant_speed_between_its_ends():
    log_snr = np.asarray(Cosine().log_snr(jnp.linspace(0, 1, 11)))
    angle = np.arctan2(np.sqrt(1 / (1 + np.exp(log_snr))), np.sqrt(1 / (1 + np.exp(-log_snr))))
    np.testing.assert_allclose(np.diff(angle), np.mean(np.diff(angle)), rtol=1e-4)
    np.testing.assert_allclose(log_snr[[0, 5, 10]], [10, 0, -10], atol=1e-4)


def test_log_snr_falls_strictly_and_stays_finite(schedule):
    log_snr = np.asarray(schedule.log_snr(jnp.linspace(0, 1, 3001)))
    assert np.isfinite(log_snr).all() and (np.diff(log_snr) < 0).all()
    assert log_snr[0] > 6 and log_snr[-1] < -8


def test_time_outside_is_taken_as_the_nearest_end(schedule):
    inside, outside = (
        schedule.log_snr(jnp.array([0.0, 1.0])),
        schedule.log_snr(jnp.array([-0.5, 1.5])),
    )
    np.testing.assert_array_equal(inside, outside)


def test_zero_terminal_snr_ends_in_noise_alone_and_begins_as_without(schedule, request):
    name = request.node.callspec.params["schedule"]
    zero = make_schedule(config(schedule=name, zero_terminal_snr=True, objective="v"))
    log_snr = np.asarray(zero.log_snr(jnp.linspace(0, 1, 3001)))
    assert (
        log_snr[-1] == -np.inf and np.isfinite(log_snr[:-1]).all() and (np.diff(log_snr) < 0).all()
    )
    np.testing.assert_allclose(log_snr[0], schedule.log_snr(jnp.zeros(())), rtol=1e-4)
    with pytest.raises(Refusal, match=r"epsilon.*zero_terminal_snr"):
        make_schedule(config(schedule=name, zero_terminal_snr=True, objective="epsilon"))


def test_rescaled_betas_equal_the_published_algorithm():
    betas = np.linspace(0.0015, 0.0195, 1000)
    root = np.sqrt(np.cumprod(1 - betas))  # Lin et al. 2023, algorithm 1, in float64
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    log_snr = make_schedule(config(zero_terminal_snr=True, objective="v")).log_snr(
        jnp.arange(999) / 999
    )
    np.testing.assert_allclose(
        log_snr, np.log(root[:-1] ** 2 / (1 - root[:-1] ** 2)), rtol=1e-4, atol=2e-4
    )


def test_rectified_flow_goes_along_a_straight_line():
    log_snr = np.asarray(StraightPath(-np.inf).log_snr(jnp.linspace(0, 1, 11)), np.float64)
    share = 1 / (1 + np.exp(log_snr / 2))
    np.testing.assert_allclose(np.diff(share), np.mean(np.diff(share)), rtol=1e-4)


def test_unknown_schedule_is_refused_with_the_known_ones():
    with pytest.raises(Refusal, match=r"'sigmoid'.*linear, scaled_linear, cosine, rectified_flow"):
        make_schedule(config(schedule="sigmoid"))


@pytest.mark.parametrize(
    "changes", [dict(num_steps=1), dict(beta_start=0.0), dict(beta_end=1.0), dict(beta_end=0.001)]
)
def test_a_schedule_that_does_not_fall_is_refused(changes):
    with pytest.raises(Refusal, match="beta"):
        make_schedule(config(**changes))


def test_epsilon_is_refused_where_no_signal_is_left():
    with pytest.raises(Refusal, match="epsilon"):
        make_schedule(config(beta_end=0.5))
    make_schedule(config(beta_end=0.5, objective="v"))


def test_a_sampler_goes_from_noise_to_clean(schedule):
    log_snrs = np.asarray(sample_log_snrs(schedule, 8))
    ends = np.asarray(schedule.log_snr(jnp.array([1.0, 0.0])))
    assert len(log_snrs) == 9 and (np.diff(log_snrs) > 0).all()
    np.testing.assert_array_equal(log_snrs[[0, -2, -1]], [*ends, np.inf])
    np.testing.assert_array_equal(sample_log_snrs(schedule, 1), [ends[0], np.inf])


def test_sampling_ends_where_training_does():
    """Without the noise that training hardly has, and with all of it for evenly drawn times."""
    even, middle = config(), config(times="logit_normal", times_mean=1.5, times_std=1.5)
    drawn = np.concatenate([draw_times(jax.random.key(key), 1000, middle) for key in range(4)])
    earliest = float(earliest_time(middle))
    assert np.mean(drawn < earliest) == pytest.approx(1e-3, abs=5e-4)
    assert float(earliest_time(even)) < 2e-3 < 0.03 < earliest
    schedule = make_schedule(middle)
    log_snrs = np.asarray(sample_log_snrs(schedule, 8, 1.0, earliest))
    assert log_snrs[-1] == np.inf
    assert log_snrs[-2] == pytest.approx(float(schedule.log_snr(jnp.float32(earliest))), rel=1e-5)
    started_later = np.asarray(sample_log_snrs(schedule, 2, earliest / 2, earliest))
    assert np.isfinite(started_later[:2]).all() and started_later[0] == started_later[1]


@pytest.fixture(scope="module")
def times():
    """Many batches of six times."""
    return np.asarray(
        jax.jit(jax.vmap(lambda key: draw_times(key, 6, config())))(
            jax.random.split(jax.random.key(0), 2000)
        )
    )


def test_every_batch_covers_time_evenly(times):
    assert (times >= 0).all() and (times < 1).all()
    np.testing.assert_allclose(np.diff(np.sort(times, axis=1), axis=1), 1 / 6, atol=1e-6)


def test_each_examples_time_is_uniform_and_free_of_its_position(times):
    for example in times.T:
        assert stats.kstest(example, "uniform").pvalue > 1e-3


def test_logit_normal_times_have_that_distribution():
    settings = config(times="logit_normal", times_mean=0.5, times_std=0.8)
    times = np.asarray(
        jax.jit(jax.vmap(lambda key: draw_times(key, 6, settings)))(
            jax.random.split(jax.random.key(1), 2000)
        )
    )
    for example in times.T:
        assert stats.kstest(np.log(example / (1 - example)), stats.norm(0.5, 0.8).cdf).pvalue > 1e-3


def test_unknown_times_are_refused_with_the_known_ones():
    with pytest.raises(Refusal, match=r"'cosine'.*uniform, logit_normal"):
        draw_times(jax.random.key(0), 2, config(times="cosine"))


def test_the_shift_hides_the_mean_of_all_frames_equally_at_every_length():
    """The mean of n frames under noise has n times the SNR of one frame."""
    settings, log_snr = config(reference_frames=100), jnp.array([-3.0, 0.0, 2.0])
    for frames in (10, 100, 1600):
        found = shift(log_snr, jnp.full(3, frames), settings)
        np.testing.assert_allclose(frames * np.exp(found), 100 * np.exp(log_snr), rtol=1e-5)
    np.testing.assert_array_equal(shift(log_snr, 100, settings), log_snr)
    np.testing.assert_array_equal(shift(log_snr, 7, config()), log_snr)  # off by default
    assert np.isfinite(shift(log_snr, jnp.zeros(3, int), settings)).all()


def test_in_rectified_flow_the_shift_is_that_of_times_by_esser():
    time, alpha = np.linspace(0.05, 0.95, 7), (1600 / 100) ** 0.5
    log_snr = shift(2 * jnp.log((1 - time) / time), 1600, config(reference_frames=100))
    np.testing.assert_allclose(
        1 / (1 + np.exp(log_snr / 2)), alpha * time / (1 + (alpha - 1) * time), rtol=1e-5
    )
