"""Measures how many evaluations of the network a sampler needs.

    python -m benchmarks.samplers [RUN] [--picture FILE.png]

First on a Gaussian mixture, whose exact denoiser is known: the distance of each sampler from the
exact probability flow (root mean square over the samples), with 4 to 256 evaluations. DDIM in
20,000 steps gives the exact flow. This needs nothing else and takes about a minute on a CPU.

Then, with a RUN, on its network: the distance from DDIM in 1,000 steps that starts from the same
noise, and the time of a whole sampling call that is already compiled. It needs a trained run with
clips and captions in RUN/learnt, and takes some minutes.
"""

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
from ml_collections import ConfigDict

from configs.jen1 import get_config
from jen1_jax.diffusion.objectives import scales
from jen1_jax.diffusion.samplers import SAMPLERS, sample
from jen1_jax.diffusion.schedules import make_schedule, sample_log_snrs

# Weight, mean and standard deviation of each part. Like latents, the values exceed [-1, 1].
MIXTURE = ((0.3, -4.0, 0.5), (0.7, 3.0, 1.0))
EVALUATIONS = (4, 8, 16, 32, 64, 128, 256)
STEPS = {"dpm_solver": (10, 25, 50), "heun": (25,), "ddim": (25, 50, 200)}
TRAINED = [(sampler, steps) for sampler, numbers in STEPS.items() for steps in numbers]
PROMPTS = 4
COLOURS = {"ddim": "#2f5d8a", "heun": "#b5573a", "dpm_solver": "#3f7d4e"}


def exact(data):
    """A `denoise` that returns the posterior mean of elements drawn from a Gaussian mixture.

    `data` has the weight, mean and standard deviation of each part.
    """
    weights, means, stds = jnp.array(data).T

    def denoise(noisy, log_snr):
        alpha, sigma = scales(log_snr[:, None, None, None])
        off, variance = noisy[..., None] - alpha * means, (alpha * stds) ** 2 + sigma**2
        posterior = jax.nn.softmax(jnp.log(weights) - off**2 / variance / 2 - jnp.log(variance) / 2)
        return jnp.sum(posterior * (means + alpha * stds**2 / variance * off), axis=-1)

    return denoise


def mixture() -> dict[str, list[float]]:
    """Each sampler's root mean square distance from the exact flow, for `EVALUATIONS`."""
    schedule = make_schedule(ConfigDict(get_config().diffusion.to_dict() | {"schedule": "cosine"}))
    noise = jax.random.normal(jax.random.key(0), (1, 2000, 1))
    keys = jax.random.split(jax.random.key(1), 1)
    run = lambda sampler, steps: jax.jit(sample, static_argnums=(0, 1))(
        SAMPLERS[sampler], exact(MIXTURE), noise, sample_log_snrs(schedule, steps), keys
    )
    reference = run("ddim", 20_000)

    def distance(sampler: str, evaluations: int) -> float:
        steps = evaluations // 2 if sampler == "heun" else evaluations
        return float(jnp.sqrt(jnp.mean((run(sampler, steps) - reference) ** 2)))

    return {sampler: [distance(sampler, count) for count in EVALUATIONS] for sampler in COLOURS}


def trained(path: str) -> list[dict]:
    """For each of `TRAINED`, the seconds of one call and the distance from DDIM in 1,000 steps.

    The distance is relative to the size of the latents.
    """
    from jen1_jax.generation.model import Model
    from jen1_numpy.prompts import embed_prompts
    from jen1_numpy.windows import Request

    model = Model.load(path)
    total = soundfile.info(Path(path, "learnt/1.wav")).duration  # of a whole piece
    files = sorted(Path(path, "learnt").glob("*.txt"))[:PROMPTS]
    captions = [file.read_text().strip() for file in files]

    def sampled(method: str, steps: int):
        settings = model.sampler.diffusion.copy_and_resolve_references()
        settings.sampler = method
        sampler, scale = replace(model.sampler, diffusion=settings), settings.guidance_scale
        empty = np.zeros((model.sampler.window, model.codec.k), np.float32)
        call = lambda: sampler.sample(
            [Request.without_given(empty, total)] * len(captions),
            embed_prompts(model.prompts, captions, "", guided=scale != 1),
            seeds=[0] * len(captions),
            steps=steps,
            guidance_scale=scale,
        )
        latents, times = np.stack(call()), []
        for _ in range(3):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return latents, statistics.median(times)

    reference, seconds = sampled("ddim", 1000)
    print(f"{len(captions)} captions at once; ddim, 1000 steps: {seconds:.2f} s")
    records = []
    for sampler, steps in TRAINED:
        latents, seconds = sampled(sampler, steps)
        distance = float(np.linalg.norm(latents - reference) / np.linalg.norm(reference))
        record = {"sampler": sampler, "steps": steps, "distance": distance, "seconds": seconds}
        records.append(record)
        text = f"distance {distance:.4f}, {seconds:6.2f} s"
        print(f"{sampler:>11} {steps:4} steps: {text}", flush=True)
    return records


def draw(curves: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5.5, 3.6))
    for sampler, values in curves.items():
        axis.loglog(EVALUATIONS, values, marker="o", color=COLOURS[sampler], label=sampler, base=2)
    axis.set(xlabel="network evaluations", ylabel="distance from the exact flow")
    axis.set_yscale("log", base=10)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="a trained run with clips in RUN/learnt")
    parser.add_argument("--picture", type=Path, help="a PNG file for the curves of the mixture")
    options = parser.parse_args()
    cpu = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    device = cpu if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    print(f"{device}; jax {jax.__version__}")
    curves = mixture()
    print(f"{'evaluations':>12}" + "".join(f"{count:>10}" for count in EVALUATIONS))
    for sampler, values in curves.items():
        print(f"{sampler:>12}" + "".join(f"{value:10.5f}" for value in values))
    record = {"device": device, "evaluations": EVALUATIONS, "mixture": curves}
    if options.picture:
        draw(curves, options.picture)
    if options.run:
        record["trained"] = trained(options.run)
    print(json.dumps(record))
