"""Short versions of the benchmarks that read for long, kill and damage."""

import random

import pytest

from benchmarks.data_sets import write_waveforms
from benchmarks.soak_data import flips, fuzz, kills, prepare, write_music
from benchmarks.soak_stream import soak
from data_pipeline import stream
from data_pipeline.reading import OPEN_FILES


def test_memory_and_open_files_stay_flat(tmp_path):
    write_waveforms(tmp_path / "data", 2 * OPEN_FILES, 0.1, shard_clips=1)
    batches = stream.batches(str(tmp_path / "data"), "train", 4, crop=2000)
    soak(batches, 100)  # until all files are open that may be
    found = soak(batches, 400, points=20)
    assert found["growth_mib"] < 10 and found["open_files"] < OPEN_FILES + 50


def test_flipped_bytes_are_named_and_the_rest_is_right(tmp_path):
    write_waveforms(tmp_path / "data", 40, 0.25, shard_clips=10)
    found = flips(tmp_path / "data", 8, random.Random(0))
    assert 0 < found["damaged_clips"] <= 40


@pytest.mark.slow
def test_a_killed_preparation_ends_like_an_undisturbed_one(tmp_path):
    source = write_music(tmp_path / "music", 40)
    command = lambda out: prepare(source, out)
    assert kills(command, tmp_path / "killed", 2, random.Random(0))["kills"] == 2


@pytest.mark.slow
def test_broken_files_are_counted(tmp_path):
    found = fuzz(tmp_path / "fuzz", 40, random.Random(0))
    assert found["accepted"] < found["files"]
