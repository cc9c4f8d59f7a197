"""Kills preparation and encoding, damages shards, fills a disk, and reads a thousand broken files.

    python -m benchmarks.soak_data [PART ...] [--kills 20] [--files 1000] [--seed 0]

It makes its own files. `jen1 data prepare` and `jen1 data encode` are killed (SIGKILL, all their
processes) at random moments and started again by the same command; the data set must be that of an
undisturbed command, and no unit that was finished may be made again. The full disk needs the right
to mount a tmpfs. It takes a quarter of an hour on two CPU cores.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pretty_midi
import soundfile

from benchmarks import soak_training
from benchmarks.data_sets import machine, music
from data_pipeline import stream
from data_pipeline.damage import Damages
from data_pipeline.layout import SAMPLE_RATE, info
from data_pipeline.reading import examples

SECONDS = 0.25
# Files that TFDS writes otherwise each time, or that name the data set's folder.
APART = ("dataset_info.json", "features.json", "report.json", "report.html", "report.png")
PARTS = ("prepare", "full_disk", "fuzz", "encode", "flips")
KINDS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}
HEADER = 96  # bytes at the beginning of a file that are changed


def jen1(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "jen1_jax.cli", *map(str, arguments)]


def prepare(source: Path, out: Path) -> list[str]:
    return jen1("data", "prepare", "--source", source, "--out", out, "--seconds", str(SECONDS))


def encoding(data: Path, run: Path) -> Callable[[Path], list[str]]:
    """The command that encodes `data` with an autoencoder that is trained for a moment."""
    soak_training.write_data(audio := run.with_suffix(".npz"))
    train = ("train", "autoencoder", "--config", soak_training.__file__, "--workdir", run)
    finish(jen1(*train, f"--config.data.dir={audio}"))
    encode = ("data", "encode", "--data", data, "--autoencoder", run, "--text", "none")
    return lambda out: jen1(*encode, "--out", out)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a data set that are always the same."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if name.name not in APART}


def same(folder: Path, expected: dict[str, bytes]) -> None:
    found = content(folder)
    other = [
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    ]
    assert not other, f"{sorted(other)} differ from those of an undisturbed command"


def finish(command: Sequence[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def kills(command, folder: Path, count: int, draw: random.Random) -> dict[str, int]:
    """Kills what `command(out)` starts, and starts it again, until it was killed so many times.

    Raises AssertionError where a finished unit is made again, or the data sets differ.
    """
    folder.mkdir()
    whole, out, began = folder / "whole", folder / "out", time.monotonic()
    finish(command(whole))
    took, expected, done = time.monotonic() - began, content(whole), {}
    others = {path.name for path in folder.iterdir()}
    figures = {"kills": 0, "complete": 0, "units_kept": 0}
    while figures["kills"] < count:
        process = subprocess.Popen(
            command(out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if figures["kills"] % 2:  # at any time, or soon after a unit was finished
            _wait(process, folder, set(done))
            time.sleep(draw.uniform(0, 0.2))
        else:
            time.sleep(draw.uniform(0.1, took))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            figures["kills"] += 1
        else:
            assert process.returncode == 0, process.communicate()[1]
        if out.exists():  # it had made the data set
            same(out, expected)
            figures["complete"] += 1
            shutil.rmtree(out)
            done = {}
            continue
        found = _units(folder)
        again = [name for name in done.keys() & found.keys() if done[name] != found[name]]
        assert not again, f"units {again} were made again"
        figures["units_kept"] += len(done.keys() & found.keys())
        done = found
    finish(command(out))
    same(out, expected)
    left = {path.name for path in folder.iterdir()} - others - {"out"}
    assert not left, f"{left} is left behind"
    return figures


def _wait(process: subprocess.Popen, folder: Path, done: set[str]) -> None:
    """Returns when another unit is finished, or the command has ended."""
    deadline = time.monotonic() + 600
    while process.poll() is None and not _units(folder).keys() - done:
        assert time.monotonic() < deadline, "no unit was finished"
        time.sleep(0.005)


def _units(folder: Path) -> dict[str, tuple[int, int]]:
    """The finished units: which file holds each, and of when."""
    files = (path for work in folder.glob(".out*") for path in work.rglob("0*.json"))
    found = {}
    for path in files:
        with suppress(FileNotFoundError):  # the data set is made just now
            found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def flips(data: Path, count: int, draw: random.Random) -> dict[str, int]:
    """Flips bytes anywhere in the shards of `data` and reads it as training does.

    Raises AssertionError where a clip is wrong and not named.
    """
    expected = [clip["audio"] for clip in examples(str(data), "train")]
    shards = sorted(data.glob("*-train.array_record*"))
    for _ in range(count):
        with open(draw.choice(shards), "r+b") as file:
            file.seek(draw.randrange(os.path.getsize(file.name)))
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1 << draw.randrange(8)]))
    damages, right, damaged = Damages(data / "run", most=len(expected)), 0, 0
    for batch in stream.batches(str(data), "train", 8, epochs=1, damages=damages):
        for place, audio, valid in zip(
            batch["index"], batch["audio"], batch["valid_samples"], strict=True
        ):
            if (0, place) in damages:
                damaged += 1
                assert not audio.any() and not valid
            else:
                right += 1
                assert np.array_equal(audio, expected[place]), f"clip {place} is wrong"
    named = (data / "run" / "damaged-0.jsonl").read_text().splitlines()
    assert right + damaged == len(expected) and len(named) == damaged
    return {"flips": count, "clips": len(expected), "damaged_clips": damaged}


def full_disk(source: Path, folder: Path, expected: dict[str, bytes]) -> str:
    """Prepares on a disk that is too small, and on one that has become larger."""
    disk = folder / "disk"
    disk.mkdir()
    mount = lambda *options: subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)], capture_output=True
    )
    if mount("size=8m").returncode:
        return "not tried: a tmpfs cannot be mounted"
    try:
        ended = subprocess.run(prepare(source, disk / "out"), capture_output=True, text=True)
        said = ended.stderr.strip().splitlines()[-1]
        assert ended.returncode and "Traceback" not in ended.stderr, ended.stderr
        assert not (disk / "out").exists()
        assert mount("remount", "size=500m").returncode == 0
        finish(prepare(source, disk / "out"))
        same(disk / "out", expected)
        assert [path.name for path in disk.iterdir()] == ["out"]
        return said
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def write_music(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        audio = music(round((0.3 + number % 7 / 4) * SAMPLE_RATE), number)
        soundfile.write(folder / f"{number}.flac", audio, SAMPLE_RATE)
        (folder / f"{number}.txt").write_text(f"noise number {number}")
    return folder


def write_broken(folder: Path, count: int, draw: random.Random) -> Path:
    """Files of all kinds whose headers, names and sidecars are damaged, beside some good ones."""
    from tests.data_pipeline.test_fuzz import damaged, fields

    good = write_music(folder, 20)
    wholes = {}
    for suffix, kind in KINDS.items():
        soundfile.write(good / f"good.{suffix}", music(SAMPLE_RATE, 99), SAMPLE_RATE, format=kind)
        wholes[suffix] = (good / f"good.{suffix}").read_bytes()
    score = pretty_midi.PrettyMIDI()
    score.instruments.append(pretty_midi.Instrument(0))
    score.instruments[0].notes += [
        pretty_midi.Note(90, 60 + n, n / 4, n / 4 + 0.2) for n in range(8)
    ]
    score.write(str(good / "good.mid"))
    wholes["mid"] = (good / "good.mid").read_bytes()
    for number in range(count):
        suffix = draw.choice(sorted(wholes))
        broken = bytearray(wholes[suffix])
        for _ in range(draw.randint(1, 6)):
            broken[draw.randrange(min(HEADER, len(broken)))] = draw.randrange(256)
        del broken[draw.choice([len(broken)] * 3 + [draw.randrange(len(broken))]) :]
        name = "".join(draw.choice([*"é夜 \u202e'%a" * 4, "\n"]) for _ in range(4))
        path = folder / f"{name}{number}.{suffix}"
        path.write_bytes(broken)
        for sidecar in (".json", ".txt"):
            if draw.random() < 0.2:
                path.with_suffix(sidecar).write_bytes(damaged(draw, json.dumps(fields(draw))))
    return folder


def fuzz(folder: Path, count: int, draw: random.Random) -> dict[str, int]:
    """Prepares broken files; raises AssertionError where totals do not agree."""
    source, out = write_broken(folder / "broken", count, draw), folder / "out"
    finish(prepare(source, out))
    report = json.loads((out / "report.json").read_text())
    rejected = sum(report["rejected"].values())
    assert report["files"] == report["accepted"] + rejected + report["not_needed"]
    assert report["files"] == count + 20 + len(KINDS) + 1
    assert len((out / "rejected.jsonl").read_text().split("\n")) - 1 == rejected
    info(str(out))
    return {"files": report["files"], "accepted": report["accepted"], **report["rejected"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--kills", type=int, default=20, help="of each of the two commands")
    parser.add_argument("--files", type=int, default=1000, help="that are broken")
    parser.add_argument("--flips", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, figures = random.Random(options.seed), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source, data = write_music(folder / "music", 96), folder / "data"
        finish(prepare(source, data))
        parts = {
            "prepare": lambda: kills(
                lambda out: prepare(source, out), folder / "prepare", options.kills, draw
            ),
            "full_disk": lambda: full_disk(source, folder, content(data)),
            "fuzz": lambda: fuzz(folder / "fuzz", options.files, draw),
            "encode": lambda: kills(
                encoding(data, folder / "run"), folder / "encode", options.kills, draw
            ),
            "flips": lambda: flips(data, options.flips, draw),  # the last one, as it damages `data`
        }
        for name in options.parts or parts:
            figures[name] = parts[name]()
            print(f"{name}: {figures[name]}", flush=True)
    print(machine())
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
