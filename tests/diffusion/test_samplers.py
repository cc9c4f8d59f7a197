"""Samplers proved on data whose exact denoiser is known in closed form, so that every error is the sampler's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from configs.jen1 import get_config
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.diffusion.samplers import SAMPLERS, ddim
from jen1_jax.diffusion.schedules import SCHEDULES, make_schedule, sample_log_snrs
from jen1_jax.errors import Refusal

# (weight, mean, std) of each Gaussian; far outside [-1, 1], as latents are
MIXTURE = ((0.3, -4.0, 0.5), (0.7, 3.0, 1.0))
GAUSSIAN = ((1.0, 1.5, 0.3),)
POINT = ((1.0, 42.0, 0.0),)


def exact(data):
    """`denoise` whose answers are the posterior means of elements drawn independently from a mixture of Gaussians."""
    weights, means, stds = jnp.array(data).T

    def denoise(noisy, log_snr):
        alpha, sigma = scales(log_snr[:, None, None, None])
        off, variance = noisy[..., None] - alpha * means, (alpha * stds) ** 2 + sigma**2
        posterior = jax.nn.softmax(jnp.log(weights) - off**2 / variance / 2 - jnp.log(variance) / 2)
        clean = means + alpha * stds**2 / variance * off
        return jnp.sum(posterior * clean, axis=-1)

    return denoise


@partial(jax.jit, static_argnames=("data", "trained", "read", "eta"))
def sample(noise, log_snrs, seed=0, *, data=MIXTURE, trained="epsilon", read=None, eta=0.0):
    """Samples of a perfect network that was trained with one objective and is read as the same or another."""
    target, read = OBJECTIVES[trained].target, OBJECTIVES[read or trained]

    def denoise(noisy, log_snr):
        clean, (alpha, sigma) = exact(data)(noisy, log_snr), scales(log_snr[:, None, None])
        return read.clean(target(clean, (noisy - alpha * clean) / sigma, log_snr), noisy, log_snr)

    return ddim(denoise, noise, log_snrs, jax.random.key(seed), eta)


def distance(samples, data=MIXTURE):
    """Kolmogorov-Smirnov distance between the samples and the mixture."""
    return stats.kstest(np.ravel(samples), lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in data)).statistic


@pytest.fixture(scope="module")
def schedules():
    config = get_config().diffusion.to_dict()
    return {name: make_schedule(ConfigDict(config | {"schedule": name})) for name in SCHEDULES}


@pytest.fixture(scope="module")
def noise():
    """Standard Gaussian noise without sampling error: 4000 equally likely quantiles, in no order."""
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    return jnp.asarray(np.random.default_rng(0).permutation(quantiles).reshape(2, 500, 4), jnp.float32)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ddim_recovers_the_distribution(name, objective, noise, schedules):
    samples = sample(noise, sample_log_snrs(schedules[name], 200), trained=objective)
    assert distance(samples) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ancestral_sampling_recovers_the_distribution(name, noise, schedules):
    assert distance(sample(noise, sample_log_snrs(schedules[name], 200), eta=1.0)) < 0.02


@pytest.mark.parametrize("trained, read", [("v", "epsilon"), ("epsilon", "v")])
def test_sampling_with_another_objective_than_trained_does_not_go_unseen(trained, read, noise, schedules):
    samples = sample(noise, sample_log_snrs(schedules["linear"], 200), trained=trained, read=read)
    assert not distance(samples) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_ddim_converges_to_the_flow_at_first_order(name, noise, schedules):
    def error(steps):
        log_snrs = schedules[name].log_snr(jnp.linspace(1, 0, steps + 1))
        alpha, sigma = np.asarray(scales(log_snrs[jnp.array([0, -1])]))
        std = np.sqrt((alpha * 0.3) ** 2 + sigma**2)
        flow = alpha[1] * 1.5 + std[1] / std[0] * (noise - alpha[0] * 1.5)  # which keeps every quantile of a Gaussian
        return np.abs(sample(noise, log_snrs, data=GAUSSIAN) - flow).max()

    errors = np.array([error(steps) for steps in (128, 256, 512)])
    assert (np.log2(errors[:-1] / errors[1:]) > 0.9).all(), errors


@pytest.mark.parametrize("steps, eta", [(1, 0.0), (7, 1.0)])
def test_a_single_possible_answer_is_reached_in_any_number_of_steps(steps, eta, noise, schedules):
    samples = sample(noise, sample_log_snrs(schedules["linear"], steps), data=POINT, eta=eta)
    np.testing.assert_allclose(samples, 42.0, rtol=1e-6)


def test_eta_one_is_the_ancestral_step_with_gaussian_noise():
    beta, before = 0.02, 0.6  # one step's variance and the alpha^2 before it
    after = before * (1 - beta)
    noisy, clean = 0.7, -1.3
    answer = lambda x, _: jnp.full_like(x, clean)
    log_snrs = jnp.log(jnp.array([after / (1 - after), before / (1 - before)]))
    samples = np.ravel(ddim(answer, jnp.full((2, 5000, 2), noisy), log_snrs, jax.random.key(1), 1.0))
    # Ho et al. 2020, equation 7
    mean = (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * noisy) / (1 - after)
    std = ((1 - before) / (1 - after) * beta) ** 0.5
    assert stats.kstest(samples, stats.norm(mean, std).cdf).pvalue > 1e-3


def test_eta_draws_from_its_key_and_only_then(noise, schedules):
    log_snrs = sample_log_snrs(schedules["linear"], 200)
    samples = sample(noise, log_snrs, 0, eta=1.0)
    np.testing.assert_array_equal(samples, sample(noise, log_snrs, 0, eta=1.0))
    assert np.any(samples != sample(noise, log_snrs, 1, eta=1.0))
    np.testing.assert_array_equal(sample(noise, log_snrs, 0), sample(noise, log_snrs, 1))
    with pytest.raises(ValueError, match="key"):
        ddim(exact(MIXTURE), noise, log_snrs, None, 0.5)


def test_an_example_does_not_depend_on_its_batch_mates(noise, schedules):
    log_snrs = sample_log_snrs(schedules["linear"], 200)
    with_itself = jnp.stack([noise[1], noise[1]])
    np.testing.assert_array_equal(sample(noise, log_snrs)[1], sample(with_itself, log_snrs)[1])


def test_the_network_is_traced_once_for_all_steps(noise, schedules):
    traces = []
    ddim(lambda x, log_snr: traces.append(log_snr.shape) or x, noise, sample_log_snrs(schedules["linear"], 50))
    assert traces == [(2,)]


def test_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(Refusal, match=r"'euler'.*ddim"):
        SAMPLERS["euler"]
