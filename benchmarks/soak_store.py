"""Trains a run in an object store, goes on, generates, and compares it with a local run.

A stand-in for Google Cloud Storage on loopback answers, and one in `--failing` requests fails. The
audio that both runs generate must be equal. It needs two minutes and the extra `gcs`. Run it with
`python -m benchmarks.soak_store`.
"""

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path

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
from tests.bucket import point_at, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failing", type=int, default=50, help="one request in so many; 0: none")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        failed = compare(Path(folder), patch, options.failing)
    seconds = time.monotonic() - began
    print(f"the run in the bucket generates what the local one does; {failed} requests failed")
    print(json.dumps({"equal": True, "failed_requests": failed, "seconds": round(seconds)}))


def compare(tmp_path: Path, patch: pytest.MonkeyPatch, failing: int) -> int:
    """Raises AssertionError if the runs differ; returns how many requests have failed."""
    audio = str(tiny.write_audio_npz(tmp_path / "audio.npz"))
    with serve(failing) as (address, store):
        point_at(address, patch)
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
        return store.failed


if __name__ == "__main__":
    main()
