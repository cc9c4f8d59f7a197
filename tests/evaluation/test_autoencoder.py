"""The evaluation of an autoencoder with random weights."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Moments, fit_whitening
from jen1_jax.evaluation import autoencoder
from jen1_jax.evaluation.autoencoder import Clip, evaluate_autoencoder
from jen1_numpy.errors import Refusal
from tests.autoencoder.testing import build

AUDIO = (0.3 * np.random.default_rng(0).standard_normal((4800, 2))).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    model, params = build()
    latents = np.random.default_rng(1).normal(size=(200, 6))
    whitening = fit_whitening(Moments.of(latents), keep=1.0, floor=1e-5)
    return Codec(model, params, whitening, 48_000)


def test_a_reconstruction_that_is_not_finite_is_refused_with_its_name(codec, tmp_path):
    whitening = dataclasses.replace(codec.whitening, mean=codec.whitening.mean + np.nan)
    broken = dataclasses.replace(codec, whitening=whitening)
    with pytest.raises(Refusal, match=r"reconstruction of song\.wav holds NaN"):
        evaluate_autoencoder(broken, [Clip("song.wav", AUDIO)], tmp_path)


def test_progress_is_reported_for_each_clip(codec, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "run_page", lambda *args, **options: None)
    reports = []
    clips = [Clip("a", AUDIO), Clip("b", AUDIO)]
    evaluate_autoencoder(codec, clips, tmp_path, lambda *report: reports.append(report))
    frames = len(AUDIO) // codec.hop
    activities = ("encoding a", "decoding a", "encoding b", "decoding b")
    finished = [(activity, done, total) for activity, done, total in reports if done]
    assert finished == [(activity, frames, frames) for activity in activities]


def test_a_url_as_the_folder_is_refused_before_anything_is_written(codec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=r"is a URL \(gs:\)"):
        evaluate_autoencoder(codec, [Clip("a", AUDIO)], Path("gs://bucket/report"))
    assert not list(tmp_path.iterdir())
