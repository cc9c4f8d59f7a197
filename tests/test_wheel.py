"""An installed wheel has its presets and type information, and it trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
from pathlib import Path
import configs, data_pipeline, jen1_jax, jen1_numpy
site = Path(sys.argv[1])
for package in (configs, data_pipeline, jen1_jax, jen1_numpy):
    assert Path(package.__file__).is_relative_to(site), package.__file__
from jen1_jax.cli import main
sys.exit(main(sys.argv[2:]))
"""


def run(arguments, **options):
    command = [str(argument) for argument in arguments]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_an_installed_wheel_trains_two_steps_of_a_packaged_preset(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    run([*build, "--outdir", tmp_path, ROOT])
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run([*install, "--target", site, wheel])
    assert (site / "jen1_jax" / "py.typed").is_file()
    data = tiny.write_audio_npz(tmp_path / "audio.npz")
    overrides = [
        f"--config.data.dir={data}",
        "--config.autoencoder.channels=(8, 8)",
        "--config.train_autoencoder.steps=2",
        "--config.train_autoencoder.batch_size=2",
        "--config.train_autoencoder.warmup_steps=1",
        "--config.train_autoencoder.seconds=0.08",
        "--config.train_autoencoder.stft_windows=(256,)",
    ]
    train = ["train", "autoencoder", "--config", "quickstart", "--workdir", tmp_path / "run"]
    command = [sys.executable, "-c", PROGRAM, site, *train, *overrides]
    environment = os.environ | {"PYTHONPATH": str(site)}
    output = run(command, cwd=tmp_path, env=environment)
    assert "autoencoder 2/2" in output or "whitening" in output
    assert (tmp_path / "run" / "autoencoder" / "whitening.npz").is_file()
