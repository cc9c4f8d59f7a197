"""The start of an autoencoder of STFT levels: the principal directions of its data.

A few hundred steps from random weights do not find them.

On the built-in music 64 directions at 18.75 Hz reach in closed form what training from random weights does not in 600 steps; and
they are the slow and simple things of the music, which a generator learns first. Training then bends them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from jaxtyping import Float, PyTree
from scipy.linalg import eigh

from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.model import Autoencoder, fold
from jen1_jax.errors import Refusal

EXAMPLES, FRAMES = (
    512,
    8,
)  # that the directions are taken from: random crops of the data, and frames of each


def begin(model: Autoencoder, params: PyTree, batches: Iterable[Mapping[str, Any]]) -> PyTree:
    """`params` with the maps `direct` of encoder and decoder set to the principal directions of the first of the training
    `batches`. Each process reads its own; all get what the first found.

    A latent is a direction's coordinate at unit variance. Levels are weighed as `spectrum.distance` weighs them on average.
    """
    found, seen = [], 0
    levels = jax.jit(
        lambda audio: fold(spectrum.analyse(audio, model.window), model.hop // model.strides[0])
    )
    for batch in batches:
        whole = batch["audio"].shape[1] // model.hop * model.hop
        counts = np.minimum(batch["valid_samples"], whole) // model.hop
        for rows, count in zip(np.asarray(levels(batch["audio"][:, :whole])), counts, strict=True):
            if count and np.isfinite(rows).all():
                found.append(rows[np.unique(np.linspace(0, count - 1, FRAMES).astype(int))])
        seen += len(counts)
        if seen >= EXAMPLES:
            break
    if sum(map(len, found)) < 2:
        raise Refusal(
            "There is no audio to begin the autoencoder from; prepare more with `jen1 data prepare`."
        )
    mean, encoder, decoder = directions(np.concatenate(found), model.latent_channels)
    flat = flatten_dict(jax.device_get(params))
    flat["encoder", "direct", "kernel"], flat["encoder", "direct", "bias"] = (
        encoder,
        -mean @ encoder,
    )
    flat["decoder", "direct", "kernel"], flat["decoder", "direct", "bias"] = decoder, mean
    begun = unflatten_dict({path: np.asarray(leaf, np.float32) for path, leaf in flat.items()})
    return multihost_utils.broadcast_one_to_all(begun) if jax.process_count() > 1 else begun


def directions(
    data: Float[np.ndarray, "rows d"], count: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d count"], Float[np.ndarray, "count d"]]:
    """Mean, and the maps into the `count` strongest directions, at unit variance, and back; zero where there are fewer."""
    mean = data.mean(0)
    weight = np.sqrt(spectrum.QUIET + mean)
    centred = (data - mean) * weight
    rows, count_found = len(data), min(count, len(data) - 1)
    gram = (centred @ centred.T).astype(np.float64) / rows
    variance, vectors = eigh(gram, subset_by_index=(rows - count_found, rows - 1))
    real = variance > 1e-6 * max(variance[-1], 1e-12)
    variance, vectors = variance[real][::-1], vectors[:, real][:, ::-1]
    basis = centred.T @ (vectors / np.sqrt(rows * variance))  # orthonormal
    into, back = (
        (basis / np.sqrt(variance)) * weight[:, None],
        (basis * np.sqrt(variance)).T / weight,
    )
    missing = count - len(variance)
    return mean, np.pad(into, ((0, 0), (0, missing))), np.pad(back, ((0, missing), (0, 0)))
