"""A decoder-only stage: the encoder does not change in any bit, so its latents stay valid."""

import shutil

import jax
import numpy as np
import pytest

from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.npz import NpzData
from jen1_numpy.errors import Refusal
from tests import tiny


@pytest.fixture(scope="module")
def stage(tiny_run, tmp_path_factory):
    """(source, run, config, data) of a finished decoder-only stage with weight decay."""
    folder, config = tmp_path_factory.mktemp("stage"), tiny.config()
    config.train_autoencoder.weight_decay = 0.1
    data = NpzData(str(tiny.write_audio_npz(folder / "audio.npz")), 4, seed=1, crop=3072)
    source, run = Run.open(tiny_run), Run(folder / "run")
    train_autoencoder(config, run, data, source, progress=lambda text: None)
    return source, Run.open(run.path), config, data


def same(ours, theirs) -> list[bool]:
    return jax.tree.leaves(jax.tree.map(np.array_equal, ours, theirs))


def test_the_encoder_stays_and_the_decoder_changes(stage):
    before, after = (load_codec(run) for run in stage[:2])
    assert after.fingerprint == before.fingerprint
    assert all(same(after.params["encoder"], before.params["encoder"]))
    assert not any(same(after.params["decoder"], before.params["decoder"]))


def test_the_decoder_starts_from_that_of_the_source(stage):
    """After a few steps it is still near that of the source."""
    before, after = (load_codec(run).params["decoder"] for run in stage[:2])
    distances = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert max(jax.tree.leaves(distances)) < 0.02


def test_continuing_without_the_source_is_refused(stage):
    _, run, config, data = stage
    config = config.copy_and_resolve_references()
    config.train_autoencoder.steps += 1
    with pytest.raises(Refusal, match="decoder-only stage; give --autoencoder"):
        train_autoencoder(config, run, data)


def test_a_source_of_another_layout_is_refused(stage, tmp_path):
    source, _, config, data = stage
    config = config.copy_and_resolve_references()
    config.autoencoder.channels = (8, 12)
    with pytest.raises(Refusal, match="another layout"):
        train_autoencoder(config, Run(tmp_path / "other"), data, source)


def test_a_codec_does_not_depend_on_the_settings_of_the_adversary(tiny_run, tmp_path):
    """The configuration may change the adversary before the diffusion model is trained."""
    shutil.copytree(tiny_run, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    config = run.config.copy_and_resolve_references().unlock()
    config.train_autoencoder.losses.update(adversarial=0.0, feature_matching=0.0)
    run.write(config, run.record["fingerprints"])
    assert load_codec(run).fingerprint == load_codec(Run.open(tiny_run)).fingerprint
