"""Reads many batches and watches the memory and the open files of the process.

    python -m benchmarks.soak_stream [--batches 10000]

It makes its own files: a data set of many small shards, more than are open at a time, and one of
latents with embeddings. Crops, and latents, are read for so many batches each. A line fitted to the
resident memory of the last half gives its growth.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.data_sets import machine, write_latents, write_waveforms
from data_pipeline import stream


def resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(batches: Iterator, count: int, points: int = 100) -> dict[str, float]:
    """Reads so many batches and looks at the process at so many points.

    Returns:
        resident_mib: at the end.
        growth_mib: by the line, over as many batches as were read.
        open_files: the most.
        batches_per_second.
    """
    every, memory, files, began = max(count // points, 1), [], 0, time.monotonic()
    for _ in range(count // every):
        for _ in islice(batches, every):
            pass
        memory.append(resident())
        files = max(files, len(os.listdir("/proc/self/fd")))
    half = memory[len(memory) // 2 :]
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    return {
        "resident_mib": round(memory[-1]),
        "growth_mib": round(float(slope) * len(memory), 1),
        "open_files": files,
        "batches_per_second": round(count / (time.monotonic() - began)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=10_000)
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_waveforms(folder / "waveforms", 400, 1.0, shard_clips=2)
        write_latents(folder / "latents", 5000, 10.24, 16, 8)
        for name, rows, crop in (("waveforms", 16, 12_000), ("latents", 16, None)):
            batches = stream.batches(str(folder / name), "train", rows, crop=crop)
            figures[name] = soak(batches, options.batches)
            print(f"{options.batches} batches of {rows} {name}: {figures[name]}")
    print(machine())
    print(json.dumps(figures | {"batches": options.batches}))


if __name__ == "__main__":
    main()
