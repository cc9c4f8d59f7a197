"""A preparation that is interrupted, or whose processes die, gives what another one gives."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline import commit, layout, local, units, writing
from data_pipeline import prepare as module
from jen1_numpy.errors import Refusal
from tests.data_pipeline.recordings import Recordings, prepared

ROOT = Path(__file__).parents[2]


def content(folder):
    """All files, without those of which TFDS writes other bytes each time."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in found.items()
        if name.name not in ("dataset_info.json", "features.json", "report.json", "report.html")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The data set of an undisturbed preparation in this process."""
    folder = tmp_path_factory.mktemp("whole")
    source = Recordings(folder / "log")
    report = prepared(source, folder / "out", jobs=1)
    assert report.files == 81 == report.accepted + sum(report.rejected.values())
    assert report.rejected == {"missing": 1, "cannot be rendered": 16}
    assert sorted(map(int, source.rendered())) == list(range(80))
    return folder / "out", report


def test_processes_give_the_same_as_one(whole, tmp_path):
    source = Recordings(tmp_path / "log")
    report = prepared(source, tmp_path / "out", jobs=3)
    assert replace(report, out=whole[1].out) == whole[1]
    assert content(tmp_path / "out") == content(whole[0])
    assert sorted(map(int, source.rendered())) == list(range(80))


def finished_ids(folder):
    """The ids of the recordings in units that are finished."""
    files = folder.glob(".out.*/work/0*.json")
    read = [json.loads(file.read_text())["outcomes"] for file in files]
    return {outcome["id"] for unit in read for outcome in unit} - {"x"}


@pytest.mark.slow
def test_a_killed_preparation_goes_on_and_does_no_finished_unit_again(whole, tmp_path):
    source, draw = Recordings(tmp_path / "log", seconds=0.02), random.Random(0)
    out, finished, before = tmp_path / "out", set(), 0
    script = "from tests.data_pipeline.recordings import main; main()"
    command = [sys.executable, "-c", script, source.log, out]
    for sent in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            enough = before + draw.randrange(20, 40)
            while process.poll() is None and len(source.rendered()) < enough:
                time.sleep(0.005)
            process.send_signal(sent)
        time.sleep(0.1)
        rendered = source.rendered()
        assert not finished & {*rendered[before:]}
        before, finished = len(rendered), finished_ids(tmp_path)
        time.sleep(0.3)
        assert len(source.rendered()) == before  # its processes have ended too
    assert 16 <= len(finished) < 80
    report = prepared(source, out, jobs=2)
    assert not finished & {*source.rendered()[before:]}
    assert replace(report, out=whole[1].out) == whole[1] and content(out) == content(whole[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out"]


def test_a_finished_unit_is_not_done_again(whole, tmp_path, monkeypatch):
    source = Recordings(tmp_path / "log")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(units, "cut", fails(units.cut, 36, KeyboardInterrupt))
        prepared(source, tmp_path / "out", jobs=1)
    finished, heard = finished_ids(tmp_path), []
    assert len(finished) == 32
    report = prepared(source, tmp_path / "out", jobs=1, progress=heard.append)
    assert "continues after 2 of 6 units" in heard[0]
    assert replace(report, out=whole[1].out) == whole[1]
    times = Counter(source.rendered())
    assert all(times[id] == 1 for id in finished) and len(times) == 80
    assert content(tmp_path / "out") == content(whole[0])


def test_what_crashes_hangs_or_grows_is_rejected_and_the_rest_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "MAX_SECONDS", 1)
    harm = (("1", "kill"), ("2", "hang"), ("3", "grow"))
    report = prepared(Recordings(tmp_path / "log", harm=harm), tmp_path / "out", jobs=2)
    expected = {"crashed the decoder": 1, "too slow": 1, "too large": 1}
    assert report.rejected == expected | {"missing": 1, "cannot be rendered": 16}
    assert report.files == 81 == report.accepted + sum(report.rejected.values())


def test_another_command_or_a_changed_source_starts_anew_and_a_refusal_leaves_nothing(
    tmp_path, monkeypatch
):
    source, out = Recordings(tmp_path / "log"), tmp_path / "out"
    interrupt = lambda: monkeypatch.setattr(units, "cut", fails(cut, 20, KeyboardInterrupt))
    cut = units.cut
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        prepared(source, out, jobs=1)
    heard = []
    prepared(source, tmp_path / "other", jobs=1, seed=1, progress=heard.append)
    assert not heard
    changed = replace(source, count=81)
    prepared(changed, out, jobs=1, progress=heard.append)
    assert "has changed" in heard[0] and not any("continues" in text for text in heard)
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        prepared(source, tmp_path / "third", jobs=1)
    monkeypatch.setattr(module, "choose", fails(module.choose, 1, Refusal("no")))
    with pytest.raises(Refusal):
        prepared(source, tmp_path / "third", jobs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "other", "out"]


class Full(OSError):
    """The disk is full."""

    def __init__(self):
        super().__init__(errno.ENOSPC, "No space left on device")


def fails(original, at, error):
    """`original`, but call number `at` raises `error`."""
    calls = iter(range(1, 1_000_000))

    def call(*arguments, **options):
        if next(calls) == at:
            raise error
        return original(*arguments, **options)

    return call


@pytest.mark.parametrize(
    "full",
    ["a shard", "a unit", "a copy", "the metadata", "licences", "rejected", "report", "the name"],
)
def test_a_full_disk_costs_no_finished_work(whole, tmp_path, monkeypatch, full):
    source, out = Recordings(tmp_path / "log"), tmp_path / "out"
    with monkeypatch.context() as patch:
        if full == "a shard":

            class Writer(writing.ArrayRecordWriter):
                # This is what a full disk makes it raise.
                close = fails(writing.ArrayRecordWriter.close, 4, RuntimeError("write() failed"))

            patch.setattr(writing, "ArrayRecordWriter", Writer)
        elif full == "a unit":
            patch.setattr(units, "write_text", fails(units.write_text, 3, Full()))
        elif full == "a copy":
            patch.setattr(commit, "name_shards", fails(commit.name_shards, 1, Full()))
        elif full == "the metadata":
            from data_pipeline._tf import tfds

            place = tfds.folder_dataset
            patch.setattr(place, "write_metadata", fails(place.write_metadata, 1, Full()))
        elif full == "the name":
            rename = os.replace

            def renamed(old, new):
                if Path(new) == out:
                    raise Full
                rename(old, new)

            patch.setattr(os, "replace", renamed)
        else:
            name = {"licences": layout.LICENCES, "rejected": commit.REJECTED}.get(full, "report")
            write = Path.open

            def opened(path, mode="r", *more, **options):
                if path.name.startswith(name) and "w" in mode:
                    raise Full
                return write(path, mode, *more, **options)

            patch.setattr(Path, "open", opened)
        with pytest.raises(Refusal, match=r"Writing .* failed"):
            prepared(source, out, jobs=1)
    assert not out.exists()
    done = len(source.rendered())
    report = prepared(source, out, jobs=1)
    assert replace(report, out=whole[1].out) == whole[1] and content(out) == content(whole[0])
    again = len(source.rendered()) - done
    assert again < 80 if full in ("a shard", "a unit") else again == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out"]
