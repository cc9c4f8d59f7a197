"""`jen1 export torch` and `jen1 import torch`: what they write, and that nothing is lost."""

import json
import os
import shutil
import subprocess
import venv
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import torch
from packaging.requirements import Requirement
from safetensors import safe_open
from safetensors.torch import load_file

from jen1_jax.export import to_torch as export
from jen1_jax.export.card import card
from jen1_jax.export.from_torch import import_torch
from jen1_jax.export.names import Place, from_torch, places, to_torch
from jen1_jax.export.to_torch import export_torch
from jen1_jax.models import weights
from jen1_jax.models.diffusion import abstract_diffusion, load_diffusion
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.release import release
from jen1_jax.models.run import Run
from jen1_jax.training.diffusion import train_diffusion
from jen1_jax.training.npz import NpzData
from jen1_numpy.errors import Refusal
from jen1_numpy.noise import write_noise
from jen1_torch.modeling_jen1 import Jen1
from tests import tiny
from tests.export.testing import distance

pytestmark = pytest.mark.slow

STACKED = ("unet", "down_1_residual", "conv_in", "kernel")


def test_stacked_blocks_get_the_names_that_they_have_without_scan():
    one = ("unet", "down_1_residual_1", "conv_in", "kernel")
    assert places(STACKED, (2, 3, 4, 5))[1] == Place("unet.down_1_residual_1.conv_in.weight", 1)
    assert places(one, (3, 4, 5)) == [Place("unet.down_1_residual_1.conv_in.weight", None)]
    assert [place.name for place in places(("unet", "norm", "scale"), (4,))] == ["unet.norm.scale"]


def test_layouts_return_bit_for_bit():
    array = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    parts = [to_torch(STACKED, array, block) for _, block in places(STACKED, array.shape)]
    assert parts[0].shape == (5, 4, 3) and parts[0][4, 2, 1] == array[0, 1, 2, 4]
    back = from_torch(STACKED, parts, stacked=True)
    np.testing.assert_array_equal(back, array)
    assert back.flags["C_CONTIGUOUS"]  # files are written as memory lies


def test_weights_are_written_whatever_the_order_of_their_axes_in_memory(small_run, tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    weights.write(tmp_path / "w.safetensors", {"a": array}, {})
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("a"), array)


def test_a_scanned_model_returns_bit_for_bit(small_run, tmp_path):
    """Its blocks are stacked anew on the way back."""
    run = Run(Path(shutil.copytree(small_run.path, tmp_path / "run")))
    config, before = run.config.copy_and_resolve_references(), load_diffusion(small_run)
    with config.unlocked():
        config.unet.scan = True
    run.write(config, run.record["fingerprints"])
    unet = before.unet.clone(scan=True)
    shapes = abstract_diffusion(unet, before.text)
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32)
    shutil.rmtree(run.checkpoints("diffusion"))
    weights.write(run.weights("diffusion"), jax.tree.map(draw, shapes), run.record)
    export_torch(run, str(tmp_path / "out"))
    import_torch(str(tmp_path / "out"), str(tmp_path / "back"))
    ours, theirs = (load_diffusion(each) for each in (run, Run.open(tmp_path / "back")))
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert any(leaf.ndim == 4 for leaf in jax.tree.leaves(ours.params))


def test_a_round_trip_loses_nothing(small_run, exported, tmp_path):
    import_torch(str(exported), str(tmp_path / "back"))
    back = Run.open(tmp_path / "back")
    before, after = load_diffusion(small_run), load_diffusion(back)
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    same(before.params, after.params)
    same(before.text_params, after.text_params)
    same(before.codec.params, after.codec.params)
    same(before.codec.whitening.arrays(), after.codec.whitening.arrays())
    assert before.codec.fingerprint == after.codec.fingerprint
    assert before.codec.margin == after.codec.margin
    assert before.text.fingerprint == after.text.fingerprint
    expected = small_run.record["config"]
    expected["data"]["dir"] = ""  # a path of the machine that exported it
    assert back.record["config"] == expected
    assert back.record["fingerprints"] == small_run.record["fingerprints"]


