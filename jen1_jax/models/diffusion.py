"""The diffusion model of a run: built from the configuration, or loaded with what it belongs to."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.diffusion.objectives import OBJECTIVES
from jen1_jax.diffusion.samplers import make_sampler
from jen1_jax.diffusion.schedules import make_schedule
from jen1_jax.errors import Refusal
from jen1_jax.files import whole_folder
from jen1_jax.keys import named_key
from jen1_jax.layers.embeddings import timing_features
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run
from jen1_jax.sharding import local_layout
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.unet import NULL_TEXT, REMAT, UNet


def check_unet(unet: ConfigDict) -> None:
    """Refuses a section `unet` of which no network can be made."""
    NULL_TEXT[unet.null_text], REMAT[unet.remat]
    if unet.dtype not in ("float32", "bfloat16"):
        raise Refusal(
            f"The U-Net cannot be computed in {unet.dtype!r}; set unet.dtype to float32 or bfloat16."
        )
    if unet.head_dim < 2 or unet.head_dim % 2:
        raise Refusal(
            f"unet.head_dim must be even, since rotary positions turn pairs of channels; {unet.head_dim} is not."
        )
    if (
        min(*unet.factors, *unet.multipliers, unet.channels, unet.ff_multiplier, unet.text_features)
        < 1
    ):
        raise Refusal(
            "unet.factors, multipliers, channels, ff_multiplier and text_features must be at least 1."
        )


def check_sampling(section: ConfigDict) -> None:
    """Refuses a section `diffusion` that no sample can be made by."""
    make_sampler(section)
    make_schedule(section)
    OBJECTIVES[section.objective]
    times = section.guidance_interval
    if (
        len(times) != 2
        or not all(isinstance(time, Real) for time in times)
        or not 0 <= times[0] < times[1] <= 1
    ):
        raise Refusal(
            f"diffusion.guidance_interval is two rising times within 0 and 1; {times} is not."
        )
    if section.sample_steps < 1:
        raise Refusal(f"diffusion.sample_steps must be at least 1; {section.sample_steps} is not.")
    for name, most in (("guidance_rescale", 1), ("guidance_limit", math.inf)):
        check_range(section, name, most)


def check_range(section: ConfigDict, name: str, most: float) -> None:
    if not 0 <= section[name] <= most:
        raise Refusal(f"diffusion.{name} must lie between 0 and {most}; {section[name]} does not.")


def check_autoencoder(run: Run, record: Mapping[str, Any], codec: Codec) -> None:
    """Refuses a diffusion checkpoint, by its record, that was trained with another autoencoder than the run now holds."""
    trained_with = record["fingerprints"]["autoencoder"]
    if trained_with != codec.fingerprint:
        raise Refusal(
            f"The diffusion model of {run.path} was trained with the autoencoder {trained_with[:12]}, but the run now holds "
            f"{codec.fingerprint[:12]}; put that one back, or train the diffusion model in another --workdir."
        )


def make_unet(config: ConfigDict, k: int, text: TextEncoder) -> UNet:
    """The run's U-Net; refuses one too narrow for its objective, and a text encoder of another width than the configuration says.

    To predict noise, or v, is to carry the noise from input to output, at full rate and past a SiLU, which takes two channels for
    each of the latents': a narrower network learns the noise as far as it can and no music at all, at a loss that looks trained.
    """
    check_unet(config.unet)
    width = config.unet.channels * config.unet.multipliers[0]
    if config.diffusion.objective != "x0" and width < 2 * k:
        raise Refusal(
            f"The U-Net is {width} wide at full rate (unet.channels * unet.multipliers[0]); with the objective "
            f"{config.diffusion.objective} it must be at least {2 * k}, twice the latent channels, or it can only learn noise."
        )
    if text.features != config.unet.text_features:
        raise Refusal(
            f"unet.text_features is {config.unet.text_features}, but the text encoder gives {text.features}; "
            f"set --config.unet.text_features={text.features}."
        )
    return UNet(out_channels=k, **config.unet)


def init_diffusion(key: Key[Array, ""], *, unet: UNet, text: TextEncoder) -> PyTree:
    frames, k = unet.frames_multiple, unet.out_channels
    latents, one = jnp.zeros((1, frames, k)), jnp.ones((1, frames, 1))
    prompt, zero = jnp.zeros((1, 1, unet.text_features)), jnp.zeros(1)
    conditioning = {"timing": timing_features(zero, zero)} if unet.timing else {}
    inputs = (
        latents,
        latents,
        one,
        zero,
        prompt,
        jnp.ones(1, jnp.int32),
        one,
        jnp.zeros(1, bool),
        conditioning,
    )
    params = unet.init(named_key(key, "unet"), *inputs)["params"]
    return {"unet": params} | (
        {"text": text.init_params(named_key(key, "text"))} if text.trainable else {}
    )


def abstract_diffusion(unet: UNet, text: TextEncoder) -> PyTree:
    """Shapes of the diffusion model's parameters."""
    return jax.eval_shape(partial(init_diffusion, unet=unet, text=text), jax.random.key(0))


@dataclass(frozen=True)
class Diffusion:
    """A trained diffusion model, whole: `params` and `text_params` are the EMA's, `trained` is the record of its checkpoint."""

    codec: Codec
    text: TextEncoder
    text_params: PyTree
    unet: UNet
    params: PyTree
    trained: Mapping[str, Any]


def load_diffusion(run: Run) -> Diffusion:
    """The run's trained diffusion model; raises `Refusal` where a part is missing or belongs to another run."""
    config, codec = run.config, load_codec(run)
    missing = f"The run {run.path} has no trained diffusion model yet; train it with `jen1 train diffusion --workdir {run.path}`."
    checkpoints = Checkpoints.existing(run.checkpoints("diffusion"), missing)
    text = TextEncoder.open(run.text, local_layout(config))
    if text.fingerprint != run.record["fingerprints"].get("text"):
        raise Refusal(
            f"{run.text} is not the text encoder that the run {run.path} was trained with; put that one back."
        )
    unet = make_unet(config, codec.k, text)
    params, trained = checkpoints.restore_ema("diffusion", abstract_diffusion(unet, text))
    checkpoints.close()
    check_autoencoder(run, trained, codec)
    return Diffusion(codec, text, params.get("text", text.params), unet, params["unet"], trained)


def copy_autoencoder(source: Run, run: Run) -> None:
    """Copies another run's trained autoencoder and whitening into this one, which must not have its own."""
    load_codec(source)  # refuses an unfinished one
    if (run.path / "autoencoder").exists():
        if load_codec(run).fingerprint == load_codec(source).fingerprint:
            return
        raise Refusal(
            f"{run.path} has an autoencoder of its own; leave --autoencoder out, or choose another --workdir."
        )
    run.path.mkdir(parents=True, exist_ok=True)
    with whole_folder(run.path / "autoencoder") as folder:
        left_out = shutil.ignore_patterns("tensorboard", "demos")
        shutil.copytree(source.path / "autoencoder", folder, ignore=left_out, dirs_exist_ok=True)
        run.write(source.config, {"autoencoder": source.record["fingerprints"]["autoencoder"]})
