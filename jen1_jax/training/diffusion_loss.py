"""The diffusion model's loss: what the network is given, and what its prediction costs."""

from functools import partial
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree
from ml_collections import ConfigDict

from jen1_jax import conditioning, tasks
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.batch import Drawn, Inputs
from jen1_jax.conditioning import conditioner
from jen1_jax.diffusion.objectives import OBJECTIVES, corrupt, loss_per_frame, min_snr_weight
from jen1_jax.diffusion.schedules import Schedule, make_schedule, shift
from jen1_jax.models.denoiser import Denoiser
from jen1_jax.models.diffusion import init_diffusion
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.step import PerExample, Trainable

# The loss is also logged by ranges of the log-SNR, which these values separate.
BORDERS = (-6, -2, 2, 6)
RANGES = (
    f"log_snr/below_{BORDERS[0]}",
    *(f"log_snr/{low}_to_{high}" for low, high in pairwise(BORDERS)),
    f"log_snr/above_{BORDERS[-1]}",
)


def make_trainable(
    config: ConfigDict,
    unet: Denoiser,
    codec: Codec,
    text: TextEncoder,
    optimizer: optax.GradientTransformation,
) -> Trainable:
    """The diffusion model: parameters `unet`, and `text` where the text encoder is trained."""
    settings = {"config": config, "schedule": make_schedule(config.diffusion)}
    return Trainable(
        init=partial(init_diffusion, unet=unet, text=text),
        losses=partial(losses, unet=unet, codec=codec, text=text, **settings),
        counts=partial(counts, **settings),
        weights=tasks.weights(config.tasks) | dict.fromkeys(RANGES, 0.0),
        optimizer=optimizer,
        trained=tuple(config.train_diffusion.trained),
    )


def losses(
    params: PyTree,
    batch: Drawn,
    frozen: PyTree,
    *,
    config: ConfigDict,
    schedule: Schedule,
    unet: Denoiser,
    codec: Codec,
    text: TextEncoder,
) -> PerExample:
    """Each example's mean squared error over the frames that count, under every name.

    The names are those of the tasks and of the ranges of noise levels; `counts` says which task
    and which range an example belongs to. `frozen` has the `autoencoder`'s parameters
    where waveforms are encoded here.
    """
    params = params["diffusion"]
    clean = encode(batch, codec, frozen) if "audio" in batch else batch["latents"]
    mask = batch["mask"]
    valid = valid_mask(batch["valid_frames"], mask.shape[1])
    clean = clean.astype(jnp.float32) * valid
    log_snr = noise_level(batch, config, schedule)
    objective = OBJECTIVES[config.diffusion.objective]
    prediction = unet.apply(
        {"params": params["unet"]},
        corrupt(clean, batch["noise"], log_snr),
        clean * mask,
        mask,
        log_snr,
        embed_text(params, batch, text),
        jnp.where(batch["null_text"], 0, batch["text_lengths"]),
        valid,
        batch["causal"],
        conditioner.embed(conditioning.chosen(unet.conditioning), batch["conditions"]),
    )
    error = loss_per_frame(objective, prediction, clean, batch["noise"], log_snr)
    if config.diffusion.min_snr_gamma:
        weight = min_snr_weight(objective, log_snr, config.diffusion.min_snr_gamma)
        error = error * weight[:, None]
    counted = tasks.loss_mask(mask, valid, config.tasks.loss_on)
    mean = jnp.sum(error * counted, axis=1) / jnp.maximum(counted.sum(axis=1), 1)
    return dict.fromkeys((*tasks.TASKS, *RANGES), mean)


def counts(batch: Drawn, config: ConfigDict, schedule: Schedule) -> PerExample:
    """For each task and each range, how many frames of an example count in its mean.

    There are none of an example of another task or range.
    """
    valid = valid_mask(batch["valid_frames"], batch["mask"].shape[1])
    frames = tasks.loss_mask(batch["mask"], valid, config.tasks.loss_on).sum(axis=1)
    level = jnp.searchsorted(jnp.array(BORDERS), noise_level(batch, config, schedule), side="right")
    of_task = {name: frames * (batch["task"] == n) for n, name in enumerate(tasks.TASKS)}
    return of_task | {name: frames * (level == n) for n, name in enumerate(RANGES)}


def noise_level(batch: Drawn, config: ConfigDict, schedule: Schedule) -> Float[Array, " batch"]:
    """The log-SNR of each example."""
    return shift(schedule.log_snr(batch["time"]), batch["valid_frames"], config.diffusion)


def encode(batch: Inputs, codec: Codec, frozen: PyTree) -> Float[Array, "batch frames k"]:
    """Whitened latents of the batch's waveforms.

    Where the batch has the audio before and after a clip, the clip is encoded with it, and gets
    the latents that it has in its piece. Encoded alone, a clip has disturbed latents at its ends.
    Padding is no audio: where a piece ends, the encoder sees its end and not silence.
    """
    audio, hop = batch["audio"], codec.hop
    frames = -(-audio.shape[1] // hop)
    begin, end = jnp.zeros_like(batch["valid_samples"]), batch["valid_samples"]
    first = 0
    if "before" in batch:
        around = batch["before"].shape[1]
        audio = jnp.concatenate([batch["before"], audio, batch["after"]], axis=1)
        begin = around - batch["before_samples"]
        end = around + batch["valid_samples"] + batch["after_samples"]
        first = around // hop
    audio = jnp.pad(audio, ((0, 0), (0, -audio.shape[1] % hop), (0, 0)))
    starts = jnp.arange(0, audio.shape[1], hop)
    valid = (starts >= begin[:, None]) & (starts < end[:, None])
    latents = codec.model.apply(
        {"params": frozen["autoencoder"]}, audio, valid[..., None].astype(float), method="encode"
    )
    return codec.whitening.apply(latents[:, first : first + frames])


def embed_text(
    params: PyTree, batch: Inputs, text: TextEncoder
) -> Float[Array, "batch tokens features"]:
    """The text's embedding, by the trained encoder or as a frozen one has computed it."""
    if text.trainable:
        variables = {"params": params["text"]}
        return text.module.apply(variables, batch["tokens"], batch["text_lengths"])
    return batch["text_embedding"].astype(jnp.float32)


def valid_mask(
    valid_frames: Int[Array | np.ndarray, " batch"], frames: int
) -> Float[Array, "batch frames 1"]:
    """1 for the first `valid_frames` of each example's `frames`, 0 for its padding."""
    return (jnp.arange(frames) < valid_frames[:, None])[..., None].astype(jnp.float32)
