"""The command line: one sentence and an exit status for everything that can go wrong."""

import copy
import json
import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import jen1_jax
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Moments, fit_whitening
from jen1_jax.cli import main
from jen1_numpy.noise import write_noise
from tests import tiny
from tests.autoencoder.testing import build


@pytest.fixture
def song(tmp_path):
    t = np.arange(9600) / 48_000
    path = tmp_path / "song.wav"
    soundfile.write(
        path, 0.3 * np.sin(2 * np.pi * 440 * t[:, None] * [1, 1.5]), 48_000, subtype="FLOAT"
    )
    return path


def refused(capsys, *arguments) -> str:
    """The one sentence that a refused command says."""
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert status == 3 and said.startswith("jen1: ") and said.count("\n") == 1, said
    return said


def test_generate_inpaint_extend_and_vary_write_float_wavs_and_how_they_were_made(
    tiny_run, tmp_path, song, capsys
):
    common = ["--checkpoint", str(tiny_run), "--prompt", "two tones", "--seed", "7"]
    assert (
        main(["generate", *common, "--seconds", "0.1", "--out", str(tmp_path / "new" / "g.wav")])
        == 0
    )
    assert (
        main(
            [
                "inpaint",
                *common,
                "--audio",
                str(song),
                "--span",
                "0.05:0.1",
                "--out",
                str(tmp_path / "i.wav"),
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "extend",
                *common,
                "--audio",
                str(song),
                "--seconds",
                "0.1",
                "--out",
                str(tmp_path / "e.wav"),
            ]
        )
        == 0
    )
    vary = [
        "vary",
        *common,
        "--audio",
        str(song),
        "--strength",
        "0.3",
        "--steps",
        "3",
        "--guidance-scale",
        "2",
    ]
    vary += ["--config.diffusion.sampler=heun", "--start", "30", "--total", "60"]
    assert main([*vary, "--out", str(tmp_path / "v.wav")]) == 0
    assert "written to" in capsys.readouterr().out
    for name, seconds in (("new/g", 0.1), ("i", 0.2), ("e", 0.3), ("v", 0.2)):
        about = soundfile.info(tmp_path / f"{name}.wav")
        assert (about.samplerate, about.channels, about.subtype) == (48_000, 2, "FLOAT")
        assert about.frames == round(seconds * 48_000)
        made = json.loads((tmp_path / f"{name}.wav.json").read_text())
        assert (
            made["prompt"] == "two tones"
            and made["seed"] == 7
            and made["fingerprints"]["autoencoder"]
        )
        assert made.get("audio") == (None if name == "new/g" else str(song.resolve()))
        assert made.get("strength") == (0.3 if name == "v" else None)
        defaults = tiny.config().diffusion
        used = (3, 2) if name == "v" else (defaults.sample_steps, defaults.guidance_scale)
        assert (made["steps"], made["guidance_scale"]) == used
        assert (made["start"], made["total"]) == ((30, 60) if name == "v" else (0, None))
        assert made["sampler"] == ("heun" if name == "v" else defaults.sampler)
        assert made["noise"] is None
    assert not list(tmp_path.rglob("*.partial"))
    model, noise, again = jen1_jax.load(tiny_run), tmp_path / "noise", tmp_path / "again.wav"
    write_noise(noise, model.sampler.noise(7, 0)[None])
    given = ["--noise", str(noise), "--seed", "8", "--seconds", "0.1", "--out", str(again)]
    assert main(["generate", *common, *given]) == 0
    same = [soundfile.read(each)[0] for each in (again, tmp_path / "new" / "g.wav")]
    np.testing.assert_array_equal(*same)
    assert json.loads(Path(f"{again}.json").read_text())["noise"] == str(noise)
    generate = ["generate", *common, "--seconds", "0.1", "--out", str(tmp_path / "no.wav")]
    assert "holds no noise" in refused(capsys, *generate, "--noise", str(tmp_path / "none"))
    assert "'unet.channels' is no setting of sampling" in refused(
        capsys, *generate, "--config.unet.channels=8"
    )
    assert not (tmp_path / "no.wav").exists()


