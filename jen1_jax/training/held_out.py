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


def first_clips(batches: Iterable[Mapping[str, Any]]) -> Any | None:
    """The first `EXAMPLES` clips with finite data; None if there are none."""
    parts, count = [], 0
    for batch in batches:
        data = batch["latents"] if "latents" in batch else batch["audio"]
        rows = np.flatnonzero(np.isfinite(data).all(axis=(1, 2)))[: EXAMPLES - count]
        parts.append({name: array[rows] for name, array in batch.items()})
        count += len(rows)
        if count == EXAMPLES:
            break
    if count == 0:
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def held_out_loss(
    trainable: Trainable, draw: Callable, inputs: Mapping[str, Any], frozen: PyTree
) -> Callable[[PyTree], jax.Array]:
    """Parameters of all trainables -> the loss of this one on `inputs`, always with one draw.

    So losses of different steps have the same tasks, times and noise, and can be compared.
    """

    @jax.jit
    def loss(params, inputs, frozen):
        batch = draw(jax.random.key(0), jnp.int32(0), inputs)
        losses, counts = trainable.losses(params, batch, frozen), trainable.counts(batch)
        return sum(
            trainable.weights[name]
            * jnp.sum(each * counts[name])
            / jnp.maximum(counts[name].sum(), 1)
            for name, each in losses.items()
        )

    batch = {name: array for name, array in inputs.items() if name != "index"}
    return lambda params: loss(params, batch, frozen)
