"""Measures the training data with a trained autoencoder, for its whitening and its codec."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float, PyTree

from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.whitening import Moments, Whitening

CLIPS = 10_000  # of a split that are measured, evenly spread over it
MARGIN_CLIPS = 64  # clips on which the margin is measured
# How much louder than in the training data a band may be decoded: 3.5 dB, in units of levels.
ROOM = 0.1


class Measured(NamedTuple):
    """Measurements of all valid frames of some data.

    `moments` are those of the latents, encoded without masking. `loudest` is the highest level of
    each band, and empty for an autoencoder without `window`. `clips` are the middles of at most
    `MARGIN_CLIPS` random examples of this process, on which `measure_margin` works.
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
    """Measures `batches`, each process its own; all get the same result, except `clips`.

    Examples whose latents are not finite are left out, as training has skipped their batches. Their
    number is reported to `progress`.
    """

    @jax.jit
    def encode(params, audio):
        latents = model.apply({"params": params}, audio, method="encode")
        if not model.layout:
            return latents, jnp.zeros((*latents.shape[:2], 0))
        levels = spectrum.analyse(audio, model.layout)
        return latents, levels.reshape(*latents.shape[:2], -1, levels.shape[-1]).max(2)

    params = jax.device_put(params, jax.local_devices()[0])
    moments, left_out, size = Moments.empty(model.latent_channels), 0, 0
    loudest = np.zeros(model.layout.bands, np.float32)
    clips, seen, rng = [], 0, np.random.default_rng(0)
    # Samples that hold the frames within reach of the middle, and all that these depend on.
    most = 4 * model.encoder_reach * model.hop
    for batch in batches:
        rows, samples, _ = batch["audio"].shape
        # The last batch may be smaller. It is padded, as another shape would be compiled again.
        size = max(size, rows)
        audio = np.pad(batch["audio"], ((0, size - rows), (0, -samples % model.hop), (0, 0)))
        latents, levels = (np.asarray(part)[:rows] for part in encode(params, audio))
        finite = np.isfinite(latents).all(axis=(1, 2))
        left_out += int((~finite).sum())
        frames = np.where(finite, -(-batch["valid_samples"] // model.hop), 0)
        real = np.arange(latents.shape[1]) < frames[:, None]
        for row in np.flatnonzero(finite):
            # Reservoir sampling: all examples are equally likely to be in the sample.
            seen += 1
            index = len(clips) if len(clips) < MARGIN_CLIPS else int(rng.integers(seen))
            if index < MARGIN_CLIPS:
                valid = int(batch["valid_samples"][row])
                first = max(valid - most, 0) // 2
                clip = np.array(batch["audio"][row, first : min(first + most, valid)])
                clips[index : index + 1] = [clip]
        moments = moments.merge(Moments.of(latents[real]))
        loudest = np.maximum(loudest, levels[real].max(0, initial=0))
    if left_out:
        progress(
            f"whitening: left out {left_out} examples that are not finite; `jen1 data validate` "
            "names them"
        )
    if jax.process_count() > 1:
        loudest = np.asarray(multihost_utils.process_allgather(loudest)).max(0)
    loudest = np.minimum(loudest + ROOM, model.layout.loudest)
    return Measured(over_processes(moments), loudest, clips)


def whole_params(params: PyTree) -> PyTree:
    """Parameters as numpy arrays, gathered from all processes that hold parts of them."""
    if jax.process_count() == 1:
        return jax.device_get(params)
    return multihost_utils.process_allgather(params, tiled=True)


def over_processes(moments: Moments) -> Moments:
    """The moments of the vectors of all processes together, from the moments of each."""
    if jax.process_count() == 1:
        return moments
    channels = len(moments.mean)
    packed = np.concatenate([[moments.count], moments.mean, moments.covariance.ravel()])
    # Sent as pairs of uint32, since JAX would round float64 to float32.
    bits = np.asarray(multihost_utils.process_allgather(packed.view(np.uint32)))
    total = Moments.empty(channels)
    for row in np.ascontiguousarray(bits).view(np.float64):
        count, mean, covariance = int(row[0]), row[1 : channels + 1], row[channels + 1 :]
        total = total.merge(Moments(count, mean, covariance.reshape(channels, channels)))
    return total


def whitening_error(whitening: Whitening, moments: Moments) -> tuple[float, float]:
    """How far the mean of whitened latents is from 0, and their covariance from the identity.

    `moments` are those of the latents before whitening. Both results are root mean squares over the
    entries.
    """
    scaled = whitening.basis / whitening.scale
    mean = (moments.mean - whitening.mean) @ scaled
    covariance = scaled.T @ moments.covariance @ scaled
    root_mean_square = lambda errors: float(np.sqrt(np.mean(errors**2)))
    return root_mean_square(mean), root_mean_square(covariance - np.eye(whitening.k))
