"""The measurements of the training data after the autoencoder is trained."""

import json
import shutil

import jax
import numpy as np
import pytest

from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.whitening import Moments
from jen1_jax.models.autoencoder import _load_measured, load_codec
from jen1_jax.models.run import Run
from jen1_jax.training import autoencoder, whitening
from jen1_jax.training.npz import NpzData
from jen1_numpy.errors import Refusal
from tests import tiny
from tests.autoencoder.testing import build


def test_moments_of_several_processes_are_merged_in_float64(monkeypatch):
    rng = np.random.default_rng(0)
    # In float32 the large mean would hide the small deviations of the second direction.
    vectors = 1e4 + rng.normal(size=(1000, 3)) * [1, 1e-3, 5]
    parts = [Moments.of(part) for part in np.split(vectors, [100, 400])]
    packed = []
    monkeypatch.setattr(jax, "process_count", lambda: len(parts))
    multihost = whitening.multihost_utils
    collect = lambda bits: packed.append(bits) or bits[None]
    monkeypatch.setattr(multihost, "process_allgather", collect)
    for part in parts:
        whitening.over_processes(part)
    monkeypatch.setattr(multihost, "process_allgather", lambda bits: np.stack(packed))
    total, expected = whitening.over_processes(parts[1]), Moments.of(vectors)
    assert total.count == 1000 and packed[0].dtype == np.uint32
    np.testing.assert_allclose(total.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(total.covariance, expected.covariance, rtol=1e-6, atol=1e-9)


def test_the_loudest_level_of_each_band_is_that_of_all_valid_frames():
    """Those of the last batch count too, padding does not, and `ROOM` is added."""
    model, params = build(strides=(16, 2), window=64, phase_iterations=1)
    audio = 0.01 * np.random.default_rng(0).standard_normal((3, 10 * 32, 2)).astype(np.float32)
    audio[2, 64:128] *= 40
    loud = audio.copy()
    loud[0, 256:] = 1.0  # padding
    batches = [
        {"audio": loud[:2], "valid_samples": np.array([224, 320])},
        {"audio": loud[2:], "valid_samples": np.array([320])},
    ]
    loudest = whitening.measure(model, params, batches).loudest
    levels = np.asarray(jax.jit(spectrum.analyse, static_argnums=1)(audio, spectrum.Layout(64)))
    np.testing.assert_allclose(loudest, levels.max((0, 1)) + whitening.ROOM, atol=1e-4)


@pytest.mark.slow
def test_deleted_measurements_are_repeated_and_the_whitening_stays(tiny_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run, run.path)
    before, measured = run.whitening.read_bytes(), json.loads(run.measured.read_text())
    assert 0 < measured["margin"] <= load_codec(run).encoder_reach
    run.measured.unlink()
    other_audio = str(tiny.write_audio_npz(tmp_path / "audio.npz", seed=5))
    data = NpzData(other_audio, 4, seed=0, crop=3072)
    config = tiny.config()
    config.train_autoencoder.remap_data = True
    autoencoder.train_autoencoder(config, run, data, progress=lambda text: None)
    assert run.whitening.read_bytes() == before
    assert json.loads(run.measured.read_text())["margin"] > 0
    assert run.record == {**Run(tiny_run).record, "config": run.record["config"]}


def test_missing_or_broken_measurements_are_refused(tmp_path):
    path = tmp_path / "measured.json"
    model, _ = build(strides=(16, 2), window=64, phase_iterations=1)
    good = {"margin": 1, "loudest": [1.5] * spectrum.Layout(64).bands}
    changes = [
        {"loudest": [1.0]},
        {"loudest": [None] * spectrum.Layout(64).bands},
        {"margin": -1},
        {"margin": 1.0},
        {"margin": 99},
    ]
    missing = None
    broken = ["{", "{}", "[" * 100_000, *(json.dumps(good | change) for change in changes)]
    for text in (missing, *broken):
        if text is not missing:
            path.write_text(text)
        with pytest.raises(Refusal, match=r"measured\.json.*delete it"):
            _load_measured(path, model)
    path.write_text(json.dumps(good))
    measured = _load_measured(path, model)
    assert measured["margin"] == 1
    np.testing.assert_array_equal(
        measured["loudest"], np.full(spectrum.Layout(64).bands, 1.5, np.float32)
    )


@pytest.mark.slow
def test_a_clip_that_is_not_finite_is_left_out_of_the_whitening_and_reported(tmp_path):
    path = tiny.write_audio_npz(tmp_path / "audio.npz")
    arrays = dict(np.load(path))
    arrays["audio"][0, 5] = np.nan
    np.savez(path, **arrays)
    messages, data = [], NpzData(str(path), 4, seed=0, crop=3072)
    run = Run(tmp_path / "run")
    autoencoder.train_autoencoder(tiny.config(), run, data, progress=messages.append)
    assert any("left out 1 examples that are not finite" in line for line in messages)
    assert np.isfinite(load_codec(Run.open(tmp_path / "run")).whitening.scale).all()


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("whitening", dict(keep=1.5), "whitening.keep"),
        ("train_autoencoder", dict(stft_windows=(255,)), "stft_windows are multiples of 4"),
        ("train_autoencoder", dict(stft_windows=()), "at least one"),
        ("train_autoencoder.adversary", dict(windows=()), "adversary.windows"),
        ("train_autoencoder", dict(batch_size=0), "batch_size must be at least 1"),
        ("train_autoencoder", dict(seconds=1e-4), "less than one hop"),
        ("autoencoder", dict(compress=9), "compress no more than any"),
        ("autoencoder", dict(strides=(8, 0)), "at least 1"),
        ("autoencoder", dict(mask_rate=1.5), "mask_rate"),
        ("autoencoder", dict(strides=(), channels=()), "at least one"),
        ("autoencoder", dict(dtype="float16"), 'dtype is "float32" or "bfloat16"'),
        ("autoencoder", dict(activation="relu"), "Unknown autoencoder.activation 'relu'"),
        ("autoencoder", dict(mask_unit="band"), "Unknown autoencoder.mask_unit 'band'"),
        (
            "train_autoencoder",
            dict(losses={name: 0.0 for name in tiny.config().train_autoencoder.losses}),
            "one of them above 0",
        ),
        ("train_autoencoder.losses", dict(mel=-1.0), "weights of at least 0"),
        (
            "train_autoencoder.adversary",
            dict(loss="wasserstein"),
            "Unknown adversary.loss 'wasserstein'",
        ),
        ("train_autoencoder.adversary", dict(channels=0), "adversary.channels must be at least 1"),
        ("train_autoencoder.adversary", dict(start=-1), "adversary.start at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    tmp_path, section, changes, message
):
    config = tiny.config()
    part = config
    for name in section.split("."):
        part = part[name]
    with config.unlocked():
        part.update(changes)
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0, crop=3072)
    with pytest.raises(Refusal, match=message):
        autoencoder.train_autoencoder(config, Run(tmp_path / "run"), data)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_changed_adversary_is_refused_when_training_continues(tmp_path):
    config = tiny.config()
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0, crop=3072)
    autoencoder.train_autoencoder(config, Run(tmp_path / "run"), data, progress=lambda line: None)
    config.train_autoencoder.steps += 1
    config.train_autoencoder.adversary.channels = 8
    with pytest.raises(Refusal, match="begun with the adversary"):
        autoencoder.train_autoencoder(config, Run(tmp_path / "run"), data)
