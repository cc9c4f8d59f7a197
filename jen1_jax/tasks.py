"""The three tasks as masks and modes (JEN-1, section 3.3).

The mask of a task says which frames are given to the model; the model generates the others. In the
causal mode a frame does not depend on later frames, in the bidirectional mode it may.

| task          | given               | mode                    |
|---------------|---------------------|-------------------------|
| text_to_music | nothing             | either, drawn at random |
| inpainting    | all but a few spans | bidirectional           |
| continuation  | the beginning       | causal                  |

A mask is 1 at the given frames, and 0 at the frames to generate and in the padding. Each example
draws its own mask from its own key. A new task is one function and its name in `TASKS`.
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

from jen1_numpy.errors import Refusal
from jen1_numpy.registry import Registry

Drawn = tuple[Float[Array, " frames"], Bool[Array, ""]]  # the mask, and whether it is causal


@dataclass(frozen=True)
class Task:
    """A task by its name and the function that draws one example.

    `draw(key, valid_frames, frames, config.tasks)` returns the mask over `frames` frames, and
    whether the example is causal.
    """

    name: str
    draw: Callable[[Key[Array, ""], Int[Array, ""], int, ConfigDict], Drawn]


def text_to_music(
    key: Key[Array, ""], valid_frames: Int[Array, ""], frames: int, config: ConfigDict
) -> Drawn:
    """Gives nothing; the mode is causal with the probability `text_to_music_causal`."""
    causal = config.text_to_music_causal
    if not 0 <= causal <= 1:
        raise Refusal(f"tasks.text_to_music_causal is a share between 0 and 1; {causal} is not.")
    return jnp.zeros(frames), jax.random.bernoulli(key, causal)


def inpainting(
    key: Key[Array, ""], valid_frames: Int[Array, ""], frames: int, config: ConfigDict
) -> Drawn:
    """Gives all frames except one to `max_spans` separate spans; the mode is bidirectional.

    The spans together are a share of the valid frames between `min_generated` and `max_generated`.
    """
    max_spans = config.max_spans
    if max_spans < 1:
        raise Refusal(f"tasks needs max_spans >= 1, got {max_spans}.")
    uniform = jax.random.uniform(key, (2 * max_spans + 1,))
    total = _generated_frames(uniform[0], valid_frames, config)
    given = valid_frames - total
    # Each span needs a frame, and so does each of the count - 1 gaps between two spans.
    most = jnp.minimum(total, given + 1)
    count = jnp.minimum(_integer_between(uniform[1], 1, max_spans), most)
    widths = _random_partition(uniform[2 : max_spans + 1], total, count)
    # The gaps before the first and after the last span may be empty, but the parts of a partition
    # are not: it divides two frames more than there are, one for each of these two gaps.
    gaps = _random_partition(uniform[max_spans + 1 :], given + 2, count + 1)
    ends = jnp.cumsum(gaps[:-1] + widths) - 1  # without the frame added to the first gap
    starts = ends - widths
    frame = jnp.arange(frames)
    generated = jnp.any((frame >= starts[:, None]) & (frame < ends[:, None]), axis=0)
    return (~generated & (frame < valid_frames)).astype(jnp.float32), jnp.zeros((), bool)


def continuation(
    key: Key[Array, ""], valid_frames: Int[Array, ""], frames: int, config: ConfigDict
) -> Drawn:
    """Gives the beginning; the mode is causal.

    The rest is a share of the valid frames between `min_generated` and `max_generated`.
    """
    given = valid_frames - _generated_frames(jax.random.uniform(key), valid_frames, config)
    return (jnp.arange(frames) < given).astype(jnp.float32), jnp.ones((), bool)


_FUNCTIONS = (text_to_music, inpainting, continuation)
TASKS = Registry("task", {draw.__name__: Task(draw.__name__, draw) for draw in _FUNCTIONS})


def _integer_between(
    uniform: Float[Array, "*shape"], least: Int[Array, ""] | int, most: Int[Array, ""] | int
) -> Int[Array, "*shape"]:
    """Random integers from `least` to `most`, both included, all equally likely.

    They are computed from numbers that are uniform in [0, 1).
    """
    integers = (uniform * (most - least + 1)).astype(jnp.int32)
    return least + jnp.minimum(integers, most - least)  # the product may be rounded up


def _generated_frames(
    uniform: Float[Array, ""], valid_frames: Int[Array, ""], config: ConfigDict
) -> Int[Array, ""]:
    """A random number of frames, for a share between `min_generated` and `max_generated`.

    It is at least 1 if there is a valid frame.
    """
    if not 0 < config.min_generated <= config.max_generated <= 1:
        raise Refusal(
            "tasks needs 0 < min_generated <= max_generated <= 1, got "
            f"min_generated={config.min_generated}, max_generated={config.max_generated}."
        )
    least = jnp.ceil(config.min_generated * valid_frames).astype(jnp.int32)
    most = jnp.floor(config.max_generated * valid_frames).astype(jnp.int32)
    return _integer_between(uniform, least, jnp.maximum(least, most))


def _random_partition(
    uniform: Float[Array, " cuts"], total: Int[Array, ""], count: Int[Array, ""]
) -> Int[Array, " cuts+1"]:
    """Divides `total` at random into `count` positive integers; the other entries are 0.

    Each part gets 1, and the rest of `total` is cut at `count - 1` random positions. `uniform`
    holds a number in [0, 1) for each possible cut.
    """
    index, part = jnp.arange(len(uniform)), jnp.arange(len(uniform) + 1)
    rest = total - count
    # A cut that is not needed lies at the end, where the parts after it are empty.
    cuts = jnp.sort(jnp.where(index < count - 1, _integer_between(uniform, 0, rest), rest))
    return jnp.diff(cuts, prepend=0, append=rest) + (part < count)


def assign(batch: int, step: Int[Array, ""] | int, ratios: ConfigDict) -> Int[Array, " {batch}"]:
    """The task of each example, as its index in `TASKS`.

    Each task gets its share of the batch by `ratios`. A share that is a whole number of examples is
    exact. Another share is rounded up in some steps and down in others, so that its mean over the
    steps is right. Neighbours in the batch get different tasks, so that each shard and microbatch
    has about the same mixture as the batch.
    """
    shares = np.array([ratios.get(name, 0.0) for name in TASKS])
    for name in ratios:
        TASKS[name]  # raises Refusal for an unknown name
    if shares.min() < 0 or shares.sum() == 0:
        raise Refusal(f"tasks.ratios must not be negative nor all zero, got {dict(ratios)}.")
    # Systematic sampling. The tasks divide the interval [0, batch) by their shares, and an example
    # is the point slot + offset. Numbers are integers in units of 2^-12. Over the steps the offset
    # covers [0, 1) evenly: it is the fraction of a multiple of the golden ratio.
    unit = 1 << 12
    bounds = np.rint(np.cumsum(shares) / shares.sum() * batch * unit).astype(np.int32)
    offset = (jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(0x9E3779B9) >> 20).astype(jnp.int32)
    # A permutation in which neighbours in the batch have slots far apart.
    order = np.argsort(np.arange(batch) * 0.618034 % 1)
    slots = np.argsort(order).astype(np.int32)
    return jnp.searchsorted(bounds, slots * unit + offset, side="right")


def weights(config: ConfigDict) -> dict[str, float]:
    """The weight of each task's mean loss in the total loss.

    It is taken from `config.weights`, and is 1 for a task that is not named there. Raises `Refusal`
    for an unknown task, for a weight that is negative or not finite, and if no task of the batch
    has a weight above 0.
    """
    for name in (*config.weights, *config.ratios):
        TASKS[name]  # raises Refusal for an unknown name
    found = {name: float(config.weights.get(name, 1.0)) for name in TASKS}
    if not all(0 <= weight < math.inf for weight in found.values()):
        raise Refusal(f"tasks.weights must be finite and not negative, got {dict(config.weights)}.")
    if not any(found[name] for name, share in config.ratios.items() if share > 0):
        raise Refusal(
            "tasks.weights is 0 for every task of the batch; give one of those in tasks.ratios a "
            "weight above 0."
        )
    return found


class TaskBatch(NamedTuple):
    """The tasks of a batch.

    `task` is the index in `TASKS`, `mask` is 1 at given frames, and `causal` is the mode.
    """

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
    """Draws tasks, masks and modes of one global batch; `config` is the section `tasks`.

    An example's values depend on the key, the step, its index and its `valid_frames`. The frames
    from `valid_frames` to `frames` are padding.
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


LOSS_ON = Registry(
    "loss_on",
    {"all": lambda mask, valid: valid, "generated": lambda mask, valid: valid * (1 - mask)},
)


def loss_mask(
    mask: Float[Array, "batch frames 1"], valid: Float[Array, "batch frames 1"], loss_on: str
) -> Float[Array, "batch frames"]:
    """The frames that count in the loss: 1 where they do, else 0.

    With `loss_on` "all" these are all valid frames, with "generated" those that were not given.
    """
    return LOSS_ON[loss_on](mask, valid)[..., 0]
