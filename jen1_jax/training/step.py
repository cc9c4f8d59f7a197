"""One training step as a pure function: (state, batch, frozen) -> (state, metrics).

    batch -- draw --> batch with random numbers -- losses --> gradient --> optimiser --> EMA

`draw` makes all random numbers and calls no network; `losses` call the networks and draw nothing.
So a batch may be cut into micro-batches, or spread over devices, and the result stays the same.
(Only the autoencoder's latent mask comes from a key per micro-batch, which `draw` makes too.)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

Batch = Mapping[str, Any]  # see jen1_jax/batch.py
PerExample = dict[str, Float[Array, " batch"]]  # by the name of a loss


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds. `params`, `ema` and `optimizer` have one entry per trainable."""

    step: Any  # batches seen, an int32 scalar: the position in the data
    updates: Any  # of the parameters; a skipped step adds none
    params: PyTree
    ema: PyTree  # no entry where no average is kept
    optimizer: PyTree

    @property
    def averaged(self) -> PyTree:
        """The EMA of the parameters, or the parameters where no average is kept."""
        return self.ema or self.params


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
        trained: regular expressions; parameters are trained if one of them is found in their path,
            and else frozen: they have no gradient and no state of the optimiser. Without any
            expression all are trained.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    losses: Callable[[PyTree, Batch, PyTree], PerExample]
    counts: Callable[[Batch], PerExample]
    weights: Mapping[str, float]
    optimizer: optax.GradientTransformation
    trained: Sequence[str] = ()


def trained_part(trainable: Trainable, params: PyTree) -> PyTree:
    """`params` with None in place of the parameters that are frozen."""
    is_trained = lambda path: any(re.search(pattern, path) for pattern in trainable.trained)
    keep = lambda path, leaf: leaf if not trainable.trained or is_trained(path_name(path)) else None
    return jax.tree.map_with_path(keep, params)


def put_back(part: PyTree, whole: PyTree) -> PyTree:
    """`whole` with the leaves of `part` that are not None in place of its own."""
    choose = lambda new, old: old if new is None else new
    return jax.tree.map(choose, part, whole, is_leaf=lambda leaf: leaf is None)


def path_name(path: tuple) -> str:
    """The names on the way to a leaf, as in `unet/stem/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def init_state(
    trainables: Mapping[str, Trainable],
    key: Key[Array, ""],
    given: Mapping[str, PyTree] | None = None,
    average: bool = True,
) -> TrainState:
    """A fresh state, with the parameters in `given`; the EMA starts as a copy of the parameters.

    `given` holds the whole tree of a trainable, with None for parameters that are fresh. There is
    an EMA if `average` is set.
    """
    params = {
        name: trainable.init(jax.random.fold_in(key, n))
        for n, (name, trainable) in enumerate(trainables.items())
    }
    for name, part in (given or {}).items():
        params[name] = jax.tree.map(jnp.copy, put_back(part, params[name]))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if average else {},
        optimizer={
            name: each.optimizer.init(trained_part(each, params[name]))
            for name, each in trainables.items()
        },
    )


def make_step(
    trainables: Mapping[str, Trainable],
    draw: Callable[[Key[Array, ""], Int[Array, ""], Batch], Batch],
    *,
    ema_decay: float,
    microbatches: int = 1,
    seed: int = 0,
) -> Callable[[TrainState, Batch, PyTree], tuple[TrainState, dict[str, Array]]]:
    """The step function, to be jitted.

    Its metrics are scalars: the mean of every loss as `loss/NAME` (NaN where no example of the
    batch counts), their weighted sum for the first trainable as `loss`, `grad_norm` over all
    trainables, and `skipped`.

    A step with a non-finite loss or gradient changes nothing but the step counter.
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
            found[name] = _differentiate(name, trainable, state.params, batch, frozen, microbatches)
            own = trained_part(trainable, state.params[name])
            changes, optimizer[name] = trainable.optimizer.update(
                found[name].gradient, state.optimizer[name], own
            )
            own = optax.apply_updates(own, changes)
            params[name] = put_back(own, state.params[name])
            if state.ema:
                # In this form the EMA of parameters that do not change stays the same bit for bit.
                average = lambda e, p: e + (1 - decay) * (p - e)
                averaged = jax.tree.map(average, trained_part(trainable, state.ema[name]), own)
                ema[name] = put_back(averaged, state.ema[name])

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
) -> _Differentiated:
    """The weighted loss of one trainable, the means of its losses, and the loss's gradient."""
    counts = {key: jnp.sum(each) for key, each in trainable.counts(batch).items()}

    def loss(own, part):
        losses = trainable.losses(dict(params) | {name: put_back(own, params[name])}, part, frozen)
        shares = trainable.counts(part)
        means = {
            key: jnp.sum(each * shares[key]) / jnp.maximum(counts[key], 1)
            for key, each in losses.items()
        }
        return sum(trainable.weights[key] * mean for key, mean in means.items()), means

    own = trained_part(trainable, params[name])
    differentiate = lambda part: jax.value_and_grad(loss, has_aux=True)(own, part)
    (value, means), gradient = add_up(differentiate, batch, microbatches)
    means = {key: jnp.where(counts[key] > 0, mean, jnp.nan) for key, mean in means.items()}
    return _Differentiated(value, means, gradient)


def add_up(function: Callable[[Batch], PyTree], batch: Batch, parts: int) -> PyTree:
    """The sum of `function` over `batch`, cut into `parts` along its first axis, one by one."""
    if parts == 1:  # a loop of one turn would make XLA's gradients on a CPU seven times slower
        return function(batch)
    stacked = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], stacked))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    add = lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None)
    return jax.lax.scan(add, zeros, stacked)[0]
