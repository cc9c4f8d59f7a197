"""What a batch holds at each stage on its way from the data to the loss.

All are dictionaries of arrays, whose first axis is the batch, so that a mesh or a micro-batch
splits every array alike.

    Clips --(host: tokenise, read conditions)--> Inputs --(draw: random numbers)--> Drawn --> losses
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped


class Clips(TypedDict, total=False):
    """What the data give, as numpy arrays: waveforms, or latents of them, and what is known."""

    # Waveforms in [-1, 1] as float, or as 16-bit PCM, which `as_float` converts on the device.
    audio: Shaped[np.ndarray, "batch samples 2"]
    valid_samples: Int[np.ndarray, " batch"]  # of each clip; the rest is padding
    # Of waveforms that are encoded in the step: the audio of the piece directly before and after.
    before: Shaped[np.ndarray, "batch around 2"]
    after: Shaped[np.ndarray, "batch around 2"]
    before_samples: Int[np.ndarray, " batch"]  # of them, next to the clip, that are audio
    after_samples: Int[np.ndarray, " batch"]
    latents: Float[np.ndarray, "batch frames k"]  # whitened
    valid_frames: Int[np.ndarray, " batch"]
    caption: np.ndarray  # of strings [batch]
    meta: np.ndarray  # of strings [batch], JSON
    start: Float[np.ndarray, " batch"]  # seconds into its piece at which a clip begins
    total: Float[np.ndarray, " batch"]  # seconds of the whole piece
    text_embedding: Float[np.ndarray, "batch tokens features"]  # of a frozen text encoder
    text_lengths: Int[np.ndarray, " batch"]
    index: Int[np.ndarray, " batch"]  # the clip's place in its split


# The numbers that a conditioner knows of each example, by name (NaN: unknown).
Numbers = Float[Array | np.ndarray, " batch"]
Values = Mapping[str, Numbers]
Conditions = Mapping[str, Values]  # by the name of the conditioner


class Inputs(TypedDict, total=False):
    """What the device gets: of `Clips` the waveforms or latents, the text, and the conditions."""

    audio: Shaped[Array, "batch samples 2"]
    valid_samples: Int[Array, " batch"]
    before: Shaped[Array, "batch around 2"]
    after: Shaped[Array, "batch around 2"]
    before_samples: Int[Array, " batch"]
    after_samples: Int[Array, " batch"]
    sided: Bool[Array, " batch"]  # whether the text of a waveform says left or right
    latents: Float[Array, "batch frames k"]
    valid_frames: Int[Array, " batch"]
    tokens: Int[Array, "batch tokens"]  # for a text encoder that is trained
    text_embedding: Float[Array, "batch tokens features"]  # or from one that is frozen
    text_lengths: Int[Array, " batch"]
    conditions: Conditions
    other: Int[Array, " batch"]  # the row of another text, for training/text_gain.py
    start: Float[Array, " batch"]  # as in `Clips`, where the data know it
    index: Any  # stays on the host


class AutoencoderInputs(TypedDict, total=False):
    """What the device gets to train the autoencoder; see training/autoencoder_losses.py."""

    audio: Shaped[Array, "batch samples 2"]
    valid_samples: Int[Array, " batch"]
    ramp: Float[Array, " batch"]  # weight of the adversarial losses, from their start on
    mask_key: Key[Array, " batch"]  # drawn in the step
    index: Any


class Drawn(Inputs, total=False):
    """`Inputs` with a step's random numbers; `latents` and `valid_frames` are of one window."""

    task: Int[Array, " batch"]  # the place in `TASKS`
    mask: Float[Array, "batch frames 1"]  # 1 where the latents are given as context
    causal: Bool[Array, " batch"]
    time: Float[Array, " batch"]  # of the noise schedule, in [0, 1)
    noise: Float[Array, "batch frames k"]
    null_text: Bool[Array, " batch"]  # whether the example is trained without its text


def as_float(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch, of numpy or JAX arrays, with its 16-bit waveforms as float32 in [-1, 1]."""
    pcm = [
        name
        for name in ("audio", "before", "after")
        if name in batch and batch[name].dtype == np.int16
    ]
    return {**batch, **{name: batch[name].astype(np.float32) / 32767 for name in pcm}}
