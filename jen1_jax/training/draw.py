"""All random numbers of a training step, made from its key before any network is called."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key
from ml_collections import ConfigDict

from jen1_jax import conditioning, tasks
from jen1_jax.batch import Drawn, Inputs, as_float
from jen1_jax.conditioning import conditioner
from jen1_jax.diffusion.schedules import draw_times
from jen1_jax.keys import named_key
from jen1_jax.training.step import Batch


def draw_autoencoder(
    key: Key[Array, ""], step: Int[Array, ""], batch: Batch, *, training: ConfigDict
) -> Batch:
    """Adds `mask_key` [batch], one an example, so that every micro-batch has a key of its own.

    The audio is changed as `vary_audio` says, and is then both input and target.
    """
    keys = jax.random.split(named_key(key, "mask"), len(batch["audio"]))
    return {**vary_audio(key, as_float(batch), training), "mask_key": keys}


def vary_audio(key: Key[Array, ""], batch: Batch, training: ConfigDict) -> Any:
    """Changes sign, gain and sides of each example's waveforms at random, as a `train_*` says.

    The channels of an example whose text names a side (`sided`) keep their order.
    """
    size, scale = len(batch["audio"]), 1.0
    names = [name for name in ("audio", "before", "after") if name in batch]
    if training.polarity_flip:
        flipped = jax.random.bernoulli(named_key(key, "polarity"), training.polarity_flip, (size,))
        scale = jnp.where(flipped, -1.0, 1.0)
    least, most = training.gain_db
    if least or most:
        gain = jax.random.uniform(named_key(key, "gain"), (size,), minval=least, maxval=most)
        scale = scale * 10 ** (gain / 20)
    if not isinstance(scale, float):
        batch = {**batch, **{name: batch[name] * scale[:, None, None] for name in names}}
    if training.channel_swap:
        swapped = jax.random.bernoulli(named_key(key, "sides"), training.channel_swap, (size,))
        swapped &= ~batch.get("sided", jnp.zeros(size, bool))
        swap = lambda audio: jnp.where(swapped[:, None, None], audio[..., ::-1], audio)
        batch = {**batch, **{name: swap(batch[name]) for name in names}}
    return batch


def draw_diffusion(
    key: Key[Array, ""],
    step: Int[Array, ""],
    batch: Inputs,
    *,
    config: ConfigDict,
    hop: int,
    k: int,
    window: int,
) -> Drawn:
    """Adds a diffusion step's random numbers.

    Of longer latents a window of `window` frames is taken, and a share of the examples is cut
    short. Then tasks with their masks and modes are drawn, times, noise, and which examples are
    trained without their text or their other conditions.
    """
    conditioners = conditioning.chosen(config.unet.conditioning)
    conditions, rate = batch.get("conditions", {}), config.audio.sample_rate / hop
    if "latents" in batch:
        latents, valid_frames = batch["latents"], batch["valid_frames"]
        size, frames, _ = latents.shape
        if frames > window:
            start = batch.get("start", jnp.zeros(size))
            before = jnp.round(start * rate).astype(jnp.int32)
            grid = math.prod(config.unet.factors)
            first = _draw_first(named_key(key, "window"), valid_frames, before, window, grid)
            cut = jax.vmap(partial(jax.lax.dynamic_slice_in_dim, slice_size=window))
            batch = {**batch, "latents": cut(latents, first)}
            valid_frames = jnp.minimum(valid_frames, window)
            endless = jnp.full(size, jnp.inf)
            conditions = conditioner.window(conditioners, conditions, first / rate, endless)
    else:
        batch = vary_audio(key, as_float(batch), config.train_diffusion)
        size, valid_frames = len(batch["audio"]), -(-batch["valid_samples"] // hop)
    if config.data.short_rate:
        least = math.prod(config.unet.factors)
        length = jax.random.randint(named_key(key, "length"), (size,), least, window + 1)
        short = jax.random.bernoulli(named_key(key, "short"), config.data.short_rate, (size,))
        short = short & (length < valid_frames)
        valid_frames = jnp.where(short, length, valid_frames)
        seconds = jnp.where(short, length / rate, jnp.inf)
        conditions = conditioner.window(conditioners, conditions, jnp.zeros(size), seconds)
    conditions = {
        name: conditioner.leave_out(key, name, each, conditions[name])
        for name, each in conditioners.items()
    }
    drawn = tasks.draw_tasks(named_key(key, "tasks"), valid_frames, window, step, config.tasks)
    no_text = jax.random.bernoulli(
        named_key(key, "null text"), config.diffusion.null_text_rate, (size,)
    )
    return {
        **batch,
        "valid_frames": valid_frames,
        "conditions": conditions,
        "task": drawn.task,
        "mask": drawn.mask,
        "causal": drawn.causal,
        "time": draw_times(named_key(key, "times"), size, config.diffusion),
        "noise": jax.random.normal(named_key(key, "noise"), (size, window, k)),
        "null_text": no_text,
    }


def _draw_first(
    key: Key[Array, ""],
    valid_frames: Int[Array, " batch"],
    before: Int[Array, " batch"],
    window: int,
    grid: int,
) -> Int[Array, " batch"]:
    """The frame of each clip at which its window begins.

    `before` counts the frames of its piece that come before the clip. The frame is drawn from half
    a window before the clip to half a window after it, and moved inside. Otherwise a clip's first
    and last frames would be in one window of hundreds, and would hardly be learnt; but every
    generated piece begins with such frames. Then it is moved back to the U-Net's grid, on which
    sampling's windows begin too: a U-Net that resamples by 8 handles a shift by 1 poorly.
    """
    last = jnp.maximum(valid_frames - window, 0)
    first = jax.random.randint(key, last.shape, -(window // 2), last + window // 2 + 1)
    first = jnp.clip(first, 0, last)
    return jnp.where(first < last, jnp.maximum(first - (before + first) % grid, 0), last)
