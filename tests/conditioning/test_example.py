"""The worked example of docs/extending.md: a conditioner in one file and one line of a config."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import jen1_jax
from jen1_jax.conditioning import CONDITIONERS, chosen
from jen1_jax.models.run import Run
from jen1_jax.training.diffusion import train_diffusion
from jen1_jax.training.npz import NpzData
from jen1_numpy.errors import Refusal
from tests import tiny

PAGE = Path(__file__).parents[2] / "docs/extending.md"


@pytest.fixture
def example():
    """What the example's file defines; afterwards its conditioner is gone again."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [source] = [block for block in blocks if "class Tempo" in block]
    names = {}
    exec(compile(source, "tempo.py", "exec"), names)
    yield names
    del CONDITIONERS["tempo"]


@pytest.mark.slow
def test_it_is_trained_on_and_changes_the_music(example, tiny_run, tmp_path):
    assert "tempo" in example["get_config"]().unet.conditioning
    path = tiny.write_audio_npz(tmp_path / "audio.npz")
    metas = [json.dumps({"tempo": 60 + 20 * n} if n else {}) for n in range(6)]
    np.savez(path, **np.load(path), meta=np.array(metas))
    config, run = tiny.config(), Run(tmp_path / "run")
    config.unet.conditioning = ("tempo",)
    source = Run.open(tiny_run)
    train_diffusion(config, run, NpzData(str(path), 6, seed=0), source, lambda text: None)
    model = jen1_jax.load(run.path)
    play = lambda **conditions: model.generate("two tones", 0.1, conditions=conditions)
    assert not np.array_equal(play(tempo=60), play(tempo=180))
    assert not np.array_equal(play(tempo=60), play())
    with pytest.raises(Refusal, match="not between 20 and 400"):
        play(tempo=4)
    with pytest.raises(Refusal, match="no condition 'key'; it has tempo"):
        play(key="C")


def test_data_that_do_not_know_it_are_refused(example, tiny_run, tmp_path):
    config = tiny.config()
    config.unet.conditioning = ("tempo",)
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 6, seed=0)
    with pytest.raises(Refusal, match="needs the fields meta"):
        train_diffusion(config, Run(tmp_path / "run"), data, Run.open(tiny_run))


def test_a_run_whose_conditioner_is_not_registered_names_the_way_out():
    with pytest.raises(Refusal, match=r"'drums' .* known are timing.* --import FILE\.py"):
        chosen(["timing", "drums"])
