"""The optimiser of all trainings: AdamW with warm-up and linear decay."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict


def adamw(
    training: ConfigDict, start: int = 0
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with its learning-rate schedule, of a section `train_*`.

    Gradients are clipped by their global norm. The learning rate rises linearly from step `start`
    on, and falls linearly to 0 at `training.steps`. Weight decay applies to `matrices` alone.
    """
    rising = training.warmup_steps
    schedule = optax.join_schedules(
        [
            optax.constant_schedule(0.0),
            optax.linear_schedule(0.0, training.learning_rate, rising),
            optax.linear_schedule(training.learning_rate, 0.0, training.steps - rising - start),
        ],
        [start, start + rising],
    )
    b1, b2 = training.betas
    optimizer = optax.chain(
        _clip(training.clip),
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=training.weight_decay, mask=matrices),
    )
    return optimizer, schedule


def matrices(params: PyTree) -> PyTree:
    """True for parameters that multiply activations, also where `unet.scan` stacks them.

    Biases and scales are False.
    """
    vectors = ("bias", "scale")
    is_matrix = lambda path, leaf: leaf.ndim > 1 and path[-1].key not in vectors
    return jax.tree.map_with_path(is_matrix, params)


def _clip(limit: float) -> optax.GradientTransformation:
    """Scales gradients down to a global norm of `limit`, by one factor.

    optax's own divides, which costs a CPU another pass over the gradients.
    """

    def clip(gradient: PyTree, _) -> PyTree:
        factor = limit / jnp.maximum(optax.global_norm(gradient), limit)
        return jax.tree.map(lambda leaf: factor * leaf, gradient)

    return optax.stateless(clip)
