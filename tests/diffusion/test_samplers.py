"""Samplers on data whose exact denoiser is known, so that every error is the sampler's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from benchmarks.samplers import MIXTURE, exact
from configs.jen1 import get_config
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.diffusion.samplers import DDIM, SAMPLERS, make_sampler, sample
from jen1_jax.diffusion.schedules import SCHEDULES, make_schedule, sample_log_snrs
from jen1_numpy.errors import Refusal

GAUSSIAN = ((1.0, 1.5, 0.3),)
POINT = ((1.0, 42.0, 0.0),)


def keys(seed=0, count=2):
    return jax.random.split(jax.random.key(seed), count)


@partial(jax.jit, static_argnames=("data", "trained", "read", "sampler"))
def draw(noise, log_snrs, seed=0, *, data=MIXTURE, trained="epsilon", read=None, sampler="ddim"):
    """Samples of a perfect network, `trained` with one objective and `read` as another one."""
    target, read = OBJECTIVES[trained].target, OBJECTIVES[read or trained]

    def denoise(noisy, log_snr):
        clean, (alpha, sigma) = exact(data)(noisy, log_snr), scales(log_snr[:, None, None])
        noise = jnp.where(sigma > 0, noisy - alpha * clean, 0) / jnp.where(sigma > 0, sigma, 1)
        return read.clean(target(clean, noise, log_snr), noisy, log_snr)

    return sample(SAMPLERS[sampler], denoise, noise, log_snrs, keys(seed))


def distance(samples, data=MIXTURE):
    """Kolmogorov-Smirnov distance between the samples and the mixture."""
    return stats.kstest(
        np.ravel(samples), lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in data)
    ).statistic


@pytest.fixture(scope="module")
def schedules():
    config = get_config().diffusion.to_dict()
    return {name: make_schedule(ConfigDict(config | {"schedule": name})) for name in SCHEDULES}


@pytest.fixture(scope="module")
def noise():
    """Standard Gaussian noise without sampling error: 4000 equal quantiles in random order."""
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    return jnp.asarray(
        np.random.default_rng(0).permutation(quantiles).reshape(2, 500, 4), jnp.float32
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ddim_recovers_the_distribution(name, objective, noise, schedules):
    samples = draw(noise, sample_log_snrs(schedules[name], 200), trained=objective)
    assert distance(samples) < 0.01


@pytest.mark.parametrize("sampler, steps", [("heun", 40), ("dpm_solver", 40)])
def test_second_order_samplers_recover_it_in_fewer_steps(sampler, steps, noise, schedules):
    assert (
        distance(draw(noise, sample_log_snrs(schedules["cosine"], steps), sampler=sampler)) < 0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"epsilon"}))
def test_sampling_may_begin_at_pure_noise(objective, sampler, noise):
    settings = get_config().diffusion.to_dict() | {
        "schedule": "rectified_flow",
        "zero_terminal_snr": True,
        "objective": objective,
    }
    log_snrs = sample_log_snrs(make_schedule(ConfigDict(settings)), 100)
    assert (
        log_snrs[0] == -jnp.inf
        and distance(draw(noise, log_snrs, sampler=sampler, trained=objective)) < 0.03
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ancestral_sampling_has_the_moments(name, objective, noise, schedules):
    samples = np.ravel(
        draw(noise, sample_log_snrs(schedules[name], 400), trained=objective, sampler="ddpm")
    )
    assert distance(samples) < 0.02
    weights, means, stds = np.array(MIXTURE).T
    mean, square = weights @ means, weights @ (means**2 + stds**2)
    # Four standard errors of a sample of 4000.
    assert (
        abs(samples.mean() - mean) < 4 * np.sqrt((square - mean**2) / 4000)
        and abs((samples**2).mean() / square - 1) < 0.06
    )


@pytest.mark.parametrize(
    "trained, read", [("v", "epsilon"), ("epsilon", "v"), ("rectified_flow", "v")]
)
def test_sampling_with_another_objective_than_trained_misses_the_distribution(
    trained, read, noise, schedules
):
    samples = draw(noise, sample_log_snrs(schedules["linear"], 200), trained=trained, read=read)
    assert not distance(samples) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2), ("dpm_solver", 2)])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ode_samplers_converge_to_the_flow_at_their_order(
    name, sampler, order, objective, noise, schedules
):
    with jax.enable_x64():
        ends = np.asarray(schedules[name].log_snr(jnp.array([0.95, 0.05])), np.float64)
        alpha, sigma = (np.asarray(part) for part in scales(jnp.asarray(ends)))
        std = np.sqrt((alpha * 0.3) ** 2 + sigma**2)
        start = jnp.asarray(noise, jnp.float64)
        # The flow keeps every quantile of a Gaussian.
        flow = alpha[1] * 1.5 + std[1] / std[0] * (start - alpha[0] * 1.5)

        def error(steps):
            # Steps in log-SNR are in turn short and twice as long, so that their ratio counts.
            places = np.cumsum([0, *[1, 2] * (steps // 2)])
            times = jnp.asarray(np.interp(places / places[-1], [0, 1], ends))
            end = draw(start, times, data=GAUSSIAN, trained=objective, sampler=sampler)
            return np.abs(end - flow).max()

        errors = np.array([error(steps) for steps in (64, 128, 256)])
    assert (np.log2(errors[:-1] / errors[1:]) > order - 0.15).all(), errors


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_step_between_equal_levels_gives_finite_latents(sampler, noise):
    samples = draw(noise, jnp.array([-3.0, -2.0, -2.0, -2.0, -1.0, jnp.inf]), sampler=sampler)
    assert np.isfinite(samples).all()


@pytest.mark.parametrize(
    "steps, sampler", [(1, "ddim"), (7, "ddpm"), (5, "heun"), (6, "dpm_solver")]
)
def test_a_distribution_of_one_point_is_reached_in_any_number_of_steps(
    steps, sampler, noise, schedules
):
    samples = draw(noise, sample_log_snrs(schedules["linear"], steps), data=POINT, sampler=sampler)
    np.testing.assert_allclose(samples, 42.0, rtol=1e-5)


def test_eta_one_is_the_ancestral_step_with_gaussian_noise():
    beta, before = 0.02, 0.6  # one step's variance, and alpha^2 before it
    after = before * (1 - beta)
    noisy, clean = 0.7, -1.3
    answer = lambda x, _: jnp.full_like(x, clean)
    log_snrs = jnp.log(jnp.array([after / (1 - after), before / (1 - before)]))
    samples = np.ravel(sample(DDIM(1.0), answer, jnp.full((2, 5000, 2), noisy), log_snrs, keys(1)))
    # Ho et al. 2020, equation 7
    mean = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * noisy) / (1 - after)
    std = ((1 - before) / (1 - after) * beta) ** 0.5
    assert stats.kstest(samples, stats.norm(mean, std).cdf).pvalue > 1e-3


@pytest.mark.slow
def test_only_ddpm_draws_noise_in_its_steps_and_from_the_keys(noise, schedules):
    log_snrs = sample_log_snrs(schedules["linear"], 20)
    for sampler in SAMPLERS:
        samples = draw(noise, log_snrs, 0, sampler=sampler)
        np.testing.assert_array_equal(samples, draw(noise, log_snrs, 0, sampler=sampler))
        assert np.any(samples != draw(noise, log_snrs, 1, sampler=sampler)) == (sampler == "ddpm")


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_an_example_does_not_depend_on_the_rest_of_its_batch(sampler, noise, schedules):
    log_snrs = sample_log_snrs(schedules["linear"], 20)
    run = jax.jit(
        lambda noise, keys: sample(SAMPLERS[sampler], exact(MIXTURE), noise, log_snrs, keys)
    )
    first, other = keys()
    with_itself = run(jnp.stack([noise[1], noise[1]]), jnp.stack([first, first]))
    np.testing.assert_array_equal(run(noise[::-1], jnp.stack([first, other]))[0], with_itself[1])


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_the_network_is_traced_a_fixed_number_of_times_for_all_steps(sampler, noise, schedules):
    traces = []
    trace = lambda x, log_snr: traces.append(log_snr.shape) or x
    sample(SAMPLERS[sampler], trace, noise, sample_log_snrs(schedules["linear"], 50), keys())
    assert traces == [(2,)] * (2 if sampler == "heun" else 1)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_single_steps_give_what_the_scan_gives_and_show_the_clean_estimate(
    sampler, noise, schedules
):
    log_snrs, denoise = sample_log_snrs(schedules["linear"], 6), exact(MIXTURE)
    method = SAMPLERS[sampler]
    state = method.start(noise)
    for index in range(6):
        first = denoise(state.noisy, jnp.full(len(noise), log_snrs[index]))
        state = method.step(denoise, state, index, log_snrs[index], log_snrs[index + 1], keys())
        np.testing.assert_allclose(state.clean, first, rtol=1e-5)
    whole = sample(method, denoise, noise, log_snrs, keys())
    np.testing.assert_allclose(method.latents(state), whole, rtol=1e-4, atol=1e-4)


def test_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(Refusal, match=r"'plms'.*ddim"):
        SAMPLERS["plms"]


def test_eta_is_for_ddim_alone():
    settings = get_config().diffusion.to_dict()
    assert make_sampler(ConfigDict(settings | {"eta": 0.5})) == DDIM(0.5)
    with pytest.raises(Refusal, match="eta is for the sampler ddim"):
        make_sampler(ConfigDict(settings | {"eta": 0.5, "sampler": "heun"}))
    with pytest.raises(Refusal, match="from 0 to 1"):
        make_sampler(ConfigDict(settings | {"eta": 1.5}))
