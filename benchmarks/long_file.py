"""Encodes and decodes an hour of stereo audio and measures speed and memory.

    python -m benchmarks.long_file [--minutes 60]

The autoencoder has the layout of the preset `waveform` and random weights. It needs 1.4 GB on the
disk for the audio, and takes about a minute on two CPU cores.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from configs.waveform import get_config
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.whitening import Moments, fit_whitening

RATE = 48_000


def peak() -> float:
    """The largest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(name: str, minutes: float, seconds: float) -> None:
    speed = minutes * 60 / seconds
    print(f"{name}: {minutes:g} min in {seconds:.0f} s, {speed:.0f}x real time")
    print(f"largest memory so far: {peak():.2f} GB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=60, help="length of the audio; default: %(default)s"
    )
    options = parser.parse_args()
    model = Autoencoder(**get_config().autoencoder)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, model.hop, 2)))["params"]
    moments = Moments.of(np.random.default_rng(0).normal(size=(1000, model.latent_channels)))
    codec = Codec(model, params, fit_whitening(moments, 1.0, 1e-5), RATE)
    samples = round(options.minutes * 60 * RATE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audio.f32"
        with path.open("wb") as file:
            for start in range(0, samples, 10 * RATE):
                length = min(10 * RATE, samples - start)
                part = np.random.default_rng(start).uniform(-0.5, 0.5, (length, 2))
                file.write(part.astype(np.float32).tobytes())
        audio = np.memmap(path, np.float32, "r", shape=(samples, 2))
        codec.decode(codec.encode(np.zeros((30 * RATE, 2), np.float32)))  # compiles
        print(f"largest memory so far: {peak():.2f} GB")
        start = time.perf_counter()
        latents = codec.encode(audio)
        report("encode", options.minutes, time.perf_counter() - start)
        del audio  # a mapped file counts as memory of the process
        start = time.perf_counter()
        codec.decode(latents)
        report("decode", options.minutes, time.perf_counter() - start)
        print(json.dumps({"minutes": options.minutes, "peak_gb": peak()}))
