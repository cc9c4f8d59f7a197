"""The optimisers of all trainings, AdamW and Muon, and their learning rate."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jen1_jax.unet import STACKED
from jen1_numpy.registry import Registry

# Root mean square of a Muon step, in units of the learning rate: about that of AdamW, so that both
# can have the same learning rate and weight decay (Liu et al. 2025, "Muon is scalable for LLM
# training", section 2.2).
MUON_STEP = 0.2


class Optimizer(NamedTuple):
    """An optimiser and its learning rate by step."""

    transformation: optax.GradientTransformation
    schedule: optax.Schedule


def adamw(training: ConfigDict, start: int = 0) -> Optimizer:
    """AdamW of a section `train_*`, from step `start` on."""
    b1, b2 = training.betas
    return _optimizer(optax.scale_by_adam(b1, b2), training, start)


def muon(training: ConfigDict) -> Optimizer:
    """Muon for the matrices within the networks, and AdamW for all other parameters.

    Muon makes the momentum of a matrix orthogonal (Jordan et al. 2024). The kernel of a convolution
    is a matrix from all inputs of its window to its outputs, and of stacked blocks each has its
    own. Embeddings, the U-Net's first and last layer, biases and scales are left to AdamW, as is
    usual.
    """
    b1, b2 = training.betas
    axes = lambda path, leaf: _axes(path, leaf.ndim)
    orthogonal = optax.chain(
        scale_by_muon(weight_dimension_numbers=partial(jax.tree.map_with_path, axes)),
        optax.stateless(lambda updates, _: jax.tree.map_with_path(_scaled, updates)),
    )
    kind = lambda path, _: "muon" if _is_within(path) else "adam"
    direction = optax.partition(
        {"muon": orthogonal, "adam": optax.scale_by_adam(b1, b2)},
        partial(jax.tree.map_with_path, kind),
    )
    return _optimizer(direction, training)


OPTIMIZERS = Registry("train_diffusion.optimizer", {"adamw": adamw, "muon": muon})


def _optimizer(
    direction: optax.GradientTransformation, training: ConfigDict, start: int = 0
) -> Optimizer:
    """Clipped gradients -> `direction` -> weight decay of the `matrices` -> learning rate."""
    schedule = learning_rate(training, start)
    step = optax.chain(
        direction,
        optax.add_decayed_weights(training.weight_decay, matrices),
        optax.scale_by_learning_rate(schedule),
    )
    return Optimizer(optax.chain(_clip(training.clip), step), schedule)


def learning_rate(training: ConfigDict, start: int = 0) -> optax.Schedule:
    """The learning rate of a section `train_*`: warm-up, constant, linear decay.

    It rises linearly for `warmup_steps` from step `start` on, stays constant, and falls linearly to
    0 at the last step, over the share `decay_share` of the steps after the warm-up (Hu et al. 2024,
    section 4; Hagele et al. 2024). With a share of 0 it does not fall.
    """
    risen = start + training.warmup_steps
    falling = round(training.decay_share * (training.steps - risen))
    return optax.join_schedules(
        [
            optax.constant_schedule(0.0),
            optax.linear_schedule(0.0, training.learning_rate, training.warmup_steps),
            optax.constant_schedule(training.learning_rate),
            optax.linear_schedule(training.learning_rate, 0.0, falling),
        ],
        [start, risen, training.steps - falling],
    )


def matrices(params: PyTree) -> PyTree:
    """True for parameters that multiply activations, also where `unet.scan` stacks them.

    Biases and scales are False.
    """
    vectors = ("bias", "scale")
    is_matrix = lambda path, leaf: leaf.ndim > 1 and path[-1].key not in vectors
    return jax.tree.map_with_path(is_matrix, params)


def _is_within(path: tuple) -> bool:
    """Whether a parameter is the kernel of a layer, and not of the U-Net's first or last one."""
    names = [part.key for part in path]
    ends = (["unet", "stem", "kernel"], ["unet", "output", "kernel"])
    return names[-1] == "kernel" and names not in ends


def _axes(path: tuple, ndim: int) -> MuonDimensionNumbers:
    """Which axes of a kernel are the rows of a matrix, and which its columns."""
    first = int(any(STACKED.search(part.key) for part in path))
    return MuonDimensionNumbers(tuple(range(first, ndim - 1)), (ndim - 1,))


def _scaled(path: tuple, orthogonal: jax.Array) -> jax.Array:
    """The update with the root mean square `MUON_STEP`."""
    axes = _axes(path, orthogonal.ndim)
    rows, columns = (math.prod(orthogonal.shape[axis] for axis in part) for part in axes)
    return MUON_STEP * max(rows, columns) ** 0.5 * orthogonal


def _clip(limit: float) -> optax.GradientTransformation:
    """Scales gradients down to a global norm of `limit`, by one factor.

    optax's own divides, which costs a CPU another pass over the gradients.
    """

    def clip(gradient: PyTree, _) -> PyTree:
        factor = limit / jnp.maximum(optax.global_norm(gradient), limit)
        return jax.tree.map(lambda leaf: factor * leaf, gradient)

    return optax.stateless(clip)
