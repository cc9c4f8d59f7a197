"""The loss on held-out clips, by which the best checkpoint is found.

It falls while the model learns, and rises where it only remembers its training clips.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jen1_jax.training.step import Trainable

EXAMPLES = 32


def first_clips(batches: Iterable[Mapping[str, Any]], most: int) -> Any | None:
    """The first `most` clips with finite data; None if there are none."""
    parts, count = [], 0
    for batch in batches:
        data = batch["latents"] if "latents" in batch else batch["audio"]
        rows = np.flatnonzero(np.isfinite(data).all(axis=(1, 2)))[: most - count]
        parts.append({name: array[rows] for name, array in batch.items()})
        count += len(rows)
        if count == most:
            break
    if count == 0:
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def held_out_loss(
    trainable: Trainable, draw: Callable, inputs: Mapping[str, Any]
) -> Callable[[PyTree, PyTree], jax.Array]:
    """(parameters of all trainables, frozen ones) -> the loss of this trainable on `inputs`.

    Each call draws the same tasks, times and noise, so losses of different steps can be compared.
    """

    @jax.jit
    def loss(params, frozen, inputs):
        batch = draw(jax.random.key(0), jnp.int32(0), inputs)
        losses, counts = trainable.losses(params, batch, frozen), trainable.counts(batch)
        mean = lambda name: (
            jnp.sum(losses[name] * counts[name]) / jnp.maximum(counts[name].sum(), 1)
        )
        return sum(trainable.weights[name] * mean(name) for name in losses)

    batch = {name: array for name, array in inputs.items() if name != "index"}
    return lambda params, frozen: loss(params, frozen, batch)
