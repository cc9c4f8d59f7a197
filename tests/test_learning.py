"""Small models learn: they follow unseen captions and reproduce memorised clips in all tasks.

Each benchmark trains in a new process without the compiler flags of the other tests, which would
make its steps slow.
"""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.follow import SIGNIFICANT


def figures(benchmark, folder):
    """The figures that `python -m benchmarks.NAME` prints in its last line."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--folder", str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def memorised(tmp_path_factory):
    return figures("memorise", tmp_path_factory.mktemp("memorise"))


@pytest.mark.slow
@pytest.mark.parametrize("task, error", [("text", 0.3), ("inpaint", 0.6), ("extend", 0.5)])
def test_memorised_clips_are_reproduced_in_every_task(memorised, task, error):
    assert memorised["memorisation"][task]["nearest"] >= 7
    assert memorised["memorisation"][task]["error"] < error


@pytest.mark.slow
def test_an_inpainted_hole_has_no_jump_at_its_edges(memorised):
    assert memorised["seam"] < 1.5


@pytest.mark.slow
def test_a_piece_of_any_length_begins_as_well_as_a_whole_window(memorised):
    assert all(abs(decibels) < 1 for decibels in memorised["lengths_db"].values())


@pytest.mark.slow
def test_generated_music_follows_unseen_captions_and_without_text_it_does_not(tmp_path):
    rows = figures("follow", tmp_path)
    assert rows["right captions"]["p"] < SIGNIFICANT and rows["no text"]["p"] > 0.01
