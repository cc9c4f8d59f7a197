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

from jen1_jax import conditioning
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.batch import Clips, Inputs
from jen1_jax.conditioning import conditioner
from jen1_jax.diffusion.objectives import OBJECTIVES, corrupt
from jen1_jax.models.denoiser import Denoiser
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.diffusion_loss import embed_text, encode
from jen1_jax.training.loop import Hook
from jen1_jax.training.step import TrainState

LOG_SNRS = (
    -6,
    -4,
    -2,
    0,
)  # from almost pure noise, where a caption is all there is to go by, to as much music as noise
EXAMPLES = 32
PER_CAPTION = 4  # of them: a long file's clips share one caption and follow each other
SEARCHED = 512  # held-out examples that are read, at most
ENCODED = 8  # waveforms at once
HEARD = 0.025  # a gain below it counts as none: latents of which no music came had up to .018 (docs/decisions.md)
EARLY = 0.1  # share of the steps after which there should be one


def text_errors(
    params: PyTree,
    batch: Inputs,
    key: Key[Array, ""],
    log_snr: float | Float[Array, ""],
    *,
    config: ConfigDict,
    unet: Denoiser,
    text: TextEncoder,
) -> dict[str, Float[Array, " batch"]]:
    """Each example's mean squared error of the clean latents at `log_snr`, by what it is given.

    That is its own text (`right`), the text of row `batch["other"]` (`other`), or none (`none`).
    No frame is given as context, the mode is bidirectional, the noise is the same for the three,
    and padding does not count. The error is of clean latents whatever the objective, so that
    objectives can be compared. `params` are the diffusion model's (`unet`, and `text` where that is
    trained). `batch` holds `latents` and `valid_frames`.
    """
    clean = batch["latents"].astype(jnp.float32)
    size, frames, _ = clean.shape
    valid = (jnp.arange(frames) < batch["valid_frames"][:, None])[..., None].astype(jnp.float32)
    level = jnp.full(size, log_snr, jnp.float32)
    clean, no_context, bidirectional = clean * valid, jnp.zeros_like(clean), jnp.zeros(size, bool)
    noisy = corrupt(clean, jax.random.normal(key, clean.shape), level)
    embedding, lengths = embed_text(params, batch, text), batch["text_lengths"]
    conditioners = conditioning.chosen(unet.conditioning)
    conditions = conditioner.embed(conditioners, batch.get("conditions", {}))
    objective = OBJECTIVES[config.diffusion.objective]

    def error(given):
        rows, lengths = given
        prediction = unet.apply(
            {"params": params["unet"]},
            noisy,
            no_context,
            no_context[..., :1],
            level,
            embedding[rows],
            lengths,
            valid,
            bidirectional,
            conditions,
        )
        squares = (objective.clean(prediction, noisy, level) - clean) ** 2 * valid
        return squares.mean(axis=2).sum(axis=1) / valid.sum(axis=(1, 2))

    own, other = jnp.arange(size), batch["other"]
    given = {
        "right": (own, lengths),
        "other": (other, lengths[other]),
        "none": (own, jnp.zeros_like(lengths)),
    }
    # One after the other, so that the network is compiled once.
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


class TextGain(Hook):
    """Logs `text_gain/LOG_SNR` of the EMA parameters at every checkpoint.

    Of the first `window` frames of held-out examples; nothing where no two captions differ. From
    `EARLY` on, `progress` is told once that no gain reaches `HEARD`, and once when one does later;
    not where `data.limit` asks for a few clips to be memorised.
    """

    def __init__(
        self,
        held_out_clips: Iterable[Clips],
        inputs: Callable[[Clips], Inputs],
        *,
        config: ConfigDict,
        unet: Denoiser,
        codec: Codec,
        text: TextEncoder,
        window: int,
        progress: Callable[[str], None],
    ):
        self._training, self._progress = config.train_diffusion, progress
        self._due, self._told = config.data.limit == 0, False
        self._batch = None
        examples = held_out(held_out_clips)
        if examples is None:
            return
        batch = dict(inputs(examples)) | {"other": examples["other"]}
        if "audio" in batch:
            batch["latents"] = _encode(batch, codec)
            batch["valid_frames"] = -(-batch["valid_samples"] // codec.hop)
        frames = np.minimum(batch["valid_frames"], window)
        kept = ("tokens", "text_embedding", "text_lengths", "conditions", "other")
        self._batch = {name: batch[name] for name in kept if name in batch}
        self._batch |= {"latents": batch["latents"][:, :window], "valid_frames": frames}

        @jax.jit
        def errors(params, batch, log_snr):
            key = jax.random.key(0)
            found = text_errors(params, batch, key, log_snr, config=config, unet=unet, text=text)
            return jax.tree.map(jnp.mean, found)

        self._errors = errors

    def after_step(self, step: int, state: TrainState) -> dict[str, float]:
        every, steps = self._training.checkpoint_every, self._training.steps
        if self._batch is None or (step % every and step != steps):
            return {}
        gains = {}
        for log_snr in LOG_SNRS:
            error = self._errors(state.ema["diffusion"], self._batch, float(log_snr))
            error = jax.device_get(error)
            gains[f"text_gain/{log_snr}"] = float(1 - error["right"] / error["other"])
        self._report(max(gains.values()), step)
        return gains

    def _report(self, best: float, step: int) -> None:
        if not self._due:
            return
        if best >= HEARD:
            self._due = False
            if self._told:
                self._progress(
                    f"diffusion: the text is heard now (text_gain is {best:.3f} at best)."
                )
        elif not self._told and step >= EARLY * self._training.steps:
            self._told = True
            self._progress(
                "diffusion: the text is not heard yet. Held-out examples are denoised hardly "
                f"better with their own captions than with others' (text_gain is {best:.3f} at "
                "best). If it stays so, see docs/model.md#my-output-is-noise."
            )


def _encode(batch: Inputs, codec: Codec) -> Float[np.ndarray, "batch frames k"]:
    """The latents of waveforms, as the training step has them, a few at a time."""
    names = ("audio", "before", "after", "has_before", "has_after")
    waveforms = {name: batch[name] for name in names if name in batch}
    frozen = {"autoencoder": codec.params}
    encode_some = jax.jit(lambda part: encode(part, codec, frozen))
    parts = [
        {name: array[row : row + ENCODED] for name, array in waveforms.items()}
        for row in range(0, len(waveforms["audio"]), ENCODED)
    ]
    return np.concatenate([np.asarray(encode_some(part)) for part in parts])
