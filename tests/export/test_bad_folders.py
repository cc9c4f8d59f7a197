"""Damaged, foreign and hostile exports are refused by name, in PyTorch and by `jen1 import`."""

import json
import os
import resource
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jen1_jax.export.from_torch import import_torch
from jen1_numpy.errors import Refusal
from jen1_torch import generate
from jen1_torch.modeling_jen1 import Jen1

KEY = "unet.stem.weight"
ENCODER = "autoencoder.encoder.Conv1d_0.weight"


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "bad")


def refuse(folder, match):
    """Both readers refuse the folder with a message that matches; nothing is written."""
    with pytest.raises(Refusal, match=match) as theirs:
        Jen1.from_pretrained(folder)
    with pytest.raises(Refusal, match=match) as ours:
        import_torch(str(folder), str(folder.parent / "run"))
    assert not (folder.parent / "run").exists()
    for error in map(str, (theirs.value, ours.value)):
        assert error.endswith((".", ")")) and "\n" not in error


def change(folder, **arrays):
    """Replaces arrays of the folder; None removes one."""
    path = folder / "model.safetensors"
    held = load_file(path) | {name.replace("__", "."): each for name, each in arrays.items()}
    save_file({name: each for name, each in held.items() if each is not None}, path)


def edit(folder, change, name="config.json"):
    about = json.loads((folder / name).read_text())
    change(about)
    (folder / name).write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ({KEY: None}, f"has no {KEY}"),
        ({"unet.extra.weight": torch.zeros(2)}, "holds unet.extra.weight"),
        ({KEY: torch.zeros(2, 2)}, rf"{KEY} in .* has the shape \(2, 2\)"),
        ({KEY: torch.zeros(4, 13, 3, dtype=torch.int32)}, f"{KEY} in .* I32"),
        ({"whitening.scale": torch.ones(6)}, r"whitening.scale in .* F32"),
        ({ENCODER: torch.ones(8, 16, 3)}, "comes from another model"),
    ],
    ids=["missing", "extra", "shape", "type", "float64", "another autoencoder"],
)
def test_other_arrays_are_refused(damage, match, folder):
    change(folder, **damage)
    refuse(folder, match)


@pytest.mark.parametrize("size", [0, 4, 200, -50])
def test_a_truncated_file_is_refused(size, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refuse(folder, "damaged|has no")


@pytest.mark.parametrize(
    ("name", "match"), [("config.json", "config.json"), ("model.safetensors", "model.safetensors")]
)
def test_a_missing_file_is_named(name, match, folder):
    (folder / name).unlink()
    refuse(folder, f"{match} is missing")


def of_config(section, field, value):
    return lambda about: about["config"][section].update({field: value})


@pytest.mark.parametrize(
    ("edited", "match"),
    [
        (lambda about: about.update(format=2), "has the format 2"),
        (lambda about: about.pop("format"), "has the format None"),
        (lambda about: about.update(config=[]), "config"),
        (lambda about: about.update(measured={}), "measured|margin"),
        (lambda about: about.update(fingerprints={}), "fingerprints"),
        (of_config("unet", "channels", "4"), "unet.channels"),
        (of_config("unet", "channels", 10**9), "unet.channels"),
        (of_config("unet", "attentions", [10**9, 0, 0]), "unet.attentions"),
        (of_config("unet", "num_blocks", [1]), "num_blocks"),
        (of_config("autoencoder", "strides", [8] * 10_000), "autoencoder.strides"),
        (of_config("autoencoder", "strides", []), "autoencoder"),
        (of_config("autoencoder", "latent_channels", 9), "shape"),
        (of_config("autoencoder", "activation", "import os"), "activation"),
        (lambda about: about["config"].pop("unet"), "unet"),
        (of_config("unet", "attentions", [900, 900, 900]), "unet.attentions"),
        (of_config("unet", "head_dim", 2**20), "unet.head_dim"),
        (of_config("autoencoder", "window", 2**20), "autoencoder.window"),
        (of_config("diffusion", "schedule", "unknown"), "unknown"),
        (of_config("diffusion", "times", None), "times"),
        (of_config("data", "seconds", float(2**20)), "seconds"),
    ],
    ids=range(20),
)
def test_a_foreign_configuration_is_refused(edited, match, folder):
    edit(folder, edited)
    refuse(folder, match)


def test_files_outside_the_folder_are_not_read(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    names = json.dumps({"weight_map": {KEY: "../model.safetensors"}})
    (folder / "model.safetensors.index.json").write_text(names)
    refuse(folder, "does not list files of its folder")


@pytest.mark.parametrize("name", ["spiece.model", "config.json"])
def test_another_file_of_the_text_encoder_is_refused(name, folder):
    path = folder / "text" / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(Refusal, match=f"{name} has the SHA-256"):
        Jen1.from_pretrained(folder).generate("two tones", 0.1)


@pytest.mark.parametrize(
    "change", [{"max_length": 10**12}, {"max_length": 0}, {"files": [1]}, {"files": {}}]
)
def test_a_foreign_description_of_the_text_encoder_is_refused(change, folder):
    edit(folder, lambda source: source.update(change), "text/source.json")
    with pytest.raises(Refusal, match=r"source\.json"):
        Jen1.from_pretrained(folder)


def test_devices_and_pipes_are_not_read(folder):
    for make in (lambda path: path.symlink_to("/dev/zero"), os.mkfifo):
        (folder / "config.json").unlink()
        make(folder / "config.json")
        refuse(folder, "config.json is missing")


@pytest.mark.parametrize("device", ["cuda", "foo", "meta"])
def test_a_device_that_cannot_be_used_is_refused(device, tmp_path, capsys):
    arguments = ["--device", device, "--out", str(tmp_path / "x.wav")]
    assert generate.main(arguments) == 3
    assert f"--device {device} cannot be used" in capsys.readouterr().err


def test_json_of_any_size_or_depth_is_refused(folder):
    for content in ("[" * 100_000, "{", "null", "{}", " " * (2**24 + 1)):
        (folder / "config.json").write_text(content)
        refuse(folder, "config.json")


@pytest.mark.slow
def test_headers_of_200_fuzzed_files_crash_nothing_and_take_no_memory(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(200):
        header = np.frombuffer(whole[: 8 + length], np.uint8).copy()
        places = rng.integers(0, len(header), rng.integers(1, 30))
        header[places] = rng.integers(0, 256, len(places))
        path.write_bytes(header.tobytes() + whole[8 + length :])
        try:
            Jen1.from_pretrained(folder)
        except Refusal as refusal:
            refused += str(folder) in str(refusal)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert refused > 190 and grown < 100_000  # kilobytes


def test_our_import_refuses_fuzzed_headers_too(folder, tmp_path):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(1)
    for number in range(20):
        header = np.frombuffer(whole[: 8 + length], np.uint8).copy()
        header[rng.integers(8, len(header), 20)] = rng.integers(0, 256, 20)
        path.write_bytes(header.tobytes() + whole[8 + length :])
        with pytest.raises(Refusal):
            import_torch(str(folder), str(tmp_path / str(number)))
