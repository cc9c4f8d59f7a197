"""A release of a run: what it holds, what it generates, and what is refused."""

import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jen1_jax.models import weights
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.diffusion import copy_autoencoder, load_diffusion
from jen1_jax.models.release import release
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run.zip"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained run and its release."""
    folder = tmp_path_factory.mktemp("runs")
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(folder)
    run = Run.open(folder / "run")
    release(run, str(folder / "release"))
    return run, Run.open(folder / "release")


@pytest.fixture
def copy(runs, tmp_path):
    """A release that a test may damage."""
    release(runs[0], str(tmp_path / "copy"))
    return Run.open(tmp_path / "copy")


def test_a_release_has_the_runs_weights_in_half_the_size(runs):
    before, after = map(load_diffusion, runs)
    rounded = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float16), tree)
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, rounded(a), rounded(b))
    same(before.params, after.params)
    same(before.codec.params, after.codec.params)
    same(before.text_params, after.text_params)
    leaves = jax.tree.leaves((before.params, before.text_params, before.codec.params))
    files = [runs[1].weights(part) for part in ("autoencoder", "diffusion")]
    assert sum(file.stat().st_size for file in files) < 2.2 * sum(x.size for x in leaves) + 65536
    assert not any(runs[1].checkpoints(part).exists() for part in ("autoencoder", "diffusion"))


def test_the_latents_of_a_release_are_those_of_the_run(runs):
    audio = np.random.default_rng(0).uniform(-0.3, 0.3, (6400, 2)).astype(np.float32)
    before, after = (load_diffusion(run).codec for run in runs)
    assert before.fingerprint != after.fingerprint
    np.testing.assert_allclose(before.encode(audio), after.encode(audio), atol=0.05)


def test_a_release_can_be_released(runs, tmp_path):
    release(runs[1], str(tmp_path / "again"))
    again = Run.open(tmp_path / "again")
    assert load_diffusion(again).codec.fingerprint == load_diffusion(runs[1]).codec.fingerprint


def test_a_checkpoint_is_chosen_by_its_step_or_as_the_best(runs, tmp_path):
    run = runs[0]
    release(run, str(tmp_path / "chosen"), step="6")
    one, other = (
        Run.open(path).weights("diffusion") for path in (tmp_path / "chosen", runs[1].path)
    )
    assert one.read_bytes() == other.read_bytes()
    for source, step, known in ((run, "7", "6"), (run, "best", "6"), (runs[1], "6", "none")):
        with pytest.raises(Refusal, match=f"no checkpoint '{step}'; it has {known}"):
            release(source, str(tmp_path / "refused"), step=step)
    assert not (tmp_path / "refused").exists()


def test_nothing_is_trained_in_a_release(copy):
    for part in ("autoencoder", "diffusion"):
        with pytest.raises(Refusal, match="without the state of its training"):
            copy.begin(copy.config, part)


def test_a_new_run_may_train_on_a_released_autoencoder(runs, tmp_path):
    new = Run(tmp_path / "new")
    copy_autoencoder(runs[1], new)
    assert load_codec(new).fingerprint == load_codec(runs[1]).fingerprint
    new.begin(runs[1].config, "diffusion")
    other = runs[1].config.copy_and_resolve_references()
    with other.unlocked():
        other.autoencoder.latent_channels += 1
    with pytest.raises(Refusal, match="trained with another `autoencoder`"):
        new.begin(other, "diffusion")


def test_a_text_encoder_that_only_this_machine_has_needs_a_name(runs, tmp_path):
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    run = Run.open(tmp_path / "run")
    loaded = load_diffusion(run)
    source = run.text / "source.json"
    kept = json.loads(source.read_text())
    source.write_text(json.dumps(kept | {"encoder": str(tmp_path / "bert")}))
    patch = pytest.MonkeyPatch()
    patch.setattr("jen1_jax.models.release.load_diffusion", lambda run, step: loaded)
    with patch.context(), pytest.raises(Refusal, match="others do not have"):
        release(run, str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    release(run, str(tmp_path / "named"), "someone/bert")
    patch.undo()
    named = Run.open(tmp_path / "named")
    assert json.loads((named.text / "source.json").read_text())["encoder"] == "someone/bert"
    assert named.config.text.encoder == "someone/bert"


@pytest.mark.parametrize("damage", ["cut off", "another shape", "missing", "no record"])
def test_damaged_weights_are_refused_by_name(copy, damage):
    path = copy.weights("diffusion")
    arrays = load_file(path)
    name = next(iter(arrays))
    record = {"record": json.dumps(copy.record)}
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "another shape":
        save_file(arrays | {name: arrays[name][..., :0]}, path, record)
    elif damage == "missing":
        save_file({key: value for key, value in arrays.items() if key != name}, path, record)
    else:
        save_file(arrays, path)
    with pytest.raises(Refusal, match="does not hold the parameters"):
        load_diffusion(copy)


def test_a_run_without_parameters_says_what_is_missing(tmp_path):
    with pytest.raises(Refusal, match="train it first"):
        weights.check(Run(tmp_path), "diffusion", "train it first")


def test_the_released_composing_model_is_whole_and_has_16_m_parameters_at_most():
    run = Run.open(Path(__file__).parents[2] / "weights" / "compose")
    assert load_codec(run).fingerprint == run.record["fingerprints"]["autoencoder"]
    files = [load_file(run.weights(part)) for part in ("autoencoder", "diffusion")]
    arrays = [array for file in files for array in file.values()]
    assert sum(array.size for array in arrays) < 16e6
    assert all(array.dtype == np.float16 and np.isfinite(array).all() for array in arrays)
