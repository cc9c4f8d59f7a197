"""The diffusion model of a run: built from the configuration, or loaded with its other parts."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax import conditioning
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.conditioning import conditioner
from jen1_jax.diffusion.objectives import OBJECTIVES
from jen1_jax.diffusion.samplers import make_sampler
from jen1_jax.diffusion.schedules import make_schedule
from jen1_jax.distributed import on_first
from jen1_jax.files import fetched, whole_folder
from jen1_jax.keys import named_key
from jen1_jax.models import weights
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.denoiser import Denoiser
from jen1_jax.models.run import Run
from jen1_jax.sharding import local_layout
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.unet import NULL_TEXTS, REMAT, UNet
from jen1_numpy.errors import Refusal
from jen1_numpy.options import check_numbers


@dataclass(frozen=True)
class Diffusion:
    """A trained diffusion model with its autoencoder and text encoder.

    `params` are the U-Net's and `text_params` the text encoder's, both of the EMA; `trained` is the
    record of the checkpoint.
    """

    codec: Codec
    text: TextEncoder
    text_params: PyTree
    unet: Denoiser
    params: PyTree
    trained: Mapping[str, Any]


def load_diffusion(run: Run, step: str = "") -> Diffusion:
    """The run's trained diffusion model, of the checkpoint `step` (see `weights.step_of`).

    Raises `Refusal` where a part is missing, or belongs to another run.
    """
    config, codec = run.config, load_codec(run)
    missing = (
        f"The run {run.path} has no trained diffusion model yet; train it with "
        f"`jen1 train diffusion --workdir {run.path}`."
    )
    weights.check(run, "diffusion", missing)
    text = TextEncoder.open(run.text, local_layout(config))
    if text.fingerprint != run.record["fingerprints"].get("text"):
        raise Refusal(
            f"{run.text} is not the text encoder that the run {run.path} was trained with; "
            "put that one back."
        )
    unet = make_unet(config, codec.k, text)
    at = weights.step_of(run, "diffusion", step)
    params, trained = weights.restore(run, "diffusion", abstract_diffusion(unet, text), at)
    check_autoencoder(run, trained, codec)
    text_params = params["text"] if text.trainable else text.params
    return Diffusion(codec, text, text_params, unet, params["unet"], trained)


def make_unet(config: ConfigDict, k: int, text: TextEncoder) -> UNet:
    """The run's U-Net for latents of `k` channels.

    Refuses one that is too narrow for its objective, and a text encoder whose width is not the
    configuration's. A network that predicts noise, or v, has to carry the noise from its input to
    its output, at full rate and through a SiLU, which takes two channels for each latent channel. A
    narrower network learns as much of the noise as it can and no music, and its loss still falls.
    """
    check_unet(config.unet)
    width = config.unet.channels * config.unet.multipliers[0]
    if config.diffusion.objective != "x0" and width < 2 * k:
        raise Refusal(
            f"The U-Net is {width} wide at full rate (unet.channels * unet.multipliers[0]); with "
            f"the objective {config.diffusion.objective} it must be at least {2 * k}, twice the "
            "latent channels, or it can only learn noise."
        )
    if text.features != config.unet.text_features:
        raise Refusal(
            f"unet.text_features is {config.unet.text_features}, but the text encoder gives "
            f"{text.features}; set --config.unet.text_features={text.features}."
        )
    return UNet(out_channels=k, **config.unet)


def init_diffusion(key: Key[Array, ""], *, unet: Denoiser, text: TextEncoder) -> PyTree:
    """Fresh parameters: `unet`, and `text` where the text encoder is trained."""
    frames, k = unet.frames_multiple, unet.out_channels
    latents, valid, zero = jnp.zeros((1, frames, k)), jnp.ones((1, frames, 1)), jnp.zeros(1)
    conditioners = conditioning.chosen(unet.conditioning)
    values = {name: dict.fromkeys(each.names, zero) for name, each in conditioners.items()}
    params = unet.init(
        named_key(key, "unet"),
        latents,
        latents,
        valid,
        zero,
        jnp.zeros((1, 1, text.features)),
        jnp.ones(1, jnp.int32),
        valid,
        jnp.zeros(1, bool),
        conditioner.embed(conditioners, values),
    )["params"]
    if not text.trainable:
        return {"unet": params}
    return {"unet": params, "text": text.init_params(named_key(key, "text"))}


def abstract_diffusion(unet: Denoiser, text: TextEncoder) -> PyTree:
    """Shapes of the diffusion model's parameters."""
    return jax.eval_shape(partial(init_diffusion, unet=unet, text=text), jax.random.key(0))


def check_unet(unet: ConfigDict) -> None:
    """Refuses a section `unet` with which no network can be built."""
    _ = REMAT[unet.remat]  # refuses an unknown name
    if unet.null_text not in NULL_TEXTS:
        raise Refusal(
            f"Unknown unet.null_text {unet.null_text!r}: choose one of {', '.join(NULL_TEXTS)}."
        )
    conditioning.chosen(unet.conditioning)
    if unet.dtype not in ("float32", "bfloat16"):
        raise Refusal(
            f"The U-Net cannot be computed in {unet.dtype!r}; set unet.dtype to float32 or "
            "bfloat16."
        )
    if unet.head_dim < 2 or unet.head_dim % 2:
        raise Refusal(
            "unet.head_dim must be even, since rotary positions turn pairs of channels; "
            f"{unet.head_dim} is not."
        )
    sizes = (unet.channels, unet.ff_multiplier, unet.text_features)
    if min(*unet.factors, *unet.multipliers, *sizes) < 1:
        raise Refusal(
            "unet.factors, multipliers, channels, ff_multiplier and text_features must be at "
            "least 1."
        )


def check_sampling(section: ConfigDict) -> None:
    """Refuses a section `diffusion` with which nothing can be sampled."""
    make_sampler(section)
    make_schedule(section)
    _ = OBJECTIVES[section.objective]
    check_numbers(dict(section))


def check_autoencoder(run: Run, record: Mapping[str, Any], codec: Codec) -> None:
    """Refuses a diffusion checkpoint, by its `record`, that belongs to another autoencoder."""
    trained_with = record["fingerprints"]["autoencoder"]
    if trained_with != codec.fingerprint:
        raise Refusal(
            f"The diffusion model of {run.path} was trained with the autoencoder "
            f"{trained_with[:12]}, but the run now holds {codec.fingerprint[:12]}; put that one "
            "back, or train the diffusion model in another --workdir."
        )


def copy_autoencoder(source: Run, run: Run) -> None:
    """Copies another run's trained autoencoder into this one, which must not have its own.

    All processes load it, since loading waits for all of them, and the first one copies.
    """
    own = (run.path / "autoencoder").exists()
    on_first(lambda: None)  # all have looked before one copies
    fingerprint = load_codec(source).fingerprint  # refuses an unfinished one
    if own:
        if load_codec(run).fingerprint == fingerprint:
            return
        raise Refusal(
            f"{run.path} has an autoencoder of its own; leave --autoencoder out, or choose another "
            "--workdir."
        )

    def copy():
        original = source.path / "autoencoder"
        with fetched(original) as copied, whole_folder(run.path / "autoencoder") as folder:
            left_out = shutil.ignore_patterns("tensorboard", "demos")
            shutil.copytree(copied, folder, ignore=left_out, dirs_exist_ok=True)
            run.write(source.config, {"autoencoder": fingerprint})

    on_first(copy)
