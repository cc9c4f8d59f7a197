"""Start-up, first batch and restart with as many shards and clips as 100,000 hours have.

    python -m benchmarks.scale [--shards 257000] [--clips 35000000]

The data set's metadata is that of so many shards, and each shard is a link to the same file; clips
have 0.1 s, so that the file is small and reading it takes little beside the rest. It runs itself
again with at most 1,024 open files. `pieces/`, which training does not read, is left out.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks.data_sets import machine, write_waveforms
from data_pipeline.layout import NAME, info

OPEN_FILES, ROWS, RESTART = 1024, 64, 10**6


def write(folder: Path, shards: int, clips: int) -> None:
    """A data set of which all shards are one file."""
    each = -(-clips // shards)
    write_waveforms(folder, each, 0.1)
    (only,) = folder.glob(f"{NAME}-train*")
    target = only.rename(folder / "shard")
    for number in range(shards):
        os.symlink(target.name, folder / f"{NAME}-train.array_record-{number:05d}-of-{shards:05d}")
    path = folder / "dataset_info.json"
    about = json.loads(path.read_text())
    about["splits"][0]["shardLengths"] = [str(each)] * shards
    about["splits"][0]["numBytes"] = str(shards * target.stat().st_size)
    path.write_text(json.dumps(about))


def measure(folder: str) -> None:
    """Prints what one process needs."""
    from data_pipeline import stream

    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    figures, before = {}, time.monotonic()

    def note(name: str) -> None:
        nonlocal before
        figures[f"{name}_seconds"] = round(time.monotonic() - before, 2)
        before = time.monotonic()

    note("nothing")
    baseline = _resident()
    about = info(folder)
    note("info")
    batches = stream.batches(folder, "train", ROWS)
    note("open")
    next(batches)
    note("first_batch")
    for _ in islice(batches, 200):
        pass
    note("200_batches")
    figures["open_files"] = len(os.listdir("/proc/self/fd"))
    batches.close()
    before = time.monotonic()
    next(stream.batches(folder, "train", ROWS, start_step=RESTART))
    note("restart")
    del figures["nothing_seconds"]
    figures |= {"shards": len(about.shards["train"]), "clips": about.examples["train"]}
    figures |= {"more_mib": round(_resident() - baseline), "most_mib": round(_resident())}
    print(json.dumps(figures))


def _resident() -> float:
    """The most so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=257_000)
    parser.add_argument("--clips", type=int, default=35_000_000)
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        write(folder, options.shards, options.clips)
        command = [sys.executable, "-m", "benchmarks.scale", "--measure", str(folder)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    print(machine())
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
