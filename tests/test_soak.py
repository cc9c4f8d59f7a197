"""The short versions of benchmarks/soak_autoencoder.py and benchmarks/soak_training.py."""

import numpy as np
import pytest

from benchmarks import soak_autoencoder, soak_training
from jen1_jax.training.npz import NpzData
from tests import tiny


@pytest.mark.slow
def test_training_continues_through_silence_square_waves_and_damaged_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(soak_autoencoder, "POISON", 7)
    config = tiny.config()
    config.train_autoencoder.update(steps=40, log_every=5)
    config.train_autoencoder.adversary.update(start=4, ramp=4)
    data = NpzData(str(tiny.write_audio_npz(tmp_path / "audio.npz")), 4, seed=0, crop=3072)
    result = soak_autoencoder.soak(config, data, tmp_path / "run", progress=lambda line: None)
    assert result["skipped"] == 5 and np.isfinite(result["held_out_si_sdr"])
    assert result["last"]["loss/adversarial"] != 0 and result["last"]["loss/discriminator"] > 0


@pytest.mark.slow
def test_a_training_that_is_killed_and_stopped_ends_as_an_undisturbed_one(tmp_path):
    moments = ("save", "signal")
    result = soak_training.soak(tmp_path, moments, steps=120, seed=0, progress=lambda line: None)
    assert result["kills"] == dict.fromkeys(moments, 1)
