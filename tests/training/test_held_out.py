"""The held-out loss: of which clips, and the same for the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jen1_jax.training.held_out import EXAMPLES, first_clips, held_out_loss
from jen1_jax.training.step import Trainable


def batches():
    """Batches of 10 clips, numbered, of which every third is damaged."""
    for start in range(0, 100, 10):
        index = np.arange(start, start + 10)
        latents = np.ones((10, 4, 2), np.float16) * index[:, None, None]
        latents[index % 3 == 0, 1] = np.nan
        yield {"latents": latents, "index": index}


def test_the_first_clips_with_finite_data_are_taken():
    clips = first_clips(batches(), EXAMPLES)
    assert clips["index"].tolist() == [n for n in range(100) if n % 3][:EXAMPLES]
    assert first_clips([{"audio": np.full((2, 8, 2), np.inf)}], 4) is None


def test_the_loss_has_the_weights_of_training_and_the_same_draw_each_time():
    noisy = lambda key, step, batch: batch | {"noise": jax.random.normal(key, (len(batch["x"]),))}
    trainable = Trainable(
        init=lambda key: {},
        losses=lambda params, batch, frozen: {
            "near": params["net"]["w"] * batch["x"] + batch["noise"],
            "far": batch["x"] * frozen,
        },
        counts=lambda batch: {"near": jnp.ones(4), "far": jnp.zeros(4)},
        weights={"near": 2.0, "far": 1.0},
        optimizer=optax.identity(),
    )
    inputs = {"x": np.arange(4.0, dtype=np.float32), "index": np.arange(4)}
    loss = held_out_loss(trainable, noisy, inputs)
    first, second, again = (
        float(loss({"net": {"w": jnp.float32(w)}}, jnp.float32(3))) for w in (1, 2, 1)
    )
    assert first == again
    assert second - first == pytest.approx(2.0 * 1.5, rel=1e-5)
