"""launch/compose.sh goes through its stages, continues after an interruption, and refuses."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Records its call, and is killed at the first call of each command in $KILL. Else it writes --out.
JEN1 = """#!/bin/bash
echo "$*" >>calls
[[ " $KILL " != *" $1-$2 "* || -e killed-$1-$2 ]] || { touch "killed-$1-$2"; kill -9 $PPID $$; }
while [ $# -gt 1 ]; do
  case $1 in
    --out) if [[ $2 == *.wav || $2 == *.png ]]; then touch "$2"; else
      mkdir "$2"; touch "$2"/{report.json,page.png,jen1-test.array_record}; fi ;;
    --workdir) mkdir -p "$2"/{autoencoder,diffusion}
      for part in autoencoder diffusion; do
        [ -e "$2/$part/metrics.jsonl" ] || touch -d 2020-01-01 "$2/$part/metrics.jsonl"; done ;;
  esac
  shift
done
"""
MUSIC = 'mkdir -p "$1"/{scores,soundfonts}; touch "$1"/soundfonts/{A.sf2,B.sf3}; echo music >>calls'
TEXT = 'mkdir -p "$1"; touch "$1/model.safetensors"; echo text >>calls'
CLIPS = """
import pathlib, sys
pathlib.Path(sys.argv[2]).mkdir(exist_ok=True)
for name in ("txt", "generate", "inpaint", "extend"):
    pathlib.Path(sys.argv[2], f"1.{name}").touch()
"""


@pytest.fixture
def compose(tmp_path):
    """A function that runs the script in a checkout whose slow programs are replaced."""
    launch, programs = tmp_path / "launch", tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    launch.mkdir()
    for name in ("compose.sh", "results.sh"):
        shutil.copy(ROOT / "launch" / name, launch)
    (launch / "setup.sh").write_text("setup() { PATH=$PWD/.venv/bin:$PATH; }")
    (launch / "composed_music.sh").write_text(MUSIC)
    (launch / "language_model.sh").write_text(TEXT)
    (launch / "clips.py").write_text(CLIPS)
    for name, text in (("jen1", JEN1), ("python", f'#!/bin/sh\nexec {sys.executable} "$@"')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def call(*options, kill=(), run=subprocess.run):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "KILL": " ".join(kill)}
        command, pipe = ["bash", launch / "compose.sh", *options], subprocess.PIPE
        return run(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)

    return call


def test_a_call_that_is_killed_in_each_long_stage_ends_with_every_stage_done_once(
    compose, tmp_path
):
    kill = ["train-autoencoder", "data-encode", "train-diffusion"]
    results = [compose("--", "--config.data.seconds=5.12", kill=kill) for _ in range(5)]
    assert [result.returncode for result in results] == [-9] * 3 + [0, 0]
    calls = (tmp_path / "calls").read_text().splitlines()
    names = [" ".join(call.split()[:2]) for call in calls]
    assert names == [
        *("music", "text", "data prepare", "train autoencoder"),
        *("music", "text", "train autoencoder", "evaluate autoencoder", "data encode"),
        *("music", "text", "train autoencoder", "data encode", "train diffusion"),
        *("text", "train autoencoder", "train diffusion", "evaluate captions"),
        *["generate --checkpoint"] * 3,
        *("inpaint --checkpoint", "extend --checkpoint", "page --checkpoint"),
        *("text", "train autoencoder", "train diffusion", "page --checkpoint"),
    ]
    run, music = tmp_path / "runs" / "compose", tmp_path / "music" / "composed"
    reading = f"--source {music}/scores --soundfont {music}/soundfonts/A.sf2,{music}/soundfonts/B"
    for call in calls:
        if call.startswith("data"):
            assert reading in call and "--seconds 5.12" in call
        if call.startswith("train"):
            assert f"--config.text.encoder={run}/language_model --config.data.seconds=5.12" in call


def test_scores_of_another_machine_are_taken(compose, tmp_path):
    scores = tmp_path / "scores"
    scores.mkdir()
    (scores / "0-000000.mid").write_text("a score")
    music = tmp_path / "elsewhere"
    music.mkdir()
    archive = music / "scores.tar.gz"
    subprocess.run(["tar", "-C", tmp_path, "-czf", archive, "scores"], check=True)
    assert compose("--music", "elsewhere", kill=["data-prepare"]).returncode == -9
    assert (music / "scores" / "0-000000.mid").read_text() == "a score"
    assert {path.name for path in music.iterdir()} == {"scores", archive.name, "soundfonts"}
    shutil.rmtree(music / "scores")
    archive.write_bytes(archive.read_bytes()[:40])
    assert "copy it again" in compose("--music", "elsewhere").stderr.splitlines()[-1]


def test_wrong_options_are_refused_in_one_sentence_before_anything_starts(compose, tmp_path):
    for options, reason in (
        (["--hours", "many"], "--hours is a number above 0"),
        (["--hours", "0.0"], "--hours is a number above 0"),
        (["--hour", "1"], "does not know --hour"),
        (["--run"], "usage"),
        (["--", "steps=3"], "looks like --config"),
        (["--", "--config.unet.chanels=3"], "no field"),
    ):
        result = compose(*options)
        (line,) = result.stderr.splitlines()
        assert result.returncode == 1 and line.startswith("compose.sh: ") and reason in line
    assert not (tmp_path / "calls").exists()


def test_a_run_keeps_its_music_and_has_one_call_at_a_time(compose, tmp_path):
    assert compose(kill=["data-prepare"]).returncode == -9
    assert "was started with 60 hours" in compose("--hours", "10").stderr
    calls = (tmp_path / "calls").read_text()
    with open(tmp_path / "runs" / "compose" / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = compose(kill=["data-prepare"], run=subprocess.Popen)
        assert "waiting for the end of another call" in second.stdout.readline()
        assert (tmp_path / "calls").read_text() == calls
    assert "training the autoencoder" in second.communicate()[0]
