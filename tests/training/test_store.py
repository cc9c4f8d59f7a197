"""A run whose folder is in an object store trains, goes on and generates."""

import gc
import json

import numpy as np
import pytest

import jen1_jax
from jen1_jax.files import anywhere
from jen1_jax.models.release import release
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.diffusion import train_diffusion
from jen1_jax.training.npz import NpzData
from tests import tiny

pytest.importorskip("gcsfs")
from tests.bucket import serve
from tests.test_store import point_at


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_and_generates_what_a_local_one_does(tmp_path, monkeypatch):
    audio = str(tiny.write_audio_npz(tmp_path / "audio.npz"))
    with serve(failing=50) as (address, store):
        point_at(address, monkeypatch)
        music = {}
        for path in ("gs://bucket/run", str(tmp_path / "run")):
            run = Run(anywhere(path))
            config = tiny.config()
            config.train_autoencoder.steps = 2
            data = NpzData(audio, 4, seed=0, crop=3072)
            train_autoencoder(config, run, data, progress=lambda text: None)
            for steps in (1, 2):
                config.train_diffusion.steps = steps
                data = NpzData(audio, 6, seed=0)
                train_diffusion(config, run, data, progress=lambda text: None)
            lines = (run.path / "diffusion" / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == [1, 2]
            gc.collect()  # the TensorBoard writers upload once more as they go
            music[path] = jen1_jax.load(path).generate("drums", seconds=0.5, seed=0)
        np.testing.assert_array_equal(*music.values())
        release(Run.open("gs://bucket/run"), "gs://bucket/release")
        released = jen1_jax.load("gs://bucket/release").generate("drums", seconds=0.5, seed=0)
        assert released.shape == music[path].shape
        kinds = {name.split("/")[2] for _, name in store.objects if name.startswith("run/diff")}
        assert kinds >= {"checkpoints", "metrics.jsonl", "tensorboard", "start.txt"}
        assert store.failed > 0
