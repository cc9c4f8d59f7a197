"""One training step as a pure function: (state, batch, frozen) -> (state, metrics).

    batch --draw--> batch with this step's randomness --terms--> per-example losses --> gradient --> optimiser --> EMA

`draw` holds all randomness and no network; `terms` holds the networks and no randomness. That is what lets a batch be cut into
micro-batches, or spread over devices, without changing what is learned. (The autoencoder's latent mask alone comes from a key per
micro-batch, drawn in `draw` all the same.)
"""

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
    autoencoder and its discriminator are two. All move at once, each from where the others were: what several losses need, like
    the reconstruction and the verdicts on it, is then computed once.
    """

    init: Callable[[Key[Array, ""]], PyTree]
    terms: Callable[[PyTree, Batch, PyTree], Terms]
    weights: Mapping[str, float]
    optimizer: optax.GradientTransformation


def adamw(
    config: ConfigDict, start: int = 0
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with a global-norm clip, linear warm-up from step `start` and linear decay to 0 at `steps`; only `matrices` decay."""
    schedule = optax.join_schedules(
        [
            optax.constant_schedule(0.0),
            optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps),
            optax.linear_schedule(
                config.learning_rate, 0.0, config.steps - config.warmup_steps - start
            ),
        ],
        [start, start + config.warmup_steps],
    )
    b1, b2 = config.betas
    optimizer = optax.chain(
        _clip(config.clip),
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=config.weight_decay, mask=matrices),
    )
    return optimizer, schedule


def matrices(params: PyTree) -> PyTree:
    """Which parameters multiply activations; biases and scales do not, stacked by `unet.scan` or not."""
    vectors = ("bias", "scale")
    return jax.tree.map_with_path(
        lambda path, leaf: leaf.ndim > 1 and path[-1].key not in vectors, params
    )


def _clip(limit: float) -> optax.GradientTransformation:
    """Scales gradients down to a global norm of `limit`, by one factor: the division in optax's own is another pass on a CPU."""

    def clip(gradient: PyTree, _) -> PyTree:
        factor = limit / jnp.maximum(optax.global_norm(gradient), limit)
        return jax.tree.map(lambda slope: factor * slope, gradient)

    return optax.stateless(clip)


def init_state(
    players: Mapping[str, Player], key: Key[Array, ""], given: Mapping[str, PyTree] | None = None
) -> TrainState:
    """A fresh state, with the `given` players' parameters; the EMA starts as a copy of the parameters."""
    params = {
        name: player.init(jax.random.fold_in(key, n))
        for n, (name, player) in enumerate(players.items())
    }
    params |= jax.tree.map(jnp.copy, dict(given or {}))
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
    """The step function, to be jitted. Metrics are scalars: every term as `loss/TERM`, NaN where no element of the batch has it,
    the first player's weighted sum of those that some have as `loss`, `grad_norm` over all players, and `skipped`.

    A step with a non-finite loss or gradient changes nothing but the step counter: no player's parameters, EMA or optimiser.
    """
    first = next(iter(players))

    def gradient(player: Player, name: str, params: PyTree, batch: Batch, frozen: PyTree):
        """(weighted loss, means of the terms), and the gradient by the player's own parameters."""

        def sums(own, part):
            terms = player.terms(params | {name: own}, part, frozen)
            return jax.tree.map(jnp.sum, terms)

        # Only the counts are kept of this pass, and they depend on no network: the compiler drops everything else.
        counts = add_up(
            lambda part: {key: count for key, (_, count) in sums(params[name], part).items()},
            batch,
            microbatches,
        )

        def loss(own, part):
            means = {
                key: total / jnp.maximum(counts[key], 1)
                for key, (total, _) in sums(own, part).items()
            }
            return sum(player.weights[key] * mean for key, mean in means.items()), means

        gradients = lambda part: jax.value_and_grad(loss, has_aux=True)(params[name], part)
        (value, means), slope = add_up(gradients, batch, microbatches)
        return (
            value,
            {key: jnp.where(counts[key] > 0, mean, jnp.nan) for key, mean in means.items()},
        ), slope

    def move(
        player: Player,
        gradient: PyTree,
        params: PyTree,
        ema: PyTree,
        optimizer: PyTree,
        updates: Int[Array, ""],
    ):
        changes, optimizer = player.optimizer.update(gradient, optimizer, params)
        params = optax.apply_updates(params, changes)
        decay = jnp.minimum(
            ema_decay, (1 + updates) / (10 + updates)
        )  # short runs must not average their start in
        ema = jax.tree.map(
            lambda e, p: e + (1 - decay) * (p - e), ema, params
        )  # in this form what does not move stays as it is
        return params, ema, optimizer

    def step(
        state: TrainState, batch: Batch, frozen: PyTree = None
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = draw(key, state.step, batch)
        found = {
            name: gradient(player, name, state.params, batch, frozen)
            for name, player in players.items()
        }
        norm = optax.global_norm([slope for _, slope in found.values()])
        finite = jnp.isfinite(norm) & jnp.all(
            jnp.array([jnp.isfinite(value) for (value, _), _ in found.values()])
        )
        moved = {
            name: move(
                player,
                found[name][1],
                state.params[name],
                state.ema[name],
                state.optimizer[name],
                state.updates,
            )
            for name, player in players.items()
        }
        params, ema, optimizer = (
            {name: parts[n] for name, parts in moved.items()} for n in range(3)
        )
        new = state.replace(params=params, ema=ema, optimizer=optimizer, updates=state.updates + 1)
        state = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)
        metrics = {"loss": found[first][0][0], "grad_norm": norm, "skipped": 1.0 - finite}
        for (_, means), _ in found.values():
            metrics |= {f"loss/{key}": mean for key, mean in means.items()}
        return state.replace(step=state.step + 1), metrics

    return step


def add_up(function: Callable[[Batch], PyTree], batch: Batch, parts: int) -> PyTree:
    """The sum of `function` over `batch` cut into `parts` along its first axis, one after the other."""
    if (
        parts == 1
    ):  # no loop then: inside one, XLA's gradients of convolutions are seven times slower on a CPU
        return function(batch)
    stacked = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    first = jax.tree.map(lambda x: x[0], stacked)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, first)
    )
    return jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zeros, stacked
    )[0]
