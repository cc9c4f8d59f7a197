"""Size, latent rate and operations of the presets.

With their networks, no causal sample depends on later noise.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import compose, jen1, jen1_fast
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.conditioning import CONDITIONERS
from jen1_jax.diffusion.objectives import OBJECTIVES
from jen1_jax.diffusion.samplers import SAMPLERS, sample
from jen1_jax.diffusion.schedules import make_schedule, sample_log_snrs
from jen1_jax.flops import flops
from jen1_jax.models.autoencoder import init_autoencoder
from jen1_jax.unet import UNet
from tests.layers.testing import normal, randomised

PRESETS = {"jen1": jen1.get_config(), "jen1_fast": jen1_fast.get_config()}


def inputs(unet, batch, frames, tokens, make):
    """The inputs of the U-Net by name, each created by `make(shape, dtype)`."""
    shapes = {
        "noisy": (frames, unet.out_channels),
        "context": (frames, unet.out_channels),
        "mask": (frames, 1),
        "log_snr": (),
        "text": (tokens, unet.text_features),
        "text_lengths": (),
        "valid": (frames, 1),
        "causal": (),
    }
    dtypes = {"text_lengths": jnp.int32, "causal": bool}
    arrays = {
        name: make((batch, *shape), dtypes.get(name, jnp.float32)) for name, shape in shapes.items()
    }
    vectors = {}
    for name in unet.conditioning:
        values = dict.fromkeys(CONDITIONERS[name].names, jnp.zeros(1))
        width = jax.eval_shape(CONDITIONERS[name].features, values).shape[1]
        vectors[name] = make((batch, width), jnp.float32)
    return arrays | {"conditioning": vectors}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "parameters", "rate", "k", "teraflops"),
    [
        ("jen1", 743_874_163, 150.0, 115, 0.569),  # 746 M within 1 % (arXiv 2308.04729, table 1)
        ("jen1_fast", 535_684_416, 23.4375, 64, 0.348),
    ],
)
def test_parameters_latent_rate_and_operations_of_a_preset(preset, parameters, rate, k, teraflops):
    config = PRESETS[preset]
    autoencoder = Autoencoder(**config.autoencoder)
    channels = int(config.whitening.keep * config.autoencoder.latent_channels)
    unet = UNet(**config.unet, out_channels=channels)
    assert config.audio.sample_rate / autoencoder.hop == rate
    assert unet.out_channels == k
    frames, tokens = round(config.data.seconds * rate), config.text.max_length
    arguments = inputs(unet, 1, frames, tokens, jax.ShapeDtypeStruct).values()
    variables = jax.eval_shape(unet.init, jax.random.key(0), *arguments)
    leaves = jax.tree.leaves(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    assert sum(leaf.size for leaf in leaves) == parameters
    assert round(flops(unet.apply, variables, *arguments) / 1e12, 3) == teraflops


@pytest.mark.slow
def test_the_autoencoder_and_the_unet_of_compose_have_at_most_16_million_parameters():
    config = compose.get_config()
    autoencoder = Autoencoder(**config.autoencoder)
    channels = int(config.whitening.keep * config.autoencoder.latent_channels)
    unet = UNet(**config.unet, out_channels=channels)
    arguments = inputs(unet, 1, unet.frames_multiple, 1, jax.ShapeDtypeStruct).values()
    key = jax.random.key(0)
    shapes = [
        jax.eval_shape(lambda: init_autoencoder(key, model=autoencoder)),
        jax.eval_shape(unet.init, key, *arguments),
    ]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) <= 16e6


SLOW_PRESETS = [pytest.param(name, marks=pytest.mark.slow) for name in PRESETS]


@pytest.fixture(scope="module", params=SLOW_PRESETS)
def deep(request):
    """(denoise, log-SNRs, noise) for a network with the layers of a preset, but narrow.

    The three examples are causal with text, causal without text, and bidirectional.
    """
    config = PRESETS[request.param].copy_and_resolve_references()
    with config.unlocked():
        config.unet.update(channels=4, head_dim=4, text_features=6, dtype="float32", remat="none")
    unet = UNet(**config.unet, out_channels=3)
    fixed = inputs(unet, 3, 2 * unet.frames_multiple, 4, lambda shape, _: normal(0, *shape)) | {
        "text_lengths": np.array([2, 0, 2], np.int32),
        "valid": np.ones((3, 2 * unet.frames_multiple, 1), np.float32),
        "causal": np.array([True, True, False]),
    }
    params, apply = randomised(unet, *fixed.values())
    objective = OBJECTIVES[config.diffusion.objective]

    def denoise(noisy, log_snr):
        with jax.disable_jit(False):  # compiled once, for every sampler
            prediction = apply(params, *(fixed | {"noisy": noisy, "log_snr": log_snr}).values())
        return objective.clean(prediction, noisy, log_snr)

    return (
        denoise,
        sample_log_snrs(make_schedule(config.diffusion), 3, 1.0),
        jnp.asarray(fixed["noisy"]),
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_every_sampler_causal_frames_do_not_depend_on_later_noise(deep, sampler):
    denoise, levels, noise = deep
    keys = jax.random.split(jax.random.key(0), 3)
    with jax.disable_jit():  # or every sampler would compile the network into its loop
        before = np.asarray(sample(SAMPLERS[sampler], denoise, noise, levels, keys))
        for frame in (1, noise.shape[1] // 2 + 1, noise.shape[1] - 1):
            changed = noise.at[:, frame:].add(1.0)
            after = np.asarray(sample(SAMPLERS[sampler], denoise, changed, levels, keys))
            np.testing.assert_array_equal(after[:2, :frame], before[:2, :frame])
            assert (after[:2, frame] != before[:2, frame]).any(axis=-1).all()
            assert (after[2] != before[2]).any(axis=-1).all()