def test_page_draws_the_run(tiny_run, tmp_path, song):
    assert (
        main(
            ["page", "--checkpoint", str(tiny_run), "--out", str(tmp_path / "page.png"), str(song)]
        )
        == 0
    )
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_encode_takes_shards_or_a_source(tmp_path, capsys, monkeypatch):
    codec = SimpleNamespace(fingerprint="f", k=2, hop=480, encoder_reach=2)
    codec.encode = lambda audio, valid_samples: audio[:, ::480]
    monkeypatch.setattr("jen1_jax.models.run.Run.open", lambda path: path)
    monkeypatch.setattr("jen1_jax.models.autoencoder.load_codec", lambda run: codec)
    monkeypatch.chdir(tmp_path)
    source = [
        "--source",
        "synthetic",
        "--clips",
        "4",
        "--seconds",
        "0.25",
        "--test-fraction",
        "0.3",
    ]
    assert main(["data", "prepare", *source, "--out", "shards"]) == 0
    prepared = capsys.readouterr().out
    encode = ["data", "encode", "--autoencoder", "run", "--out"]
    assert main([*encode, "stored", "--data", "shards"]) == 0
    assert "latents written to stored" in capsys.readouterr().out
    assert main([*encode, "direct", *source]) == 0
    assert capsys.readouterr().out == prepared.replace("wrote shards", "wrote direct")
    splits = lambda folder: json.loads(Path(folder, "dataset_info.json").read_text())["splits"]
    assert splits("stored") == splits("direct")
    with pytest.raises(SystemExit, match="2"):
        main([*encode, "both", "--data", "shards", *source])
    assert "argument --source: not allowed with argument --data" in capsys.readouterr().err


def test_evaluate_says_how_far_it_is(tmp_path, song, capsys, monkeypatch):
    codec = Codec(
        *build(),
        fit_whitening(
            Moments.of(np.random.default_rng(1).normal(size=(200, 6))), keep=1.0, floor=1e-5
        ),
        48_000,
    )
    monkeypatch.setattr("jen1_jax.models.run.Run.open", lambda path: path)
    monkeypatch.setattr("jen1_jax.models.autoencoder.load_codec", lambda run: codec)
    monkeypatch.setattr(
        "jen1_jax.evaluation.autoencoder.run_page", lambda *arguments, **options: None
    )
    monkeypatch.setattr("jen1_jax.cli.time", SimpleNamespace(monotonic=count(step=10).__next__))
    out = tmp_path / "out"
    shutil.copy(song, tmp_path / "another.wav")
    command = (
        "evaluate",
        "autoencoder",
        "--checkpoint",
        "run",
        "--data",
        str(tmp_path),
        "--out",
        str(out),
    )
    assert main([*command, "--clips", "1"]) == 0
    said = capsys.readouterr().out
    assert (
        "encoding another.wav: 1200/1200 frames" in said
        and "decoding another.wav: 1200/1200 frames" in said
    )
    assert "song.wav" not in said
    assert len(json.loads((out / "report.json").read_text())["clips"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--clips", "0"])
    assert "whole number of at least 1" in capsys.readouterr().err


def test_a_stride_of_0_is_refused(capsys, tmp_path):
    command = (
        "train",
        "autoencoder",
        "--config",
        "quickstart",
        "--workdir",
        tmp_path / "run",
        "--config.autoencoder.strides=(0,)",
    )
    assert "autoencoder.strides" in refused(capsys, *command)


def test_compiled_programs_are_kept_in_the_users_cache_or_a_named_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("jen1_jax.cli.page", lambda options: None)
    command = ["page", "--checkpoint", "RUN", "--out", "page.png"]
    for given, used in (("/named", "/named"), (None, f"{tmp_path}/.cache/jen1-jax/compiled")):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given or "")
        if given is None:
            monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        assert main(command) == 0
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == used


def test_no_such_run(capsys, tmp_path):
    out = tmp_path / "x.wav"
    assert "There is no run at" in refused(
        capsys, "generate", "--checkpoint", tmp_path / "absent", "--seconds", 1, "--out", out
    )
    assert not out.exists()


def test_a_run_without_its_parts(capsys, tiny_run, tmp_path):
    command = lambda run: (
        "generate",
        "--checkpoint",
        run,
        "--seconds",
        1,
        "--out",
        tmp_path / "x.wav",
    )
    for part, says in (
        ("autoencoder", "no trained autoencoder"),
        ("diffusion", "no trained diffusion model"),
    ):
        run = tmp_path / part
        shutil.copytree(tiny_run, run)
        shutil.rmtree(run / part)
        assert says in refused(capsys, *command(run))
    run = tmp_path / "unfinished"
    shutil.copytree(tiny_run, run)
    (run / "autoencoder" / "whitening.npz").unlink()
    assert "not trained to its end" in refused(capsys, *command(run))


def test_statistics_of_another_autoencoder(capsys, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    path = run / "autoencoder" / "whitening.npz"
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"mean": arrays["mean"] + 0.1}))
    recorded = json.loads((run / "config.json").read_text())["fingerprints"]["autoencoder"]
    assert recorded in refused(
        capsys, "generate", "--checkpoint", run, "--seconds", 1, "--out", tmp_path / "x.wav"
    )


