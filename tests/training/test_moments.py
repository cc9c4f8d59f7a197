"""Latent statistics over several processes."""

import json
import shutil

import jax
import numpy as np
import pytest

from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.whitening import Moments
from jen1_jax.errors import Refusal
from jen1_jax.models.autoencoder import _load_measured, load_codec
from jen1_jax.models.run import Run
from jen1_jax.training import autoencoder, whitening
from jen1_jax.training.npz import NpzData
from tests import tiny
from tests.autoencoder.testing import build


def test_processes_merge_their_moments_without_losing_a_bit(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = 1e4 + rng.normal(size=(1000, 3)) * [
        1,
        1e-3,
        5,
    ]  # float32 would lose the small direction beside the large mean
    parts = [Moments.of(part) for part in np.split(vectors, [100, 400])]
    packed = []
    monkeypatch.setattr(jax, "process_count", lambda: len(parts))
    monkeypatch.setattr(
        whitening.multihost_utils,
        "process_allgather",
        lambda bits: packed.append(bits) or bits[None],
    )
    for part in parts:
        whitening.over_processes(part)
    monkeypatch.setattr(
        whitening.multihost_utils, "process_allgather", lambda bits: np.stack(packed)
    )
    total, expected = whitening.over_processes(parts[1]), Moments.of(vectors)
    assert total.count == 1000 and packed[0].dtype == np.uint32
    np.testing.assert_allclose(total.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(total.covariance, expected.covariance, rtol=1e-6, atol=1e-9)


def test_the_loudest_level_of_each_band_is_that_of_all_real_frames():
    """Of a piece in the last batch too, and of no padding; a little more is left for what was not in the data."""
    model, params = build(strides=(16, 2), window=64, phase_iterations=1)
    audio = 0.01 * np.random.default_rng(0).standard_normal((3, 10 * 32, 2)).astype(np.float32)
    audio[2, 64:128] *= 40
    loud = audio.copy()
    loud[0, 256:] = 1.0  # behind what is valid
    batches = [
        {"audio": loud[:2], "valid_samples": np.array([224, 320])},
        {"audio": loud[2:], "valid_samples": np.array([320])},
    ]
    loudest = whitening.measure(model, params, batches).loudest
    levels = np.asarray(jax.jit(spectrum.analyse, static_argnums=1)(audio, 64))
    np.testing.assert_allclose(loudest, levels.max((0, 1)) + whitening.ROOM, atol=1e-4)


@pytest.mark.slow
def test_what_was_measured_is_measured_again_without_touching_the_whitening(tiny_run, tmp_path):
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run, run.path)
    before, measured = run.whitening.read_bytes(), json.loads(run.measured.read_text())
    assert 0 < measured["margin"] <= load_codec(run).encoder_reach
    run.measured.unlink()
    data = NpzData(
        str(tiny.write_audio_npz(tmp_path / "audio.npz", seed=5)), 4, seed=0, crop=3072
    )  # other audio than before
    autoencoder.train_autoencoder(tiny.config(), run, data, progress=lambda text: None)
    assert (
        run.whitening.read_bytes() == before and json.loads(run.measured.read_text())["margin"] > 0
    )
    assert run.record == Run(tiny_run).record


def test_without_what_was_measured_an_autoencoder_is_refused(tmp_path):
    path = tmp_path / "measured.json"
    model, _ = build(strides=(16, 2), window=64, phase_iterations=1)
    good = {"margin": 1, "loudest": [1.5] * spectrum.bands(64)}
    changes = [
        {"loudest": [1.0]},
        {"loudest": [None] * spectrum.bands(64)},
        {"margin": -1},
        {"margin": 1.0},
        {"margin": 99},
    ]
    for text in (
        None,
        "{",
        "{}",
        "[" * 100_000,
        *(json.dumps(good | change) for change in changes),
    ):
        if text is not None:
            path.write_text(text)
        with pytest.raises(Refusal, match=r"measured\.json.*delete it"):
            _load_measured(path, model)
    path.write_text(json.dumps(good))
    measured = _load_measured(path, model)
    assert measured["margin"] == 1
    np.testing.assert_array_equal(measured["loudest"], np.full(spectrum.bands(64), 1.5, np.float32))


@pytest.mark.slow
def test_a_clip_that_is_not_finite_is_left_out_of_the_whitening_and_that_is_told(tmp_path):
    path = tiny.write_audio_npz(tmp_path / "audio.npz")
    arrays = dict(np.load(path))
    arrays["audio"][0, 5] = np.nan
    np.savez(path, **arrays)
    said = []
    autoencoder.train_autoencoder(
        tiny.config(),
        Run(tmp_path / "run"),
        NpzData(str(path), 4, seed=0, crop=3072),
        progress=said.append,
    )
    assert any("left out 1 examples that are not finite" in line for line in said)
    assert np.isfinite(load_codec(Run.open(tmp_path / "run")).whitening.scale).all()


@pytest.mark.parametrize(
    ("section", "changes", "says"),
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
    tmp_path, section, changes, says
):
    config = tiny.config()
    part = config
    for name in section.split("."):
        part = part[name]
    with config.unlocked():
        part.update(changes)
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0, crop=3072)
    with pytest.raises(Refusal, match=says):
        autoencoder.train_autoencoder(config, Run(tmp_path / "run"), data)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_adversary_than_begun_with_is_refused_by_name(tmp_path):
    config, data = (
        tiny.config(),
        NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0, crop=3072),
    )
    autoencoder.train_autoencoder(config, Run(tmp_path / "run"), data, progress=lambda line: None)
    config.train_autoencoder.steps += 1
    config.train_autoencoder.adversary.channels = 8
    with pytest.raises(Refusal, match="begun with the adversary"):
        autoencoder.train_autoencoder(config, Run(tmp_path / "run"), data)
