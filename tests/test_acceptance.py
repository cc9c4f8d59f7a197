"""launch/acceptance.sh runs on simulated devices, and reports what it found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {  # of compose's U-Net
    "channels": 16,
    "multipliers": (12, 12),
    "factors": (2,),
    "num_blocks": (1,),
    "head_dim": 16,
    "attentions": (0, 1),
}


@pytest.mark.slow
def test_four_simulated_devices_are_accepted_and_plans_are_not_measured(tmp_path):
    out = tmp_path / "out"
    variables = dict(OUT=out, STORE=tmp_path / "store", PYTHON=sys.executable, JAX_PLATFORMS="cpu")
    variables |= dict(BATCH="4", STEPS="60", CLIP="1.28", CLIPS="24")
    variables |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    overrides = [f"--config.unet.{name}={value}" for name, value in SMALL.items()]
    command = ["bash", ROOT / "launch/acceptance.sh", "--", *overrides]
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((out / "acceptance.json").read_text())
    assert {name: check["verdict"] for name, check in report["checks"].items()} == {
        "same loss on one device and on all": "passed",
        "step time as planned": "not measured",
        "memory as planned": "not measured",
        "SIGTERM ends the training with 75": "passed",
        "resumed from the store": "passed",
    }
    assert report["device_kind"] == "cpu"
    assert report["checks"]["resumed from the store"]["largest_difference"] < 1e-5
