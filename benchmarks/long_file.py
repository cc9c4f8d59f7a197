"""An hour of stereo through the codec and back: memory and speed, with the layout of the preset `waveform` and random weights.

python -m benchmarks.long_file [--minutes 60]
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
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report(name: str, minutes: float, seconds: float) -> None:
    print(
        f"{name}: {minutes:g} min in {seconds:.0f} s, {minutes * 60 / seconds:.0f}x real time; {peak():.2f} GB held at most"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
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
                part = np.random.default_rng(start).uniform(
                    -0.5, 0.5, (min(10 * RATE, samples - start), 2)
                )
                file.write(part.astype(np.float32).tobytes())
        audio = np.memmap(path, np.float32, "r", shape=(samples, 2))
        codec.decode(codec.encode(np.zeros((30 * RATE, 2), np.float32)))  # compiles
        print(f"before: {peak():.2f} GB held at most")
        start = time.perf_counter()
        latents = codec.encode(audio)
        report("encode", options.minutes, time.perf_counter() - start)
        del audio  # what is mapped counts as held
        start = time.perf_counter()
        codec.decode(latents)
        report("decode", options.minutes, time.perf_counter() - start)
        print(json.dumps({"minutes": options.minutes, "peak_gb": peak()}))
