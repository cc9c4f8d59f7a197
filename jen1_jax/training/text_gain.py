"""Measures in training whether the diffusion model uses the text.

Held-out examples are denoised with their own captions and with captions of other examples. The
`text_gain` at a log-SNR is 1 - error(own caption) / error(other caption): 0 if the model ignores
the text, above 0 if the right caption helps, below 0 if it misleads the model. It shows early
whether the text has an effect. The loss does not: it also falls if the model ignores the text.
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
from jen1_jax.training.diffusion_loss import embed_text, encode, valid_mask
from jen1_jax.training.hooks import Hook
from jen1_jax.training.step import TrainState

# From almost pure noise, in which only the caption describes the music, to equal music and noise.
LOG_SNRS = (-6, -4, -2, 0)
EXAMPLES = 32
PER_CAPTION = 4  # of these examples, since the clips of a long file share one caption
MAX_READ = 512  # held-out examples that are read to find them
ENCODED = 8  # waveforms that are encoded at once
# Lower gains count as none: in runs that gave no music they were up to .018 (docs/decisions.md).
MIN_GAIN = 0.025
DEADLINE = 0.1  # share of the training steps after which the gain should have reached it


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
    """The mean squared error of each example's denoised latents at `log_snr`, with three texts.

    These are its own text (`right`), the text of the row `batch["other"]` (`other`), and no text
    (`none`). No frames are given as context, the mode is bidirectional, the noise is the same for
    all three, and padding does not count. For each objective the error is that of the clean
    latents, so that objectives can be compared. `params` are those of the diffusion model: `unet`,
    and `text` if the text encoder is trained. `batch` holds `latents` and `valid_frames`.
    """
    clean = batch["latents"].astype(jnp.float32)
    size, frames, _ = clean.shape
    valid = valid_mask(batch["valid_frames"], frames)
    level = jnp.full(size, log_snr, jnp.float32)
    clean, no_context, bidirectional = clean * valid, jnp.zeros_like(clean), jnp.zeros(size, bool)
    noisy = corrupt(clean, jax.random.normal(key, clean.shape), level)
    embedding, lengths = embed_text(params, batch, text), batch["text_lengths"]
    conditioners = conditioning.chosen(unet.conditioning)
    conditions = conditioner.embed(conditioners, batch.get("conditions", {}))
    objective = OBJECTIVES[config.diffusion.objective]

    def error(text_rows_and_lengths):
        rows, lengths = text_rows_and_lengths
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
    texts = {
        "right": (own, lengths),
        "other": (other, lengths[other]),
        "none": (own, jnp.zeros_like(lengths)),
    }
    # In a loop, so that the network is compiled once.
    errors = jax.lax.map(error, jax.tree.map(lambda *each: jnp.stack(each), *texts.values()))
    return dict(zip(texts, errors, strict=True))


def others(captions: Sequence[str]) -> Int[np.ndarray, " captions"]:
    """For each caption the row of the next different one; the first row follows the last.

    There must be at least two different captions.
    """
    count, rows = len(captions), []
    for row in range(count):
        following = ((row + step) % count for step in range(1, count))
        rows.append(next(other for other in following if captions[other] != captions[row]))
    return np.array(rows)


def held_out(batches: Iterable[Mapping[str, Any]]) -> Any | None:
    """The first `EXAMPLES` examples of `batches` that have a caption and finite data.

    They get the field `other` of `text_errors`. The result is None if all captions are the same.
    """
    examples, counts, read = [], Counter(), 0
    for batch in batches:
        for row, caption in enumerate(map(str, batch["caption"])):
            example = {name: array[row] for name, array in batch.items()}
            if caption.strip() and counts[caption] < PER_CAPTION and _usable(example):
                counts[caption] += 1
                examples.append({name: np.copy(array) for name, array in example.items()})
        read += len(batch["caption"])
        if len(examples) >= EXAMPLES or read >= MAX_READ:
            break
    examples = examples[:EXAMPLES]
    captions = [str(example["caption"]) for example in examples]
    if len(set(captions)) < 2:
        return None
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]} | {
        "other": others(captions)
    }


def _usable(example: Mapping[str, Any]) -> bool:
    """Whether an example has valid frames and finite data; else it would make the means NaN."""
    data = example.get("latents", example.get("audio", np.zeros(1)))
    valid = min(example.get("valid_frames", 1), example.get("valid_samples", 1))
    return bool(valid > 0 and np.isfinite(data).all())


class TextGain(Hook):
    """Logs `text_gain/LOG_SNR` of the EMA parameters at every checkpoint.

    It is measured on the first `window` frames of held-out examples, and not at all if these have
    the same caption. If no gain has reached `MIN_GAIN` after the share `DEADLINE` of the steps, a
    message says so, and a second message says when one reaches it later. There are no messages if
    `data.limit` is set: then the model shall memorise a few clips.
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
        self._may_report, self._warned = config.data.limit == 0, False
        self._batch = None
        examples = held_out(held_out_clips)
        if examples is None:
            return
        batch: Any = {**inputs(examples), "other": examples["other"]}
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
            each = text_errors(params, batch, key, log_snr, config=config, unet=unet, text=text)
            return jax.tree.map(jnp.mean, each)

        self._errors = errors

    def due(self, step: int) -> bool:
        every, steps = self._training.checkpoint_every, self._training.steps
        return self._batch is not None and (step % every == 0 or step == steps)

    def evaluate(self, step: int, state: TrainState) -> dict[str, float]:
        gains = {}
        for log_snr in LOG_SNRS:
            error = self._errors(state.averaged["diffusion"], self._batch, float(log_snr))
            error = jax.device_get(error)
            gains[f"text_gain/{log_snr}"] = float(1 - error["right"] / error["other"])
        self._report(max(gains.values()), step)
        return gains

    def _report(self, best: float, step: int) -> None:
        if not self._may_report:
            return
        if best >= MIN_GAIN:
            self._may_report = False
            if self._warned:
                self._progress(
                    f"diffusion: the model uses the text now (text_gain is {best:.3f} at best)."
                )
        elif not self._warned and step >= DEADLINE * self._training.steps:
            self._warned = True
            self._progress(
                "diffusion: the text has little effect so far. With their own captions, held-out "
                "examples are denoised hardly better than with captions of other examples "
                f"(text_gain is {best:.3f} at best). Captions that say little of the music give "
                ".01 to .02: generate some music and listen. Near 0 the model ignores the text: "
                "see docs/model.md#my-output-is-noise."
            )


def _encode(batch: Inputs, codec: Codec) -> Float[np.ndarray, "batch frames k"]:
    """The latents of waveforms, encoded as in the training step, a few at a time."""
    sizes = ("valid_samples", "before_samples", "after_samples")
    names = ("audio", "before", "after", *sizes)
    waveforms: Any = {name: array for name, array in batch.items() if name in names}
    frozen = {"autoencoder": codec.params}
    encode_some = jax.jit(lambda part: encode(part, codec, frozen))
    parts = [
        {name: array[row : row + ENCODED] for name, array in waveforms.items()}
        for row in range(0, len(waveforms["audio"]), ENCODED)
    ]
    return np.concatenate([np.asarray(encode_some(part)) for part in parts])
