"""The three tasks as masks and modes (JEN-1, section 3.3): what the model is given, what it generates, may it look ahead.

| task          | given               | mode                    |
|---------------|---------------------|-------------------------|
| text_to_music | nothing             | either, with even odds  |
| inpainting    | all but a few spans | bidirectional           |
| continuation  | the beginning       | causal                  |

A mask is 1 where the latent is given, 0 where it is to be generated, and 0 in the padding, where nothing is given either. Every
example draws its own mask from its own key. A new task is one function and a line in `TASKS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict

from jen1_jax.errors import Refusal
from jen1_jax.registry import Registry

Drawn = tuple[Float[Array, " frames"], Bool[Array, ""]]  # mask, causal


@dataclass(frozen=True)
class Task:
    """`draw(key, valid_frames, frames, config.tasks)` gives one example's mask over `frames` frames and whether it is causal."""

    name: str
    draw: Callable[[Key[Array, ""], Int[Array, ""], int, ConfigDict], Drawn]


def text_to_music(
    key: Key[Array, ""], valid_frames: Int[Array, ""], frames: int, config: ConfigDict
) -> Drawn:
    """Nothing is given; the mode is a coin toss."""
    return jnp.zeros(frames), jax.random.bernoulli(key)


def inpainting(
    key: Key[Array, ""], valid_frames: Int[Array, ""], frames: int, config: ConfigDict
) -> Drawn:
    """One to `max_spans` separate spans are generated, a share of the valid length within the configured bounds in all."""
    spans = config.max_spans
    if spans < 1:
        raise Refusal(f"tasks needs max_spans >= 1, got {spans}.")
    uniform = jax.random.uniform(key, (2 * spans + 1,))
    total = _generated_frames(uniform[0], valid_frames, config)
    given = valid_frames - total
    count = jnp.minimum(
        _pick(uniform[1], 1, spans), jnp.minimum(total, given + 1)
    )  # a span or the gap before it takes a frame
    widths = _parts(uniform[2 : spans + 1], total, count)
    gaps = _parts(
        uniform[spans + 1 :], given + 2, count + 1
    )  # the outer gaps may be empty: a frame is added to each
    ends = jnp.cumsum(gaps[:-1] + widths) - 1  # ... and the first one taken off again
    frame = jnp.arange(frames)
    generated = jnp.any((frame >= (ends - widths)[:, None]) & (frame < ends[:, None]), axis=0)
    return (~generated & (frame < valid_frames)).astype(jnp.float32), jnp.zeros((), bool)


def continuation(
    key: Key[Array, ""], valid_frames: Int[Array, ""], frames: int, config: ConfigDict
) -> Drawn:
    """The end is generated, a share of the valid length within the configured bounds."""
    given = valid_frames - _generated_frames(jax.random.uniform(key), valid_frames, config)
    return (jnp.arange(frames) < given).astype(jnp.float32), jnp.ones((), bool)


TASKS = Registry(
    "task",
    {
        task.__name__: Task(task.__name__, task)
        for task in (text_to_music, inpainting, continuation)
    },
)


def _pick(
    uniform: Float[Array, "*shape"], least: Int[Array, ""] | int, most: Int[Array, ""] | int
) -> Int[Array, "*shape"]:
    """The whole numbers from `least` to `most`, both included, that uniform numbers in [0, 1) stand for."""
    return least + jnp.minimum((uniform * (most - least + 1)).astype(jnp.int32), most - least)


def _generated_frames(
    uniform: Float[Array, ""], valid_frames: Int[Array, ""], config: ConfigDict
) -> Int[Array, ""]:
    """A number of frames whose share of the valid ones is within the bounds; at least one frame if there is any."""
    if not 0 < config.min_generated <= config.max_generated <= 1:
        raise Refusal(
            "tasks needs 0 < min_generated <= max_generated <= 1, got "
            f"min_generated={config.min_generated}, max_generated={config.max_generated}."
        )
    least = jnp.ceil(config.min_generated * valid_frames).astype(jnp.int32)
    most = jnp.floor(config.max_generated * valid_frames).astype(jnp.int32)
    return _pick(uniform, least, jnp.maximum(least, most))