def test_a_diffusion_model_of_another_autoencoder(capsys, tiny_run, tmp_path):
    """The autoencoder of a longer training takes its place.

    Its own record agrees with it, and the diffusion model's does not.
    """
    from jen1_jax.models.run import Run
    from jen1_jax.training.autoencoder import train_autoencoder
    from jen1_jax.training.npz import NpzData

    path = tmp_path / "run"
    shutil.copytree(tiny_run, path)
    config = tiny.config()
    config.train_autoencoder.steps = 7
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0, crop=3072)
    run, other = Run.open(path), Run(tmp_path / "other")
    assert "would be lost" in refused(
        capsys,
        "train",
        "autoencoder",
        "--config",
        own_config(tmp_path),
        "--workdir",
        path,
        f"--config.data.dir={tmp_path}/audio.npz",
    )
    train_autoencoder(config, other, data, progress=lambda text: None)
    shutil.rmtree(path / "autoencoder")
    shutil.copytree(other.path / "autoencoder", path / "autoencoder")
    before, after = (each.record["fingerprints"]["autoencoder"] for each in (run, other))
    run.write(run.config, run.record["fingerprints"] | {"autoencoder": after})
    said = refused(
        capsys, "generate", "--checkpoint", path, "--seconds", 1, "--out", tmp_path / "x.wav"
    )
    assert before != after and before[:12] in said and after[:12] in said


def own_config(folder):
    """A configuration file with the tiny run's settings and one step more for the autoencoder."""
    path = folder / "own.py"
    path.write_text(
        "from tests import tiny\n\ndef get_config():\n    config = tiny.config()\n"
        "    config.train_autoencoder.steps = 7\n    return config\n"
    )
    return path


