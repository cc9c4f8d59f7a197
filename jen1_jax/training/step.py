"""One training step as a pure function: (state, batch, frozen) -> (state, metrics).

    batch --draw--> batch with this step's randomness --terms--> per-example losses --> gradient --> optimiser --> EMA

`draw` holds all randomness and no network; `terms` holds the networks and no randomness. That is what lets a batch be cut into
micro-batches, or spread over devices, without changing what is learned. (The autoencoder's latent mask alone comes from a key per
micro-batch, drawn in `draw` all the same.)
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

Batch = Mapping[str, Any]
# Name -> (sum over the example's valid elements, their count), both [batch]: means are taken over a whole global batch only.
Terms = dict[str, tuple[Float[Array, " batch"], Float[Array, " batch"]]]


@flax.struct.dataclass
class TrainState:
    """What a checkpoint holds. `params`, `ema` and `optimizer` have one entry per player."""

    step: Any  # batches seen, an int32 scalar: the data position
    updates: Any  # of the parameters; a skipped step adds none
    params: PyTree
    ema: PyTree
    optimizer: PyTree


@dataclass(frozen=True)
class Player:
    """A set of parameters with a loss and an optimiser of its own.

    `terms(params, batch, frozen)` sees every player's parameters and is differentiated by its own. Diffusion has one player; the
    autoencoder and its discriminator are two, updated in turn inside one step.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    terms: Callable[[PyTree, Batch, PyTree], Terms]
    weights: Mapping[str, float]
    optimizer: optax.GradientTransformation


def adamw(config: ConfigDict) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with a global-norm clip, linear warm-up and linear decay to 0 at `steps`; biases and scales are not decayed."""
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps),
            optax.linear_schedule(config.learning_rate, 0.0, config.steps - config.warmup_steps),
        ],
        [config.warmup_steps],
    )
    matrices = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    b1, b2 = config.betas
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=config.weight_decay, mask=matrices),
    )
    return optimizer, schedule


def init_state(players: Mapping[str, Player], key: Key[Array, ""]) -> TrainState:
    """A fresh state; the EMA starts as a copy of the parameters."""
    params = {name: player.init(jax.random.fold_in(key, n)) for n, (name, player) in enumerate(players.items())}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer={name: player.optimizer.init(params[name]) for name, player in players.items()},
    )


def make_step(
    players: Mapping[str, Player],
    draw: Callable[[Key[Array, ""], Int[Array, ""], Batch], Batch],
    *,
    ema_decay: float,
    microbatches: int = 1,
    seed: int = 0,
) -> Callable[[TrainState, Batch, PyTree], tuple[TrainState, dict[str, Array]]]:
    """The step function, to be jitted. Metrics are scalars: each player's `loss` and terms, `grad_norm`, `skipped`.

    A step with a non-finite loss or gradient changes nothing but the step counter: neither parameters, EMA nor optimiser.
    """

    def update(name: str, state: TrainState, batch: Batch, frozen: PyTree):
        player = players[name]
        own = state.params[name]

        def sums(own, part):
            terms = player.terms(state.params | {name: own}, part, frozen)
            return jax.tree.map(jnp.sum, terms)

        # Only the counts are kept of this pass, and they depend on no network: the compiler drops everything else.
        counts = add_up(lambda part: {key: count for key, (_, count) in sums(own, part).items()}, batch, microbatches)

        def loss(own, part):
            means = {key: total / jnp.maximum(counts[key], 1) for key, (total, _) in sums(own, part).items()}
            return sum(player.weights[key] * mean for key, mean in means.items()), means

        gradients = lambda part: jax.value_and_grad(loss, has_aux=True)(own, part)
        (value, means), gradient = add_up(gradients, batch, microbatches)

        norm = optax.global_norm(gradient)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        changes, optimizer = player.optimizer.update(gradient, state.optimizer[name], own)
        params = optax.apply_updates(own, changes)
        decay = jnp.minimum(ema_decay, (1 + state.updates) / (10 + state.updates))  # short runs must not average their start in
        ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema[name], params)
        state = state.replace(
            params=state.params | {name: keep(params, own)},
            ema=state.ema | {name: keep(ema, state.ema[name])},
            optimizer=state.optimizer | {name: keep(optimizer, state.optimizer[name])},
        )
        metrics = {"loss": value, "grad_norm": norm} | {f"loss/{key}": mean for key, mean in means.items()}
        return state, metrics, finite

    def step(state: TrainState, batch: Batch, frozen: PyTree = None) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = draw(key, state.step, batch)
        metrics, finite = {}, jnp.bool_(True)
        for name in players:
            state, own, ok = update(name, state, batch, frozen)
            prefix = "" if len(players) == 1 else f"{name}/"
            metrics |= {prefix + key: value for key, value in own.items()}
            finite &= ok
        state = state.replace(step=state.step + 1, updates=state.updates + finite)
        return state, metrics | {"skipped": 1.0 - finite}

    return step


def add_up(function: Callable[[Batch], PyTree], batch: Batch, parts: int) -> PyTree:
    """The sum of `function` over `batch` cut into `parts` along its first axis, one after the other."""
    if parts == 1:  # no loop then: inside one, XLA's gradients of convolutions are seven times slower on a CPU
        return function(batch)
    stacked = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    first = jax.tree.map(lambda x: x[0], stacked)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, first))
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, stacked)[0]


def stream(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The named random stream of a step's key: a new stream leaves the others as they were."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
