"""Several processes train as one, and each knows of the others or stops."""

import numpy as np
import pytest

from jen1_jax.autoencoder.whitening import Whitening
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from tests import tiny
from tests.devices import ended, free_port, started

CONFIG = """
from tests import tiny


def get_config():
    config = tiny.config()
    config.train_autoencoder.update(batch_size=8, steps=4)
    config.train_diffusion.update(batch_size=8, steps=3, microbatches=2)
    return config.lock()
"""
TRAIN = """
import sys
from jen1_jax.cli import main
from jen1_jax import distributed

distributed.WAIT = 300
sys.exit(main(sys.argv[1:]))
"""


def train(part, folder, name, processes=1, devices=1, axes=(), *options):
    """Trains by the command `jen1 train` in some processes; returns its run and what each prints.

    `axes` are those of the mesh that differ from the preset's.
    """
    (folder / "config.py").write_text(CONFIG)
    data, run = folder / "audio.npz", folder / name
    sizes = [f"--config.mesh.axes.{axis}={size}" for axis, size in dict(axes).items()]
    command = ["train", part, "--config", folder / "config.py", "--workdir", run]
    command += [f"--config.data.dir={data}", *sizes, *options]
    others = ["--coordinator", f"localhost:{free_port()}", "--processes", processes, "--process"]
    found = ended(
        [
            started(devices, TRAIN, *command, *([*others, n] if processes > 1 else []))
            for n in range(processes)
        ]
    )
    assert [status for status, *_ in found] == [0] * processes, found
    return Run(run), [printed for _, printed, _ in found]


def losses(run, part):
    return [record["loss"] for record in read_metrics(run.path / part / "metrics.jsonl")]


@pytest.mark.slow
def test_two_processes_train_both_models_as_one_and_the_first_writes(tmp_path):
    tiny.write_audio_npz(tmp_path / "audio.npz")
    one, _ = train("autoencoder", tmp_path, "one")
    two, (printed, silent) = train("autoencoder", tmp_path, "two", 2, 2)
    assert losses(two, "autoencoder") == pytest.approx(losses(one, "autoencoder"), rel=1e-4)
    ours, theirs = Whitening.load(two.whitening), Whitening.load(one.whitening)
    np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-3)
    assert "the autoencoder is in" in printed and silent == ""
    assert two.record["fingerprints"].keys() == {"autoencoder"}

    # Both models of the same autoencoder, which the run takes over; the heads of a block lie in
    # two processes.
    source = ["--autoencoder", one.path]
    train("diffusion", tmp_path, "alone", 1, 1, {}, *source)
    axes = {"fsdp": 1, "tensor": 4}
    train("diffusion", tmp_path, "both", 2, 2, axes, *source)
    alone, both = (Run(tmp_path / name) for name in ("alone", "both"))
    assert losses(both, "diffusion") == pytest.approx(losses(alone, "diffusion"), rel=1e-4)
    assert both.record["fingerprints"] == alone.record["fingerprints"]
    assert sorted(path.name for path in both.path.iterdir()) == sorted(
        path.name for path in alone.path.iterdir()
    )
