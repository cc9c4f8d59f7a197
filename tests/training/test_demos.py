"""Demos of every task, which training writes at intervals."""

import numpy as np
import pytest

from jen1_jax.evaluation.demos import HOLE, write_demos
from jen1_jax.models.diffusion import load_diffusion
from jen1_jax.models.run import Run
from jen1_jax.training.demos import Demos
from jen1_jax.training.npz import NpzData
from jen1_jax.training.step import TrainState
from jen1_numpy.audio import read_audio
from jen1_numpy.errors import Refusal


@pytest.fixture
def hook(tiny_run, tmp_path):
    """The demos of the tiny run, which are written into `tmp_path`."""
    run, data = Run.open(tiny_run), NpzData(str(tiny_run.parent / "audio.npz"), 6, seed=0)
    trained, config = load_diffusion(run), run.config
    config.train_diffusion.demos_every = 4

    def write(folder, *arguments):
        assert folder == tiny_run / "diffusion" / "demos" / "4"
        write_demos(tmp_path / "4", *arguments)

    parts = dict(config=config, run=run, unet=trained.unet, codec=trained.codec, text=trained.text)
    messages = []
    demos = Demos(write, lambda: data.sweep("test"), progress=messages.append, **parts)
    params = {"diffusion": {"unet": trained.params, "text": trained.text_params}}
    state = TrainState(step=4, updates=4, norm=0, params=params, ema=params, optimizer=None)
    return demos, state, messages


def test_every_task_is_heard_and_what_is_given_stays(hook, tmp_path):
    demos, state, messages = hook
    assert [step for step in range(1, 9) if demos.due(step)] == [4, 8]
    assert demos.evaluate(4, state) == {} and messages == []
    names = ("original", "round_trip", "text_to_music", "inpainting", "continuation")
    heard = {name: read_audio(tmp_path / "4" / f"{name}.wav", 48_000) for name in names}
    original = heard["original"]
    assert {sound.shape for sound in heard.values()} == {original.shape}
    differs = np.abs(heard["inpainting"] - original).max(1) > 0
    first, last = (round(share * len(original)) for share in HOLE)
    assert differs[first:last].mean() > 0.9
    assert not differs[:first].any() and not differs[last:].any()
    assert (tmp_path / "4" / "page.png").stat().st_size > 10_000


def test_demos_that_cannot_be_made_do_not_end_the_training(hook):
    demos, state, messages = hook

    def refuse(*arguments):
        raise Refusal("too short")

    demos._write = refuse
    assert demos.evaluate(4, state) == {} and messages == ["demos: too short"]
