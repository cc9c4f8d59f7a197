"""Trains the omnidirectional U-Net, and the small text encoder where it is not frozen, on whitened latents or on waveforms."""

import logging
import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax import tasks
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.diffusion.objectives import OBJECTIVES, corrupt, loss_per_frame, min_snr_weight
from jen1_jax.diffusion.schedules import Schedule, draw_times, make_schedule
from jen1_jax.errors import Refusal
from jen1_jax.keys import named_key
from jen1_jax.layers.embeddings import timing_features
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.diffusion import (
    check_autoencoder,
    check_range,
    check_sampling,
    check_unet,
    copy_autoencoder,
    init_diffusion,
    make_unet,
)
from jen1_jax.models.run import Run
from jen1_jax.sharding import local_layout, make_mesh
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training import text_gain
from jen1_jax.training.loop import Data, fit
from jen1_jax.training.step import Batch, Player, Terms, adamw
from jen1_jax.unet import UNet

log = logging.getLogger(__name__)


def train_diffusion(
    config: ConfigDict,
    run: Run,
    data: Data,
    autoencoder: Run | None = None,
    progress: Callable[[str], None] = print,
) -> None:
    """Trains RUN/diffusion to `config.train_diffusion.steps`, with the run's own autoencoder or a copy of `autoencoder`'s.

    Refuses a run without a trained autoencoder, and latents that another autoencoder made.
    """
    _check_settings(config)
    if autoencoder is not None:
        copy_autoencoder(autoencoder, run)
    codec = load_codec(run)
    latents = data.description["kind"] == "latents"
    theirs = data.description.get(
        "fingerprint", "none" if latents else codec.fingerprint
    )  # waveforms have none, latents must
    if theirs != codec.fingerprint:
        raise Refusal(
            f"The latents in {data.description['dir']} were made by another autoencoder (fingerprint {theirs[:12]}) than "
            f"this run's ({codec.fingerprint[:12]}); encode the data again with `jen1 data encode --autoencoder {run.path}`."
        )
    frames = data.description["length"] if latents else -(-data.description["length"] // codec.hop)
    window = round(config.data.seconds * codec.frame_rate)
    if frames < window - 1 or (
        frames > window + 1 and not latents
    ):  # sampling would run on lengths that training never saw
        raise Refusal(
            f"The examples in {data.description['dir']} are {frames / codec.frame_rate:.2f} s long, but data.seconds is "
            f"{config.data.seconds}; set --config.data.seconds={frames / codec.frame_rate:.2f}, or prepare the data with "
            f"--seconds {config.data.seconds}. Random windows are cut of longer latents only (`jen1 data encode`)."
        )
    if config.unet.timing and not data.description["timing"]:
        raise Refusal(
            f"unet.timing needs to know where in its piece an example begins, and {data.description['dir']} does not say it "
            "(`start` and `total`); add them, or set --config.unet.timing=False."
        )
    deepest = window / math.prod(config.unet.factors)
    if deepest < 2:
        raise Refusal(
            f"unet.factors leave {deepest:.1f} frames of a {config.data.seconds} s example at the deepest level; "
            "train on longer examples (data.seconds), or resample less."
        )
    run = run.begin(config, "diffusion")
    captions = () if config.text.encoder else data.captions()
    text = TextEncoder.create(config.text, run.text, captions, local_layout(config))
    theirs = data.description.get("text_fingerprint", text.fingerprint)  # captions alone have none
    if theirs != text.fingerprint:
        raise Refusal(
            f"The embeddings in {data.description['dir']} were made by another text encoder (fingerprint {theirs[:12]}) than "
            f"text.encoder ({text.fingerprint[:12]}), or with another max_length or dtype; encode the data as the configuration "
            "says, or without --text, in a new --workdir."
        )
    run = run.write(config, run.record["fingerprints"] | {"text": text.fingerprint})
    unet = make_unet(config, codec.k, text)
    optimizer, schedule = adamw(config.train_diffusion)
    record = run.record | {"data": dict(data.description)}
    tell_cut = cache(
        partial(log.warning, "Some captions are longer than %d tokens: cut there.")
    )  # once

    def prepare(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What the device needs of a batch: the captions as tokens, or as embeddings when the encoder is frozen."""
        names = ("latents", "valid_frames", "audio", "valid_samples", "start", "total", "index")
        arrays = {name: batch[name] for name in names if name in batch}
        captions = [str(caption) for caption in batch["caption"]]
        if text.trainable:
            arrays["tokens"], arrays["text_lengths"] = text.tokenize(captions)
        elif "text_embedding" in batch:
            arrays |= {name: batch[name] for name in ("text_embedding", "text_lengths")}
        else:
            arrays["text_embedding"], lengths = text.embed(captions)
            arrays["text_lengths"] = lengths
            full = [captions[row] for row in np.flatnonzero(lengths == text.max_length)]
            if any(map(text.tokenizer.truncated, full)):
                tell_cut(text.max_length)
        return arrays

    window = window if frames > window + 1 else frames
    fit(
        "diffusion",
        directory=run.path / "diffusion",
        players={"diffusion": player(config, unet, codec, text, optimizer)},
        draw=partial(draw, config=config, hop=codec.hop, k=codec.k, window=window),
        batches=lambda start: map(prepare, data.batches(start)),
        config=config.train_diffusion,
        schedule=schedule,
        mesh=make_mesh(config),
        rules=config.mesh.rules,
        seed=config.seed,
        record=record,
        check=lambda record: check_autoencoder(run, record, codec),
        evaluate=text_gain.make_evaluate(
            data,
            prepare,
            config=config,
            unet=unet,
            codec=codec,
            text=text,
            window=window,
            progress=progress,
        ),
        frozen=None if latents else {"autoencoder": codec.params},
        progress=progress,
    )


def _check_settings(config: ConfigDict) -> None:
    """Refuses what would otherwise be found out by the first step, or by the first sample of a trained model."""
    section = config.diffusion
    if min(config.train_diffusion.steps, config.train_diffusion.batch_size) < 1:
        raise Refusal("train_diffusion.steps and batch_size must be at least 1.")
    check_sampling(section)
    for name, most in (("null_text_rate", 1), ("min_snr_gamma", math.inf)):
        check_range(section, name, most)
    if not 0 <= config.data.short_rate <= 1:
        raise Refusal(
            f"data.short_rate is a share between 0 and 1; {config.data.short_rate} is not."
        )

    def counted(key, step, batch):
        mask = draw(key, step, batch, config=config, hop=1, k=1, window=8)["mask"]
        return tasks.loss_mask(mask, jnp.ones_like(mask), config.tasks.loss_on)

    tasks.weights(config.tasks)
    few = {"latents": jnp.ones((4, 8, 1)), "valid_frames": jnp.full(4, 8)}
    jax.eval_shape(counted, jax.random.key(0), jnp.int32(0), few)
    check_unet(config.unet)


def player(config: ConfigDict, unet: UNet, codec: Codec, text: TextEncoder, optimizer) -> Player:
    """The diffusion model as the one player of its step: parameters `unet`, and `text` where the encoder is trained."""
    return Player(
        init=partial(init_diffusion, unet=unet, text=text),
        terms=partial(
            terms,
            config=config,
            schedule=make_schedule(config.diffusion),
            unet=unet,
            codec=codec,
            text=text,
        ),
        weights=tasks.weights(config.tasks),
        optimizer=optimizer,
    )


def draw(
    key: Key[Array, ""],
    step: Int[Array, ""],
    batch: Batch,
    *,
    config: ConfigDict,
    hop: int,
    k: int,
    window: int,
) -> Batch:
    """All randomness of a step: windows of `window` frames of longer latents, which examples are cut short and where, tasks with
    their masks and modes, times, noise, and which examples go without their text.
    """
    if "latents" in batch:
        latents, valid_frames = batch["latents"], batch["valid_frames"]
        size, frames, _ = latents.shape
        if frames > window:
            rate = config.audio.sample_rate / hop
            before = jnp.round(batch.get("start", jnp.zeros(size)) * rate).astype(jnp.int32)
            first = _draw_first(
                named_key(key, "window"),
                valid_frames,
                before,
                window,
                math.prod(config.unet.factors),
            )
            cut = jax.vmap(partial(jax.lax.dynamic_slice_in_dim, slice_size=window))
            batch, valid_frames = (
                batch | {"latents": cut(latents, first)},
                jnp.minimum(valid_frames, window),
            )
            if "start" in batch:
                batch |= {"start": batch["start"] + first / rate}
    else:
        size, valid_frames = len(batch["audio"]), -(-batch["valid_samples"] // hop)
    if config.data.short_rate:
        length = jax.random.randint(
            named_key(key, "length"), (size,), math.prod(config.unet.factors), window + 1
        )
        short = jax.random.bernoulli(named_key(key, "short"), config.data.short_rate, (size,))
        if "total" in batch:  # where a short piece ends when it is asked for
            end = batch["start"] + length * hop / config.audio.sample_rate
            batch = batch | {
                "total": jnp.where(short & (length < valid_frames), end, batch["total"])
            }
        valid_frames = jnp.where(short, jnp.minimum(length, valid_frames), valid_frames)
    drawn = tasks.draw(named_key(key, "tasks"), valid_frames, window, step, config.tasks)
    return batch | {
        "valid_frames": valid_frames,
        "task": drawn.task,
        "mask": drawn.mask,
        "causal": drawn.causal,
        "time": draw_times(named_key(key, "times"), size, config.diffusion),
        "noise": jax.random.normal(named_key(key, "noise"), (size, window, k)),
        "null_text": jax.random.bernoulli(
            named_key(key, "null text"), config.diffusion.null_text_rate, (size,)
        ),
    }


def _draw_first(
    key: Key[Array, ""],
    valid_frames: Int[Array, " batch"],
    before: Int[Array, " batch"],
    window: int,
    grid: int,
) -> Int[Array, " batch"]:
    """Each clip's frame at which its window begins; `before` counts the frames of its piece that come before the clip.

    Drawn from half a window before the clip to half a window after it, and moved inside: a clip's first frames, with which a
    piece begins when it is generated, and its last would else be in one window of hundreds, and not be learnt. Moved back to
    the U-Net's grid, as sampling's windows are: what resamples by 8 takes a clip shifted by 1 for another one.
    """
    last = jnp.maximum(valid_frames - window, 0)
    first = jnp.clip(
        jax.random.randint(key, last.shape, -(window // 2), last + window // 2 + 1), 0, last
    )
    return jnp.where(first < last, jnp.maximum(first - (before + first) % grid, 0), last)


def terms(
    params: PyTree,
    batch: Batch,
    frozen: PyTree,
    *,
    config: ConfigDict,
    schedule: Schedule,
    unet: UNet,
    codec: Codec,
    text: TextEncoder,
) -> Terms:
    """Every task's squared error, summed over an example's frames that count, and their number."""
    params = params["diffusion"]
    if "latents" in batch:
        clean = batch["latents"].astype(jnp.float32)
    else:
        audio = jnp.pad(batch["audio"], ((0, 0), (0, -batch["audio"].shape[1] % codec.hop), (0, 0)))
        raw = codec.model.apply({"params": frozen["autoencoder"]}, audio, method="encode")
        clean = codec.whitening.apply(raw)
    valid = (jnp.arange(clean.shape[1]) < batch["valid_frames"][:, None])[..., None].astype(
        jnp.float32
    )
    clean = clean * valid
    if text.trainable:
        embedding = text.module.apply(
            {"params": params["text"]}, batch["tokens"], batch["text_lengths"]
        )
    else:
        embedding = batch["text_embedding"].astype(jnp.float32)

    log_snr = schedule.log_snr(batch["time"])
    objective, mask = OBJECTIVES[config.diffusion.objective], batch["mask"]
    prediction = unet.apply(
        {"params": params["unet"]},
        corrupt(clean, batch["noise"], log_snr),
        clean * mask,
        mask,
        log_snr,
        embedding,
        jnp.where(batch["null_text"], 0, batch["text_lengths"]),
        valid,
        batch["causal"],
        {"timing": timing_features(batch["start"], batch["total"])} if unet.timing else {},
    )
    error = loss_per_frame(objective, prediction, clean, batch["noise"], log_snr)
    if config.diffusion.min_snr_gamma:
        error = error * min_snr_weight(objective, log_snr, config.diffusion.min_snr_gamma)[:, None]
    counted = tasks.loss_mask(mask, valid, config.tasks.loss_on)
    total, count = (error * counted).sum(axis=1), counted.sum(axis=1)
    return {
        name: (total * own, count * own)
        for n, name in enumerate(tasks.TASKS)
        for own in [batch["task"] == n]
    }
