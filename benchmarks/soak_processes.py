"""Compares the losses of both trainings over meshes and numbers of processes.

    python -m benchmarks.soak_processes [--steps 50]

A narrow autoencoder and diffusion model are trained by `jen1 train` on simulated CPU devices, in
one process and in several ones that exchange data by gloo. The diffusion model reads waveforms,
which the same frozen autoencoder encodes in the step, and accumulates two micro-batches. The table
has the largest relative difference of a step's loss from training on one device, over the first
ten steps and over all. Sums in another order differ by a rounding, and training amplifies it.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from tests import tiny
from tests.test_processes import losses, train

CASES = (  # processes, devices of each, axes of the mesh
    (2, 2, {"data": 1, "fsdp": 4, "tensor": 1}),
    (4, 2, {"data": 2, "fsdp": 2, "tensor": 2}),
    (2, 2, {"data": 1, "fsdp": 1, "tensor": 4}),
    (4, 2, {"data": 1, "fsdp": 8, "tensor": 1}),
    (1, 8, {"data": 8, "fsdp": 1, "tensor": 1}),
    (1, 8, {"data": 1, "fsdp": 8, "tensor": 1}),
    (1, 8, {"data": 1, "fsdp": 1, "tensor": 8}),
    (1, 8, {"data": 2, "fsdp": 2, "tensor": 2}),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", "")
    os.environ["JAX_PLATFORMS"] = "cpu"
    parts, figures = ("autoencoder", "diffusion"), {"steps": args.steps}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.write_audio_npz(folder / "audio.npz")

        def run(part, case, *arguments):
            sizes = {"steps": args.steps, "batch_size": 16}
            options = [f"--config.train_{part}.{key}={value}" for key, value in sizes.items()]
            source = ["--autoencoder", folder / "autoencoder"] if part == "diffusion" else []
            found, _ = train(part, folder, case, *arguments, *options, *source)
            return np.array(losses(found, part))

        one = {part: run(part, part, 1, 1, {}) for part in parts}
        columns = " | ".join(f"{part}, 10 steps | {part}, {args.steps}" for part in parts)
        print(
            f"| processes x devices | data, fsdp, tensor | {columns} |\n|---|---|---|---|---|---|"
        )
        for number, (processes, devices, axes) in enumerate(CASES):
            row = []
            for part in parts:
                theirs = run(part, f"{part}_{number}", processes, devices, axes)
                apart = np.abs(theirs / one[part] - 1)
                row += [apart[:10].max(), apart.max()]
            named = f"{processes} x {devices} | {', '.join(map(str, axes.values()))}"
            print(f"| {named} | {' | '.join(f'{each:.1e}' for each in row)} |", flush=True)
            figures[named] = row
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
