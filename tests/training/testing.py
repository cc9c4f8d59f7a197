"""Trainings of a few numbers, for tests of what surrounds them."""

from jen1_jax.sharding import make_mesh
from jen1_jax.training.loop import fit
from jen1_jax.training.step import TrainState
from tests import tiny


def train(directory, name, trainable, batches, training, **others) -> TrainState:
    """Trains one trainable on batches that need no random numbers; `others` are those of `fit`."""
    settings = {
        "schedule": lambda step: 1.0,
        "placement": tiny.config().mesh,
        "progress": lambda text: None,
        "record": {"what": "a test"},
    }
    return fit(
        name,
        directory=directory,
        trainables={name: trainable},
        draw=lambda key, step, batch: batch,
        batches=batches,
        training=training,
        mesh=make_mesh(tiny.config()),
        seed=0,
        audio_seconds=1.0,
        **settings | others,
    )
