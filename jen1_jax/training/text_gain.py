"""Is the text heard? Held-out examples are denoised with their own captions and with the captions of others.

`text_gain` at a log-SNR is 1 - error(own caption) / error(another's): 0 where the text is not heard, above 0 where it helps,
below 0 where it misleads. It tells so early. The loss does not: it also falls when captions change nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.diffusion.objectives import OBJECTIVES, corrupt
from jen1_jax.layers.embeddings import timing_features
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.loop import Data, Evaluate
from jen1_jax.training.step import Batch
from jen1_jax.unet import UNet

LOG_SNRS = (
    -6,
    -4,
    -2,
    0,
)  # from almost pure noise, where a caption is all there is to go by, to as much music as noise
EXAMPLES = 32
PER_CAPTION = 4  # of them: a long file's clips share one caption and follow each other
SEARCHED = 512  # held-out examples that are read, at most
HEARD = 0.025  # a gain below it counts as none: latents of which no music came had up to .018 (docs/decisions.md)
EARLY = 0.1  # share of the steps after which there should be one


def text_errors(
    params: PyTree,
    batch: Batch,
    key: Key[Array, ""],
    log_snr: float | Float[Array, ""],
    *,
    config: ConfigDict,
    unet: UNet,
    text: TextEncoder,
) -> dict[str, Float[Array, " batch"]]:
    """Each example's mean squared error of the clean latents at `log_snr`, given the `right` text, the `other` one and `none`.

    Nothing is given as context, the mode is bidirectional, the noise is the same for the three, and padding does not count. The
    error is of clean latents whatever the objective: it compares between objectives. `params` are the diffusion model's (`unet`,
    and `text` where that is trained). `batch` holds `latents` [batch, frames, k] with `valid_frames`, `tokens` or
    `text_embedding` with `text_lengths`, `start` and `total` for `unet.timing`, and `other`, the row of the other text.
    """
    clean = batch["latents"].astype(jnp.float32)
    size, frames, _ = clean.shape
    valid = (jnp.arange(frames) < batch["valid_frames"][:, None])[..., None].astype(jnp.float32)
    clean, nothing, level = (
        clean * valid,
        jnp.zeros_like(clean),
        jnp.full(size, log_snr, jnp.float32),
    )
    noisy = corrupt(clean, jax.random.normal(key, clean.shape), level)
    lengths = batch["text_lengths"]
    if text.trainable:
        embedding = text.module.apply({"params": params["text"]}, batch["tokens"], lengths)
    else:
        embedding = batch["text_embedding"].astype(jnp.float32)
    conditioning = (
        {"timing": timing_features(batch["start"], batch["total"])} if unet.timing else {}
    )
    objective = OBJECTIVES[config.diffusion.objective]

    def error(given):
        rows, lengths = given
        bidirectional = jnp.zeros(size, bool)
        inputs = (
            noisy,
            nothing,
            nothing[..., :1],
            level,
            embedding[rows],
            lengths,
            valid,
            bidirectional,
            conditioning,
        )
        prediction = unet.apply({"params": params["unet"]}, *inputs)
        squares = (objective.clean(prediction, noisy, level) - clean) ** 2 * valid
        return squares.mean(axis=2).sum(axis=1) / valid.sum(axis=(1, 2))

    own, other = jnp.arange(size), batch["other"]
    given = {
        "right": (own, lengths),
        "other": (other, lengths[other]),
        "none": (own, jnp.zeros_like(lengths)),
    }
    # One after the other: the network is compiled once.
    errors = jax.lax.map(error, jax.tree.map(lambda *each: jnp.stack(each), *given.values()))
    return dict(zip(given, errors, strict=True))


def others(captions: Sequence[str]) -> Int[np.ndarray, " captions"]:
    """For each caption the row of the next different one, the first row following the last. Needs two different captions."""
    count = len(captions)
    following = lambda row: ((row + step) % count for step in range(1, count))
    return np.array(
        [next(n for n in following(row) if captions[n] != captions[row]) for row in range(count)]
    )


def held_out(batches: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray] | None:
    """The first examples of `batches` that have a caption and finite data, up to `EXAMPLES`, and their `other` rows (see
    `text_errors`).

    None where no two captions differ.
    """
    examples, counts, searched = [], Counter(), 0
    for batch in batches:
        for row, caption in enumerate(map(str, batch["caption"])):
            if (
                caption.strip()
                and counts[caption] < PER_CAPTION
                and _usable({name: batch[name][row] for name in batch})
            ):
                counts[caption] += 1
                examples.append({name: np.copy(array[row]) for name, array in batch.items()})
        searched += len(batch["caption"])
        if len(examples) >= EXAMPLES or searched >= SEARCHED:
            break
    examples = examples[:EXAMPLES]
    captions = [str(example["caption"]) for example in examples]
    if len(set(captions)) < 2:
        return None
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]} | {
        "other": others(captions)
    }


def _usable(example: Mapping[str, Any]) -> bool:
    """Whether an example has real frames, all of them finite: one without would make every mean NaN."""
    data = example.get("latents", example.get("audio", np.zeros(1)))
    return bool(
        min(example.get("valid_frames", 1), example.get("valid_samples", 1)) > 0
        and np.isfinite(data).all()
    )


def make_evaluate(
    data: Data,
    prepare: Callable[[Mapping[str, Any]], dict[str, np.ndarray]],
    *,
    config: ConfigDict,
    unet: UNet,
    codec: Codec,
    text: TextEncoder,
    window: int,
    progress: Callable[[str], None],
) -> Evaluate:
    """What `fit` asks as training goes on: `text_gain/LOG_SNR` of the EMA parameters, on the first `window` frames of held-out
    examples. Nothing where no two of them have different captions.

    `prepare` adds tokens or embeddings to a batch. From `EARLY` on, `progress` is told once that no gain reaches `HEARD`, and
    when one does after all; not where `data.limit` asks for a few clips to be learnt by heart, which says nothing about others.
    """
    examples = held_out(data.sweep("test"))
    if examples is None:
        return lambda step, ema: {}
    batch = prepare(examples) | {"other": examples["other"]}
    if "audio" in batch:
        audio = batch.pop("audio")
        batch["latents"] = np.concatenate(
            [codec.encode(audio[row : row + 8]) for row in range(0, len(audio), 8)]
        )
        batch["valid_frames"] = -(-batch["valid_samples"] // codec.hop)
    batch |= {
        "latents": batch["latents"][:, :window],
        "valid_frames": np.minimum(batch["valid_frames"], window),
    }
    due, told = config.data.limit == 0, False

    @jax.jit
    def errors(params, batch, log_snr):
        found = text_errors(
            params, batch, jax.random.key(0), log_snr, config=config, unet=unet, text=text
        )
        return jax.tree.map(jnp.mean, found)

    def evaluate(step: int, ema: PyTree) -> dict[str, float]:
        nonlocal due, told
        gains = {}
        for log_snr in LOG_SNRS:
            error = jax.device_get(errors(ema["diffusion"], batch, float(log_snr)))
            gains[f"text_gain/{log_snr}"] = float(1 - error["right"] / error["other"])
        best = max(gains.values())
        if due and best < HEARD and not told and step >= EARLY * config.train_diffusion.steps:
            told = True
            progress(
                f"diffusion: the text is not heard yet. Held-out examples are denoised hardly better with their own captions "
                f"than with others' (text_gain is {best:.3f} at best). If it stays so, see docs/model.md#my-output-is-noise."
            )
        if due and best >= HEARD:
            due = False
            if told:
                progress(f"diffusion: the text is heard now (text_gain is {best:.3f} at best).")
        return gains

    return evaluate
