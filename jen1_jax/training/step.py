"""One training step as a pure function: (state, batch, frozen) -> (state, metrics).

    batch -- draw --> batch with random numbers -- losses --> gradient --> optimiser --> EMA

`draw` makes all random numbers and calls no network; `losses` call the networks and draw nothing.
So a batch may be cut into micro-batches, or spread over devices, and the result stays the same.
(Only the autoencoder's latent mask comes from a key per micro-batch, which `draw` makes too.)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax.sharding import compiler_options, constrain, gathered, reducing_in

NORMS = 100  # updates that the mean of the gradient norms goes back, about

Batch = Mapping[str, Any]  # see jen1_jax/batch.py
PerExample = dict[str, Float[Array, " batch"]]  # by the name of a loss


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds. `params`, `ema` and `optimizer` have one entry per trainable."""

    step: Any  # batches seen, an int32 scalar: the position in the data
    updates: Any  # of the parameters; a skipped step adds none
    norm: Any  # running mean of the gradient norms
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
    is_trained = lambda path: not trainable.trained or _found(trainable.trained, path)
    keep = lambda path, leaf: leaf if is_trained(path) else None
    return jax.tree.map_with_path(keep, params)


def put_back(part: PyTree, whole: PyTree) -> PyTree:
    """`whole` with the leaves of `part` that are not None in place of its own."""
    choose = lambda new, old: old if new is None else new
    return jax.tree.map(choose, part, whole, is_leaf=lambda leaf: leaf is None)


def _found(patterns: Sequence[str], path: tuple) -> bool:
    """Whether one of the regular expressions is found in the names on the way to a leaf."""
    return any(re.search(pattern, path_name(path)) for pattern in patterns)


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
        norm=jnp.zeros(()),
        params=params,
        ema=jax.tree.map(jnp.copy, params) if average else {},
        optimizer={
            name: each.optimizer.init(trained_part(each, params[name]))
            for name, each in trainables.items()
        },
    )


def jit_step(
    trainables: Mapping[str, Trainable],
    draw: Callable[[Key[Array, ""], Int[Array, ""], Batch], Batch],
    training: ConfigDict,
    *,
    mesh: Mesh,
    layout: TrainState,
    placement: ConfigDict,
    seed: int,
) -> Any:
    """The jitted step of a section `train_*`, as training runs it and `jen1 plan` compiles it.

    `layout` has the shardings of the state, and `placement` is the section `mesh`. The new state
    takes the memory of the old one.
    """
    step = make_step(
        trainables,
        draw,
        ema_decay=training.ema_decay,
        microbatches=training.microbatches,
        largest_jump=training.largest_jump,
        seed=seed,
        layout=layout.params,
        reduce_dtype=placement.reduce_dtype,
        gather_once=training.get("gather_once", ()),  # the autoencoder's has none
    )
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(layout, None),
        compiler_options=compiler_options(mesh),
    )


def make_step(
    trainables: Mapping[str, Trainable],
    draw: Callable[[Key[Array, ""], Int[Array, ""], Batch], Batch],
    *,
    ema_decay: float,
    microbatches: int = 1,
    largest_jump: float = 0.0,
    seed: int = 0,
    layout: Mapping[str, PyTree] | None = None,
    reduce_dtype: str = "float32",
    gather_once: Sequence[str] = (),
) -> Callable[[TrainState, Batch, PyTree], tuple[TrainState, dict[str, Array]]]:
    """The step function, to be jitted.

    Its metrics are scalars: the mean of every loss as `loss/NAME` (NaN where no example of the
    batch counts), their weighted sum for the first trainable as `loss`, `grad_norm` over all
    trainables and `grad_norm/MODULE` of their parts, `updates` before this one, `skipped` and
    `exploded`.

    A step with a non-finite loss or gradient, or with a gradient that exploded, changes no
    parameter, and nothing of the EMA and the optimiser. It explodes where its norm is more than
    `largest_jump` times the mean of the last ones (0: it never does). In this mean larger norms
    count as the limit, so that it rises by up to a factor of 1 + (largest_jump - 1) / NORMS in each
    such step, and training goes on where the norms have become larger for good. The first `NORMS`
    updates have no limit.

    On a mesh, gradients get the shardings `layout` of the parameters, and devices sum those of
    kernels in `reduce_dtype`, or in the type of the layer's arithmetic if that is wider. Kernels
    with one of the expressions `gather_once` in their path are gathered before the passes, in
    bfloat16, in which their gradients then are too, and the others in each pass.
    """

    def step(
        state: TrainState, batch: Batch, frozen: PyTree = None
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = draw(key, state.step, batch)
        # The decay starts low: a short run must not average its first parameters in.
        decay = jnp.minimum(ema_decay, (1 + state.updates) / (10 + state.updates))
        params, ema, optimizer = dict(state.params), dict(state.ema), dict(state.optimizer)
        whole = {
            name: jax.tree.map_with_path(partial(_gather, patterns=gather_once), each)
            for name, each in state.params.items()
        }
        found = {}
        for name, trainable in trainables.items():
            with reducing_in(reduce_dtype):
                found[name] = _differentiate(
                    name, trainable, whole, batch, frozen, microbatches, layout
                )
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
        has_limit = (state.updates >= NORMS) & (largest_jump > 0)
        limit = jnp.where(has_limit, largest_jump * state.norm, jnp.inf)
        exploded = finite & (norm > limit)
        share = 1 / (1 + jnp.minimum(state.updates, NORMS))
        usual = state.norm + share * (jnp.minimum(norm, limit) - state.norm)
        usual = jnp.where(finite, usual, state.norm)
        updated = state.replace(
            updates=state.updates + 1, params=params, ema=ema, optimizer=optimizer
        )
        good = finite & ~exploded
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, state)
        metrics = {"loss": losses[0], "grad_norm": norm, "skipped": ~good, "exploded": exploded}
        metrics["updates"] = state.updates
        for each in found.values():
            metrics |= {f"loss/{key}": mean for key, mean in each.means.items()}
            metrics |= module_norms(each.gradient)
        return state.replace(step=state.step + 1, norm=usual), metrics

    return step


def _gather(path: tuple, leaf: Array, patterns: Sequence[str]) -> Array:
    """A parameter as the passes read it: whole and in bfloat16 if its path has a pattern."""
    return gathered(leaf.astype(jnp.bfloat16)) if _found(patterns, path) else leaf


def module_norms(gradient: PyTree) -> dict[str, Float[Array, ""]]:
    """The gradient's norm in each module, the second level of the parameters' names."""
    return {
        f"grad_norm/{part}/{name}": optax.global_norm(module)
        for part, modules in gradient.items()
        for name, module in (modules.items() if isinstance(modules, Mapping) else ())
    }


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
        losses = trainable.losses(dict(params) | {name: put_back(own, params[name])}, part, frozen)
        shares = trainable.counts(part)
        means = {
            key: jnp.sum(each * shares[key]) / jnp.maximum(counts[key], 1)
            for key, each in losses.items()
        }
        return sum(trainable.weights[key] * mean for key, mean in means.items()), means

    own = trained_part(trainable, params[name])

    def differentiate(part):
        found, gradient = jax.value_and_grad(loss, has_aux=True)(own, part)
        if layout is not None:
            places = trained_part(trainable, layout[name])
            gradient = jax.lax.with_sharding_constraint(gradient, places)
        return found, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradient)

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