def _parts(
    uniform: Float[Array, " cuts"], total: Int[Array, ""], count: Int[Array, ""]
) -> Int[Array, " cuts+1"]:
    """`total` cut at random into `count` positive whole numbers, followed by zeros."""
    cut, part = jnp.arange(len(uniform)), jnp.arange(len(uniform) + 1)
    spare = total - count  # each part gets one, the rest is cut at sorted places
    cuts = jnp.sort(jnp.where(cut < count - 1, _pick(uniform, 0, spare), spare))
    return jnp.diff(cuts, prepend=0, append=spare) + (part < count)


def assign(batch: int, step: Int[Array, ""] | int, ratios: ConfigDict) -> Int[Array, " {batch}"]:
    """Each example's task as its place in `TASKS`: a task gets its share of the batch by `ratios`, rounded up or down.

    Whole shares are exact (thirds of a batch divisible by three); elsewhere the rounding changes from step to step and evens out.
    Neighbours in the batch get different tasks, so that shards and microbatches are mixed as the batch is.
    """
    shares = np.array([ratios.get(name, 0.0) for name in TASKS])
    for name in ratios:
        TASKS[name]  # refuses an unknown one
    if shares.min() < 0 or shares.sum() == 0:
        raise Refusal(f"tasks.ratios must not be negative nor all zero, got {dict(ratios)}.")
    # Systematic sampling in fixed point: slots of 2^12 units are laid over the tasks' intervals, with an offset that runs evenly
    # through one slot over the steps (multiples of the golden ratio).
    unit = 1 << 12
    bounds = np.rint(np.cumsum(shares) / shares.sum() * batch * unit).astype(np.int32)
    offset = (jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(0x9E3779B9) >> 20).astype(jnp.int32)
    slots = np.argsort(np.argsort(np.arange(batch) * 0.618034 % 1)).astype(
        np.int32
    )  # neighbours lie far apart
    return jnp.searchsorted(bounds, slots * unit + offset, side="right")


def weights(config: ConfigDict) -> dict[str, float]:
    """What each task's mean loss is multiplied by in the sum: `config.weights`, and 1 for a task that is not named there."""
    for name in (*config.weights, *config.ratios):
        TASKS[name]  # refuses an unknown one
    found = {name: float(config.weights.get(name, 1.0)) for name in TASKS}
    if not all(0 <= weight < math.inf for weight in found.values()):
        raise Refusal(f"tasks.weights must be finite and not negative, got {dict(config.weights)}.")
    if not any(found[name] for name, share in config.ratios.items() if share > 0):
        raise Refusal(
            "tasks.weights leaves no task of the batch a loss; give one of those in tasks.ratios a weight above 0."
        )
    return found


class TaskBatch(NamedTuple):
    """`task` [batch], the place in `TASKS`; `mask` [batch, frames, 1], 1 where given; `causal` [batch]."""

    task: Int[Array, " batch"]
    mask: Float[Array, "batch frames 1"]
    causal: Bool[Array, " batch"]


def draw_tasks(
    key: Key[Array, ""],
    valid_frames: Int[Array, " batch"],
    frames: int,
    step: Int[Array, ""] | int,
    config: ConfigDict,
) -> TaskBatch:
    """Tasks, masks and modes of one global batch from `config.tasks`, a function of (key, step, example) and nothing else.

    `valid_frames` counts each example's real frames, the rest of the `frames` being padding.
    """
    tasks = assign(len(valid_frames), step, config.ratios)
    key = jax.random.fold_in(key, step)
    branches = [
        lambda key, valid, task=task: task.draw(key, valid, frames, config)
        for task in TASKS.values()
    ]

    def example(index, task, valid):
        return jax.lax.switch(task, branches, jax.random.fold_in(key, index), valid)

    mask, causal = jax.vmap(example)(jnp.arange(len(valid_frames)), tasks, valid_frames)
    return TaskBatch(tasks, mask[..., None], causal)


def loss_mask(
    mask: Float[Array, "batch frames 1"], valid: Float[Array, "batch frames 1"], loss_on: str
) -> Float[Array, "batch frames"]:
    """The frames that the loss counts: with `loss_on` "all" every valid one, with "generated" those that were not given."""
    return Registry("loss_on", {"all": valid, "generated": valid * (1 - mask)})[loss_on][..., 0]
