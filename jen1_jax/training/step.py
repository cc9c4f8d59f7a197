"""One training step as a pure function: (state, batch, frozen) -> (state, metrics).

    batch -- draw --> batch with random numbers -- losses --> gradient --> optimiser --> EMA

`draw` makes all random numbers and calls no network; `losses` call the networks and draw nothing.
So a batch may be cut into micro-batches, or spread over devices, and the result stays the same.
(Only the autoencoder's latent mask comes from a key per micro-batch, which `draw` makes too.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from jen1_jax.sharding import constrain, reducing_in

Batch = Mapping[str, Any]  # see jen1_jax/batch.py
PerExample = dict[str, Float[Array, " batch"]]  # by the name of a loss


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds. `params`, `ema` and `optimizer` have one entry per trainable."""

    step: Any  # batches seen, an int32 scalar: the position in the data
    updates: Any  # of the parameters; a skipped step adds none
    params: PyTree
    ema: PyTree
    optimizer: PyTree


@dataclass(frozen=True)
class Trainable:
    """A set of parameters with losses and an optimiser of its own.

    Diffusion has one; the autoencoder and its discriminator are two. They are updated at the same
    time, each with the others' parameters from before the step, so that the compiler computes what
    they share, like the decoded audio, only once.

    Attributes:
        init: a key -> fresh parameters.
        losses: (parameters of all trainables, batch, frozen parameters) -> each example's losses.
        counts: batch -> how much each example counts in the mean of each loss; calls no network.
        weights: of each loss in the total.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    losses: Callable[[PyTree, Batch, PyTree], PerExample]
    counts: Callable[[Batch], PerExample]
    weights: Mapping[str, float]
    optimizer: optax.GradientTransformation


def init_state(
    trainables: Mapping[str, Trainable],
    key: Key[Array, ""],
    given: Mapping[str, PyTree] | None = None,
) -> TrainState:
    """A fresh state, with the parameters in `given`; the EMA starts as a copy of the parameters."""
    params = {
        name: trainable.init(jax.random.fold_in(key, n))
        for n, (name, trainable) in enumerate(trainables.items())
    }
    params |= jax.tree.map(jnp.copy, dict(given or {}))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer={name: each.optimizer.init(params[name]) for name, each in trainables.items()},
    )


def make_step(
    trainables: Mapping[str, Trainable],
    draw: Callable[[Key[Array, ""], Int[Array, ""], Batch], Batch],
    *,
    ema_decay: float,
    microbatches: int = 1,
    seed: int = 0,
    layout: Mapping[str, PyTree] | None = None,
    reduce_dtype: str = "float32",
) -> Callable[[TrainState, Batch, PyTree], tuple[TrainState, dict[str, Array]]]:
    """The step function, to be jitted.

    Its metrics are scalars: the mean of every loss as `loss/NAME` (NaN where no example of the
    batch counts), their weighted sum for the first trainable as `loss`, `grad_norm` over all
    trainables, and `skipped`.

    A step with a non-finite loss or gradient changes nothing but the step counter.

    On a mesh, gradients get the shardings `layout` of the parameters, and devices sum those of
    kernels in `reduce_dtype`, or in the type of the layer's arithmetic if that is wider.
    """

    def step(
        state: TrainState, batch: Batch, frozen: PyTree = None
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = draw(key, state.step, batch)
        # The decay starts low: a short run must not average its first parameters in.
        decay = jnp.minimum(ema_decay, (1 + state.updates) / (10 + state.updates))
        params, ema, optimizer = dict(state.params), dict(state.ema), dict(state.optimizer)
        found = {}
        for name, trainable in trainables.items():
            with reducing_in(reduce_dtype):
                found[name] = _differentiate(
                    name, trainable, state.params, batch, frozen, microbatches, layout
                )
            changes, optimizer[name] = trainable.optimizer.update(
                found[name].gradient, state.optimizer[name], state.params[name]
            )
            params[name] = optax.apply_updates(state.params[name], changes)
            # In this form the EMA of parameters that do not change stays the same bit for bit.
            average = lambda e, p: e + (1 - decay) * (p - e)
            ema[name] = jax.tree.map(average, state.ema[name], params[name])

        norm = optax.global_norm([each.gradient for each in found.values()])
        losses = jnp.array([each.loss for each in found.values()])
        finite = jnp.isfinite(norm) & jnp.isfinite(losses).all()
        updated = state.replace(
            updates=state.updates + 1, params=params, ema=ema, optimizer=optimizer
        )
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        metrics = {"loss": losses[0], "grad_norm": norm, "skipped": 1.0 - finite}
        for each in found.values():
            metrics |= {f"loss/{key}": mean for key, mean in each.means.items()}
        return state.replace(step=state.step + 1), metrics

    return step


class _Differentiated(NamedTuple):
    loss: Float[Array, ""]
    means: dict[str, Float[Array, ""]]
    gradient: PyTree


def _differentiate(
    name: str,
    trainable: Trainable,
    params: Mapping[str, PyTree],
    batch: Batch,
    frozen: PyTree,
    microbatches: int,
    layout: Mapping[str, PyTree] | None,
) -> _Differentiated:
    """The weighted loss of one trainable, the means of its losses, and the loss's gradient."""
    counts = {key: jnp.sum(each) for key, each in trainable.counts(batch).items()}

    def loss(own, part):
        losses = trainable.losses(dict(params) | {name: own}, part, frozen)
        shares = trainable.counts(part)
        means = {
            key: jnp.sum(each * shares[key]) / jnp.maximum(counts[key], 1)
            for key, each in losses.items()
        }
        return sum(trainable.weights[key] * mean for key, mean in means.items()), means

    def differentiate(part):
        found, gradient = jax.value_and_grad(loss, has_aux=True)(params[name], part)
        if layout is not None:
            gradient = jax.lax.with_sharding_constraint(gradient, layout[name])
        return found, gradient

    (value, means), gradient = add_up(differentiate, batch, microbatches)
    means = {key: jnp.where(counts[key] > 0, mean, jnp.nan) for key, mean in means.items()}
    return _Differentiated(value, means, gradient)


def add_up(function: Callable[[Batch], PyTree], batch: Batch, parts: int) -> PyTree:
    """The sum of `function` over `batch`, cut into `parts` along its first axis, one by one.

    Part m holds the rows m, m + parts, and so on, so that each device cuts its own rows.
    """
    if parts == 1:  # a loop of one turn would make XLA's gradients on a CPU seven times slower
        return function(batch)
    cut = lambda x: constrain(x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), axis=1)
    stacked = jax.tree.map(cut, batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], stacked))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    add = lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None)
    return jax.lax.scan(add, zeros, stacked)[0]
