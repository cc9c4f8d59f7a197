"""Eight devices give the loss of one. Devices are counted when JAX starts, so every run has a process of its own."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys, tempfile
from pathlib import Path
import jax, numpy as np
from jen1_jax.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.metrics import read_metrics
from jen1_jax.training.npz import NpzData
from tests import tiny

folder = Path(sys.argv[1])
config = tiny.config()
config.train_autoencoder.batch_size = 8
with config.unlocked():
    config.mesh.axes = dict(json.loads(sys.argv[2]))
config.train_autoencoder.steps = int(sys.argv[3])
path = tiny.write_audio_npz(folder / "audio.npz")
run = Run(folder / "run")
source = Run.open(sys.argv[4]) if sys.argv[4] else None
train_autoencoder(config, run, NpzData(str(path), 8, 0, crop=3072), source, progress=lambda text: None)
losses = [record["loss"] for record in read_metrics(run.path / "autoencoder" / "metrics.jsonl")]
print(json.dumps([jax.device_count(), losses]))
"""


def train(folder, axes, devices, steps=4, source=""):
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONPATH": os.getcwd()}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), json.dumps(axes), str(steps), str(source)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    count, losses = json.loads(result.stdout.splitlines()[-1])
    assert count == devices
    return losses


@pytest.mark.slow
def test_eight_devices_give_the_loss_of_one_and_restore_its_checkpoint(tmp_path):
    one = train(tmp_path / "one", {"data": -1, "fsdp": 1, "tensor": 1}, devices=1)
    eight = train(tmp_path / "eight", {"data": 2, "fsdp": 2, "tensor": 2}, devices=8)
    assert eight == pytest.approx(one, rel=1e-4)
    # the first run's checkpoint goes on on the other mesh, and the other way round
    more = train(tmp_path / "one", {"data": 4, "fsdp": 2, "tensor": 1}, devices=8, steps=6)
    fewer = train(tmp_path / "eight", {"data": -1, "fsdp": 1, "tensor": 1}, devices=1, steps=6)
    assert more[:4] == one and fewer[:4] == eight and len(more) == len(fewer) == 6
    assert more[4:] == pytest.approx(fewer[4:], rel=1e-3)
    # a decoder-only stage takes over what another mesh has trained
    stage = train(tmp_path / "stage", {"data": 2, "fsdp": 2, "tensor": 2}, devices=8, source=tmp_path / "one" / "run")
    assert stage[0] < one[0]
