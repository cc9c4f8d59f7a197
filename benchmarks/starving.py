"""How long a step waits for its batch, where a step takes as long as planned on a pod.

    python -m benchmarks.starving [--steps 100]

It makes its own files. A consumer takes the rows of one host and sleeps for a step. The steps are
the shortest that `benchmarks/plan.jsonl` holds for the preset, slice and batch, as if arithmetic,
memory and network overlapped. The autoencoder's step is not planned there; 50 ms are assumed for
64 crops on one host. A v5e host has four chips.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data_sets import machine, write_latents, write_waveforms
from benchmarks.stream import CROP, SECONDS, latents_of
from configs import jen1, jen1_fast
from data_pipeline import stream
from data_pipeline.layout import SAMPLE_RATE

CHIPS = 4  # of a host
PLAN = Path(__file__).parent / "plan.jsonl"
PRESETS = {"jen1": jen1, "jen1_fast": jen1_fast}
AUTOENCODER, ASSUMED = "autoencoder of jen1", (0.05, 64)  # seconds and rows of a step
CASES = [(name, "v5e:16x16", batch) for name in PRESETS for batch in (512, 4096)]


def planned(preset: str, topology: str, batch: int) -> tuple[float, int]:
    """The shortest step in seconds, and how many rows a host has."""
    rows = [json.loads(line) for line in PLAN.read_text().splitlines()]
    key = ("diffusion", preset, topology, batch)
    names = ("part", "preset", "topology", "batch_size")
    found = [row for row in rows if tuple(row.get(name) for name in names) == key]
    step = min(row["step_seconds"]["overlapped"] for row in found)
    return step, batch * CHIPS // found[0]["chips"]


def waited(batches: Iterator, step: float, steps: int, warm: int = 5) -> tuple[float, float]:
    """Seconds of waiting for a batch: the mean, and the longest."""
    waits = []
    for _ in range(warm + steps):
        began = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - began)
        time.sleep(step)
        del batch  # its memory is given back here, not while the next one is awaited
    return sum(waits[warm:]) / steps, max(waits[warm:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--clips", type=int, default=512, help="of latents of each preset")
    options = parser.parse_args()
    crop, figures = round(CROP * SAMPLE_RATE), {}
    print(
        f"{'preset, slice, batch':36} {'rows':>5} {'step':>9} {'waiting':>9} {'longest':>9}  share"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, preset in PRESETS.items():
            seconds, frames, k = latents_of(preset)
            write_latents(folder / name, options.clips, seconds, frames, k)
        write_waveforms(folder / AUTOENCODER, 128, SECONDS)
        cases = [(", ".join(map(str, case)), case[0], None, *planned(*case)) for case in CASES]
        cases.append((f"{AUTOENCODER}, assumed", AUTOENCODER, crop, *ASSUMED))
        for title, name, crop, step, rows in cases:
            batches = stream.batches(str(folder / name), "train", rows, crop=crop)
            mean, longest = waited(batches, step, options.steps)
            batches.close()
            share = mean / (mean + step)
            times = "".join(f" {1e3 * time:6.2f} ms" for time in (step, mean, longest))
            print(f"{title:36} {rows:5d}{times} {share:6.2%}")
            figures[title] = round(share, 5)
    print(machine())
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
