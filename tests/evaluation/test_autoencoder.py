"""The evaluation of an autoencoder, on one of random weights."""

import dataclasses

import numpy as np
import pytest

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Moments, fit_whitening
from jen1_jax.errors import Refusal
from jen1_jax.evaluation import autoencoder
from jen1_jax.evaluation.autoencoder import Clip, evaluate_autoencoder
from tests.autoencoder.testing import build

AUDIO = (0.3 * np.random.default_rng(0).standard_normal((4800, 2))).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    model, params = build()
    return Codec(
        model,
        params,
        fit_whitening(
            Moments.of(np.random.default_rng(1).normal(size=(200, 6))), keep=1.0, floor=1e-5
        ),
        48_000,
    )


def test_a_reconstruction_that_is_not_finite_is_refused_with_its_name(codec, tmp_path):
    spoilt = dataclasses.replace(codec.whitening, mean=codec.whitening.mean + np.nan)
    with pytest.raises(Refusal, match=r"reconstruction of song\.wav holds NaN"):
        evaluate_autoencoder(
            dataclasses.replace(codec, whitening=spoilt), [Clip("song.wav", AUDIO)], tmp_path
        )


def test_progress_is_told_clip_by_clip(codec, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "run_page", lambda *args, **options: None)
    told = []
    evaluate_autoencoder(
        codec, [Clip("a", AUDIO), Clip("b", AUDIO)], tmp_path, lambda *what: told.append(what)
    )
    frames = len(AUDIO) // codec.hop
    assert [what for what in told if what[1]] == [
        (f"{doing} {name}", frames, frames) for name in "ab" for doing in ("encoding", "decoding")
    ]