def test_data_commands_without_tensorflow_say_what_to_install(capsys, tmp_path, monkeypatch):
    for name in [
        name
        for name in sys.modules
        if name.split(".")[0] in ("data_pipeline", "tensorflow_datasets")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert "jen1-jax[train]" in refused(
        capsys, "data", "prepare", "--source", "synthetic", "--out", tmp_path / "data"
    )


def test_midi_files_without_the_synthesiser_say_what_to_install(capsys, tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("data_pipeline.scores", "data_pipeline.sources.midi")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    (tmp_path / "a.mid").write_bytes(b"")
    assert "pip install --no-deps tinysoundfont" in refused(
        capsys, "data", "prepare", "--source", tmp_path, "--out", tmp_path / "data"
    )


def test_a_diffusion_model_needs_a_run(capsys, tmp_path):
    np.savez(
        tmp_path / "z.npz",
        latents=np.zeros((1, 96, 6), np.float16),
        valid_frames=np.full(1, 96),
        caption=["a"],
        test=np.zeros(1, bool),
    )
    assert "There is no run at" in refused(
        capsys,
        "train",
        "diffusion",
        "--config",
        "jen1",
        "--workdir",
        tmp_path / "typo",
        f"--config.data.dir={tmp_path}/z.npz",
    )


@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_guidance_that_is_no_number(capsys, tiny_run, tmp_path, scale):
    assert "guidance scale" in refused(
        capsys,
        "generate",
        "--checkpoint",
        tiny_run,
        "--seconds",
        0.1,
        "--out",
        tmp_path / "x.wav",
        "--guidance-scale",
        scale,
    )


def test_a_pickle_in_place_of_the_statistics_is_not_opened(capsys, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    np.savez(
        run / "autoencoder" / "whitening.npz",
        mean=np.array([{"a": 1}], dtype=object),
        basis=1,
        scale=1,
    )
    assert "is not a whitening" in refused(
        capsys, "generate", "--checkpoint", run, "--seconds", 1, "--out", tmp_path / "x.wav"
    )


def test_a_damaged_record(capsys, tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    good = json.loads((tiny_run / "config.json").read_text())
    damaged = [
        '{"config": {',
        "[" * 100_000,
        json.dumps(good | {"more": 1}),
        json.dumps(good | {"fingerprints": []}),
        json.dumps(good | {"fingerprints": {"text": None}}),
    ]
    generate = ("generate", "--checkpoint", run, "--seconds", 1, "--out", tmp_path / "x.wav")
    for text in damaged:
        (run / "config.json").write_text(text)
        assert "not the record of a run" in refused(capsys, *generate)
    for section, name, value, says in (
        ("data", "seconds", -1.0, "data.seconds"),
        ("audio", "sample_rate", 0, "audio.sample_rate"),
    ):
        changed = copy.deepcopy(good)
        changed["config"][section][name] = value
        (run / "config.json").write_text(json.dumps(changed))
        assert says in refused(capsys, *generate)


def test_unknown_config_key_and_preset(capsys, tmp_path):
    train = ("train", "autoencoder", "--workdir", tmp_path / "run")
    assert "no field 'unet.chanels'" in refused(
        capsys, *train, "--config", "jen1", "--config.unet.chanels=3"
    )
    assert "no preset 'jen9'" in refused(capsys, *train, "--config", "jen9")
    assert not (tmp_path / "run").exists()


def test_empty_unreadable_and_missing_data_folders(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        refused(
            capsys,
            "train",
            "autoencoder",
            "--config",
            "quickstart",
            "--workdir",
            tmp_path / "run",
            f"--config.data.dir={folder}",
        )
        refused(capsys, "data", "prepare", "--source", folder, "--out", tmp_path / "out")
        refused(capsys, "data", "validate", folder)
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_contradicts_the_run(capsys, tiny_run, tmp_path):
    data = tiny.write_audio_npz(tmp_path / "audio.npz")
    train = (
        "train",
        "autoencoder",
        "--config",
        "quickstart",
        f"--config.data.dir={data}",
        "--config.train_autoencoder.seconds=0.06",
    )
    said = refused(capsys, *train, "--config.train_autoencoder.steps=6", "--workdir", tiny_run)
    assert "trained with another `autoencoder`" in said and "strides" in said


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "1e9"])
def test_absurd_seconds(capsys, tiny_run, tmp_path, seconds):
    out = tmp_path / "x.wav"
    assert "cannot be generated" in refused(
        capsys, "generate", "--checkpoint", tiny_run, f"--seconds={seconds}", "--out", out
    )


def test_audio_that_is_not_audio_and_spans_outside_it(capsys, tiny_run, tmp_path, song):
    inpaint = ("inpaint", "--checkpoint", tiny_run, "--out", tmp_path / "x.wav")
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF....WAVEnot really")
    assert "cannot be read as audio" in refused(
        capsys, *inpaint, "--audio", broken, "--span", "0:1"
    )
    assert "cannot be read as audio" in refused(
        capsys, *inpaint, "--audio", tmp_path / "absent.wav", "--span", "0:1"
    )
    os.mkfifo(tmp_path / "pipe.wav")
    assert "no such file" in refused(
        capsys, *inpaint, "--audio", tmp_path / "pipe.wav", "--span", "0:1"
    )
    assert "not inside the audio of 0.20 s" in refused(
        capsys, *inpaint, "--audio", song, "--span", "0.1:0.5"
    )
    assert not (tmp_path / "x.wav").exists()


def test_outputs_that_cannot_be_written(capsys, tiny_run, tmp_path):
    generate = ("generate", "--checkpoint", tiny_run, "--seconds", 0.1, "--out")
    (tmp_path / "file").write_text("in the way")
    assert "cannot be created" in refused(capsys, *generate, tmp_path / "file" / "x.wav")
    assert "should end in .wav" in refused(capsys, *generate, tmp_path / "x.mp3")
    (tmp_path / "folder.wav").mkdir()
    assert "cannot be written" in refused(capsys, *generate, tmp_path / "folder.wav")
    data = tiny.write_audio_npz(tmp_path / "a.npz")
    train = (
        "train",
        "autoencoder",
        "--config",
        "quickstart",
        f"--config.data.dir={data}",
        "--config.train_autoencoder.seconds=0.06",
    )
    assert "cannot be written" in refused(capsys, *train, "--workdir", tmp_path / "file" / "run")


def test_wrong_usage_exits_with_2_and_help_with_0():
    for arguments, status in (
        (["generate"], 2),
        (["dance"], 2),
        (["generate", "--help"], 0),
        (["--version"], 0),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == status


def test_the_installed_command_answers():
    result = subprocess.run(
        [sys.executable, "-m", "jen1_jax.cli", "--version"], capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stdout.startswith("jen1-jax ")
