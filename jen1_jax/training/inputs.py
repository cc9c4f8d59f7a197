"""From clips, as the data give them, to what the device gets: done on the host."""

import logging
import re
from functools import cache
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jen1_jax import conditioning
from jen1_jax.batch import Clips, Inputs
from jen1_jax.conditioning import conditioner
from jen1_jax.text.prompts import TextEncoder

# What a text says of the places of instruments is wrong of swapped channels.
SIDES = re.compile(r"\b(left|right|hard[- ]panned|panned|panning)\b", re.IGNORECASE)

log = logging.getLogger(__name__)

UNCHANGED = (
    "latents",
    "valid_frames",
    "audio",
    "valid_samples",
    "before",
    "after",
    "before_samples",
    "after_samples",
    "start",
    "index",
)


def diffusion_inputs(clips: Clips, config: ConfigDict, text: TextEncoder) -> Inputs:
    """The clips with their captions as tokens, or as embeddings where the encoder is frozen."""
    inputs: Any = {name: array for name, array in clips.items() if name in UNCHANGED}
    captions = [str(caption) for caption in clips["caption"]]
    if "audio" in clips:
        inputs["sided"] = np.array([bool(SIDES.search(caption)) for caption in captions])
    if text.trainable:
        inputs["tokens"], inputs["text_lengths"] = text.tokenize(captions)
    elif "text_embedding" in clips:
        inputs |= {name: clips[name] for name in ("text_embedding", "text_lengths")}
    else:
        inputs["text_embedding"], lengths = text.embed(captions)
        inputs["text_lengths"] = lengths
        full = [captions[row] for row in np.flatnonzero(lengths == text.max_length)]
        if any(map(text.tokenizer.truncated, full)):
            _warn_cut(text.max_length)
    conditioners = conditioning.chosen(config.unet.conditioning)
    conditions = conditioner.read(conditioners, clips)
    for name, values in conditions.items():
        if not np.isfinite(np.stack(list(values.values()))).all(0).any():
            _warn_unknown(name)
    return inputs | {"conditions": conditions}


def autoencoder_inputs(clips: Clips, step: int, training: ConfigDict) -> dict[str, np.ndarray]:
    """The clips' audio, and from the adversary's start on `ramp`.

    `ramp` [batch] is the weight of the adversary's losses at this step, up to 1. `training` is the
    section `train_autoencoder`. The steps before and after the start are two compiled functions.
    """
    inputs = {name: clips[name] for name in ("audio", "valid_samples", "index")}
    ramp = (step - training.adversary.start + 1) / max(training.adversary.ramp, 1)
    if ramp > 0:
        inputs["ramp"] = np.full(len(clips["audio"]), min(ramp, 1), np.float32)
    return inputs


@cache
def _warn_unknown(name: str) -> None:
    """Says so once in a process."""
    log.warning(
        "No clip of a batch has a value for the condition %r. Does the data's field have the name "
        "and the type that the conditioner reads?",
        name,
    )


@cache
def _warn_cut(max_length: int) -> None:
    """Says so once in a process."""
    log.warning("Some captions are longer than %d tokens: they are cut there.", max_length)