def test_a_release_is_exported_as_its_run_is_but_for_its_rounding(small_run, exported, tmp_path):
    release(small_run, str(tmp_path / "release"))
    export_torch(Run.open(tmp_path / "release"), str(tmp_path / "out"))
    ours, theirs = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", exported)
    )
    for name, array in theirs.items():
        rounded = array if array.dtype == torch.float64 else array.half().float()
        assert torch.equal(ours[name], rounded)


def test_large_models_are_written_to_several_files_of_bounded_size(
    small_run, exported, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "SHARD", 20_000)
    export_torch(small_run, str(tmp_path / "out"))
    files = sorted((tmp_path / "out").glob("model*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    for file in files:
        with safe_open(file, "pt") as opened:
            sizes = [opened.get_tensor(name).nbytes for name in opened.keys()]  # noqa: SIM118
        assert sum(sizes) <= 20_000 or len(sizes) == 1
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    whole, parts = (Jen1.from_pretrained(folder) for folder in (exported, tmp_path / "out"))
    expected = whole.state_dict()
    assert index["weight_map"].keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in expected.values())
    assert all(torch.equal(each, expected[name]) for name, each in parts.state_dict().items())


def test_the_model_card_says_what_was_trained_and_the_licence(exported):
    card = (exported / "README.md").read_text()
    header = card.split("---")[1]
    assert "license: cc0-1.0" in header and "text-to-audio" in header
    assert "autoencoder: 4 examples a step, 6 steps, last loss" in card
    assert "- Data: audio.npz." in card and "Weights: cc0-1.0." in card
    assert "## Figures" not in card


def test_the_model_card_says_the_licences_of_the_data_and_what_evaluations_found(
    small_run, exported, tmp_path
):
    median = {"clips": 20, "si_sdr": None, "stft_distance": 1.239}
    row = {"key": {"rank": 7.5, "top": 0.1}, "timbre": {"rank": 3}, "flatness": 1.2, "peak": [1, 2]}
    captions = {"clips": 64, "rows": {"generated": row}}
    reports = [tmp_path / "1.json", tmp_path / "2.json"]
    for path, report in zip(reports, ({"median": {"all": median}}, captions), strict=True):
        path.write_text(json.dumps(report))
    about = json.loads((exported / "config.json").read_text())
    about["data"] = {"dir": "music", "examples": {"train": 30}, "licences": {"CC0": 20, "": 10}}
    trained = {"config": about["config"]}
    counts = {"whitening.scale": 4}
    said = card(small_run, trained, about, counts, "", reports)
    assert (
        "- Data: music, 30 training examples.\n    - 20 of them: `CC0`.\n"
        "    - 10 of them: no licence stated."
    ) in said
    assert "round trips of 20 held-out clips, medians: stft distance 1.24.\n" in said
    assert "one of 64 held-out clips" in said and "caption: key 7.50, timbre 3.00." in said
    for text in ("[]", "{", '{"rows": {"generated": []}}', '{"clips": "<b>", "rows": {}}'):
        reports[0].write_text(text)
        with pytest.raises(Refusal, match=r"is not the report\.json of an evaluation"):
            export_torch(small_run, str(tmp_path / "out"), reports=[str(reports[0])])
    with pytest.raises(Refusal, match="none cannot be read"):
        export_torch(small_run, str(tmp_path / "out"), reports=[str(tmp_path / "none")])
    with pytest.raises(Refusal, match="no name of a licence"):
        export_torch(small_run, str(tmp_path / "out"), licence="a: b\nc")
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_of_the_data_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    about = json.loads((folder / "config.json").read_text())
    for damage in ({"dir": 5}, {"examples": []}, {"licences": {"CC0": "many"}}, {"more": 1}):
        edited = about | {"data": about["data"] | damage}
        (folder / "config.json").write_text(json.dumps(edited))
        with pytest.raises(Refusal, match=r"`data` of .* is damaged"):
            import_torch(str(folder), str(tmp_path / "run"))


def test_a_frozen_text_encoder_is_copied_or_left_out_by_name(small_run, tmp_path, frozen_run):
    run, encoder = frozen_run
    export_torch(run, str(tmp_path / "copied"))
    copied = tmp_path / "copied" / "text"
    for file in (copied / "encoder").iterdir():
        assert file.read_bytes() == (encoder / file.name).read_bytes()
    assert "transformers" in (tmp_path / "copied" / "requirements.txt").read_text()
    source = json.loads((copied / "source.json").read_text())
    assert source["encoder"] == encoder.name  # and not a path of this machine
    for path in (tmp_path / "copied").rglob("*.json"):
        assert str(tmp_path.parent) not in path.read_text()
    import_torch(str(tmp_path / "copied"), str(tmp_path / "back"))
    shutil.rmtree(tmp_path / "copied")
    assert load_diffusion(Run.open(tmp_path / "back")).text.fingerprint == source["sha256"]
    with pytest.raises(Refusal, match="which others do not have"):
        export_torch(run, str(tmp_path / "named"), text_by_name="")
    export_torch(run, str(tmp_path / "named"), text_by_name="someone/bert")
    text = tmp_path / "named" / "text"
    assert [file.name for file in text.iterdir()] == ["source.json"]
    assert json.loads((text / "source.json").read_text())["encoder"] == "someone/bert"
    with pytest.raises(Refusal, match="is part of it"):
        export_torch(small_run, str(tmp_path / "refused"), text_by_name="someone/t5")
    assert not (tmp_path / "refused").exists()


ALONE = """
import importlib.util, sys
absent = "jax", "flax", "jen1_jax", "configs", "ml_collections", "transformers"
assert not any(map(importlib.util.find_spec, absent)), sys.path
import generate
for task in sys.argv[1].split(";"):
    assert generate.main(task.split()) == 0
"""


def environment(folder: Path, requirements: str) -> Path:
    """The Python of a new environment that has what is required, and what that requires.

    Nothing is downloaded: the packages are links to those of this environment.
    """
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    lines = (line.partition("#")[0] for line in requirements.splitlines())
    waiting, done = [Requirement(line) for line in lines], set()
    while waiting:
        required = waiting.pop()
        extras = required.extras or {""}
        if required.name in done or not any(
            required.marker is None or required.marker.evaluate({"extra": each}) for each in extras
        ):
            continue
        done.add(required.name)
        found = metadata.distribution(required.name)
        assert required.specifier.contains(found.version, prereleases=True), required
        for top in {file.parts[0] for file in found.files} - {".."}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
        waiting += map(Requirement, found.requires or ())
    return folder / "bin" / "python"


def test_the_folder_generates_in_an_environment_without_this_project_and_jax(exported, tmp_path):
    """Where only what its requirements.txt names is installed."""
    tone = np.sin(np.arange(9600) / 20)[:, None].repeat(2, 1) * 0.3
    soundfile.write(tmp_path / "tone.wav", tone, 48_000)
    model = Jen1.from_pretrained(exported)
    write_noise(tmp_path / "noise", np.ones((1, model.sampler.window, model.codec.k), np.float32))
    tasks = {
        "--prompt tones --seconds 0.1 --out a.wav": 0.1,
        "--prompt tones --seconds 0.1 --noise noise --out e.wav": 0.1,
        "--prompt tones --inpaint tone.wav --span 0.05:0.1 --out b.wav": 0.2,
        "--prompt tones --extend tone.wav --seconds 0.1 --out c.wav": 0.3,
        "--prompt tones --vary tone.wav --strength 0.5 --out d.wav": 0.2,
    }
    folder = shutil.copytree(exported, tmp_path / "alone")
    python = environment(tmp_path / "venv", (folder / "requirements.txt").read_text())
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    command = [python, "-c", ALONE, ";".join(tasks)]
    subprocess.run(command, check=True, cwd=tmp_path, env=kept | {"PYTHONPATH": str(folder)})
    for task, seconds in tasks.items():
        audio, rate = soundfile.read(tmp_path / task.split()[-1])
        assert rate == 48_000 and audio.shape == (round(seconds * rate), 2)
        assert np.abs(audio).max() > 0


def loss(model, batch, clean):
    """The error of the clean latents that the U-Net predicts; in PyTorch."""
    found = model.unet(*(torch.as_tensor(np.array(each)) for each in batch[:-1]), batch[-1])
    return (found - torch.as_tensor(clean)).square().mean()


def test_a_fine_tune_in_pytorch_goes_on_in_jax(small_run, exported, tmp_path):
    """On the same clips: the loss of a training by JAX begins where PyTorch has brought it."""
    audio = tiny.write_audio_npz(tmp_path / "audio.npz")
    model = Jen1.from_pretrained(exported)
    before = load_diffusion(small_run)
    with np.load(audio) as clips:
        clean = np.stack([before.codec.encode(clip) for clip in clips["audio"]])
        captions = clips["caption"].tolist()
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    size, frames, _ = clean.shape
    ones, log_snr = np.ones((size, frames, 1), np.float32), 2 * draw(size)
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(sign * log_snr))) for sign in (-1, 1))
    noisy = alpha[:, None, None] * clean + sigma[:, None, None] * draw(*clean.shape)
    batch = [noisy.astype(np.float32), 0 * clean, 0 * ones, log_snr]
    text, lengths = (each.detach().numpy() for each in model.prompts.embed(captions))
    batch += [text, lengths, ones, np.arange(size) > 1]
    timing = {name: 0 * draw(size, width) for name, width in model.about["conditioning"].items()}
    in_torch = [*batch, {name: torch.as_tensor(each) for name, each in timing.items()}]
    timing = jax.tree.map(jnp.asarray, timing)

    apply = jax.jit(before.unet.apply)

    def in_jax(diffusion):
        found = apply({"params": diffusion.params}, *map(jnp.asarray, batch), timing)
        return float(jnp.mean((found - clean) ** 2))

    def first_loss(source, name):
        """Of a training in JAX that begins with the weights of the run `source`."""
        config, run = small_run.config.unlock(), Run(tmp_path / name)
        config.train_diffusion.update(init_from=str(source), steps=1)
        train_diffusion(config, run, NpzData(str(audio), 6, seed=0), Run.open(source))
        return read_metrics(run.path / "diffusion" / "metrics.jsonl")[0]["loss"]

    assert loss(model, in_torch, clean).item() == pytest.approx(in_jax(before), rel=1e-4)
    optimizer = torch.optim.Adam(model.unet.parameters(), 1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model, in_torch, clean).backward()
        optimizer.step()
    tuned = loss(model, in_torch, clean).item()
    assert tuned < 0.9 * in_jax(before)
    model.save_pretrained(tmp_path / "tuned")
    import_torch(str(tmp_path / "tuned"), str(tmp_path / "run"))
    imported = load_diffusion(Run.open(tmp_path / "run"))
    assert in_jax(imported) == pytest.approx(tuned, rel=1e-4)
    assert imported.trained["data"]["dir"] == "audio.npz"
    untuned = first_loss(small_run.path, "untuned")
    assert first_loss(tmp_path / "run", "goes_on") < 0.97 * untuned


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_saved_with_the_fingerprint_of_its_own_autoencoder(
    dtype, exported, tmp_path
):
    model = Jen1.from_pretrained(exported, dtype=dtype)
    model.save_pretrained(tmp_path / "half")
    state = load_file(tmp_path / "half" / "model.safetensors")
    assert {each.dtype for each in state.values()} == {dtype, torch.float64}
    assert (tmp_path / "half" / "README.md").read_text() == (exported / "README.md").read_text()
    again = Jen1.from_pretrained(tmp_path / "half")
    assert (
        again.dtype == torch.float32
        and again.fingerprint() != model.about["fingerprints"]["autoencoder"]
    )
    import_torch(str(tmp_path / "half"), str(tmp_path / "run"))
    run = load_diffusion(Run.open(tmp_path / "run"))
    assert run.codec.fingerprint == again.fingerprint()
    stem = run.params["stem"]["kernel"]
    assert distance(stem, again.unet.stem.weight.detach().numpy().T) == 0
