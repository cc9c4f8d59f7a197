"""What the whitening and the codec need to know of the training data, measured once the autoencoder is trained."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, PyTree

from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.whitening import Moments, Whitening

MARGIN_CLIPS = 64  # that the margin is measured on
ROOM = (
    0.1  # units of levels, 3.5 dB: how much louder than in the training data a band may be decoded
)


class Measured(NamedTuple):
    """Of all valid frames of some data: the moments of the unmasked latents, and with a `window` each band's loudest level.

    `clips` are this process's random sample of at most `MARGIN_CLIPS` examples, the middle of each, for `measure_margin`.
    """

    moments: Moments
    loudest: Float[np.ndarray, " bands"]
    clips: list[Float[np.ndarray, "samples 2"]]


def measure(
    model: Autoencoder,
    params: PyTree,
    batches: Iterable[Mapping[str, Any]],
    progress: Callable[[str], None] = print,
) -> Measured:
    """What `batches` give; processes share them and get the same answer.

    Examples whose latents are not finite are left out, and that is told: training has skipped them too.
    """

    @jax.jit
    def encode(params, audio):
        latents = model.apply({"params": params}, audio, method="encode")
        if not model.window:
            return latents, jnp.zeros((*latents.shape[:2], 0))
        levels = spectrum.analyse(audio, model.window)
        return latents, levels.reshape(*latents.shape[:2], -1, levels.shape[-1]).max(2)

    params = jax.device_put(params, jax.local_devices()[0])
    moments, left_out, size = Moments.empty(model.latent_channels), 0, 0
    loudest = np.zeros(spectrum.bands(model.window) if model.window else 0, np.float32)
    clips, seen, rng = [], 0, np.random.default_rng(0)
    most = (
        4 * model.encoder_reach * model.hop
    )  # frames within reach of the middle, and what these depend on
    for batch in islice(batches, jax.process_index(), None, jax.process_count()):
        rows, samples, _ = batch["audio"].shape
        size = max(
            size, rows
        )  # the last batch may be smaller: padded, it needs no compiling of its own
        audio = np.pad(batch["audio"], ((0, size - rows), (0, -samples % model.hop), (0, 0)))
        latents, levels = (np.asarray(part)[:rows] for part in encode(params, audio))
        finite = np.isfinite(latents).all(axis=(1, 2))
        left_out += int((~finite).sum())
        frames = np.where(finite, -(-batch["valid_samples"] // model.hop), 0)
        real = np.arange(latents.shape[1]) < frames[:, None]
        for row in np.flatnonzero(finite):
            seen += 1  # a reservoir: every example is as likely to be in the sample
            place = len(clips) if len(clips) < MARGIN_CLIPS else int(rng.integers(seen))
            if place < MARGIN_CLIPS:
                valid = int(batch["valid_samples"][row])
                first = max(valid - most, 0) // 2
                clips[place : place + 1] = [
                    np.array(batch["audio"][row, first : min(first + most, valid)])
                ]
        moments = moments.merge(Moments.of(latents[real]))
        loudest = np.maximum(loudest, levels[real].max(0, initial=0))
    if left_out:
        progress(
            f"whitening: left out {left_out} examples that are not finite; `jen1 data validate` names them"
        )
    if jax.process_count() > 1:
        loudest = np.asarray(multihost_utils.process_allgather(loudest)).max(0)
    return Measured(over_processes(moments), np.minimum(loudest + ROOM, spectrum.LOUDEST), clips)


def whole_params(params: PyTree) -> PyTree:
    """Parameters as numpy arrays, gathered where several processes hold parts of them."""
    if jax.process_count() == 1:
        return jax.device_get(params)
    return multihost_utils.process_allgather(params, tiled=True)


def over_processes(moments: Moments) -> Moments:
    """Those of all processes' vectors together, of which each brings its own."""
    if jax.process_count() == 1:
        return moments
    channels = len(moments.mean)
    packed = np.concatenate([[moments.count], moments.mean, moments.covariance.ravel()])
    bits = np.asarray(
        multihost_utils.process_allgather(packed.view(np.uint32))
    )  # as bits: JAX would round float64 to float32
    total = Moments.empty(channels)
    for row in np.ascontiguousarray(bits).view(np.float64):
        total = total.merge(
            Moments(
                int(row[0]), row[1 : channels + 1], row[channels + 1 :].reshape(channels, channels)
            )
        )
    return total


def whitening_error(whitening: Whitening, moments: Moments) -> tuple[float, float]:
    """How far whitened latents with these moments are from zero mean and identity covariance: root mean squares over entries."""
    scaled = whitening.basis / whitening.scale
    mean = (moments.mean - whitening.mean) @ scaled
    covariance = scaled.T @ moments.covariance @ scaled
    return float(np.sqrt(np.mean(mean**2))), float(
        np.sqrt(np.mean((covariance - np.eye(whitening.k)) ** 2))
    )
