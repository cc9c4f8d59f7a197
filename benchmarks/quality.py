"""Measures how an autoencoder's reconstruction of held-out music improves during its training.

    python -m benchmarks.quality RUN DATA [--clips 48] [--picture FILE.png]

It evaluates every checkpoint (EMA parameters) in RUN on held-out clips of DATA, by the figures that
are usual for codecs and by the stereo image, and prints a table of medians. It needs a run with
several checkpoints, such as that of `benchmarks/soak_autoencoder.py`, and takes minutes for each
checkpoint at most.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from data_pipeline.shard_data import ShardData
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.evaluation.reconstruction import FIGURES, figures, medians
from jen1_jax.models.autoencoder import init_autoencoder, load_codec
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run

LABELS = {
    "si_sdr": "SI-SDR, dB",
    "stft_distance": "STFT distance",
    "mel_distance": "mel distance",
    "side_error": "side, dB off",
}


def held_out(data: str, clips: int) -> list[np.ndarray]:
    """Clips at even distances in the held-out split."""
    found = [
        audio[:valid]
        for batch in ShardData(data, 8, seed=0).sweep("test")
        for audio, valid in zip(batch["audio"], batch["valid_samples"], strict=True)
    ]
    places = np.linspace(0, len(found) - 1, min(clips, len(found)))
    return [found[round(place)] for place in places]


def measure(codec: Codec, clips: list[np.ndarray]) -> dict[str, float]:
    """Medians over the clips."""
    records = [
        figures(codec.decode(codec.encode(audio), len(audio)), audio, codec.sample_rate)
        for audio in clips
    ]
    return medians(records)


def draw(records: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(LABELS), figsize=(12, 3))
    steps = [record["step"] for record in records]
    for axis, (name, label) in zip(axes, LABELS.items(), strict=True):
        axis.plot(steps, [record[name] for record in records], marker="o", color="#2f5d8a")
        axis.set(xlabel="step", title=label)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run with checkpoints of an autoencoder")
    parser.add_argument("data", help="a folder with prepared shards")
    parser.add_argument(
        "--clips", type=int, default=48, help="largest number of clips; default: %(default)s"
    )
    parser.add_argument("--picture", type=Path, help="a PNG file for the curves")
    options = parser.parse_args()
    run = Run.open(options.run)
    codec = load_codec(run)
    if codec.k < codec.model.latent_channels:
        raise SystemExit(
            f"{options.run} keeps {codec.k} of {codec.model.latent_channels} latent channels, but "
            "this comparison needs all: train with --config.whitening.keep=1.0."
        )
    clips = held_out(options.data, options.clips)
    checkpoints = Checkpoints(run.checkpoints("autoencoder"))
    shapes = jax.eval_shape(partial(init_autoencoder, model=codec.model), jax.random.key(0))
    records = []
    latents = f"{codec.frame_rate:g} Hz x {codec.model.latent_channels} channels"
    print(f"{len(clips)} held-out clips, {latents}")
    print(f"{'step':>8}" + "".join(f"{name:>19}" for name in FIGURES))
    for step in sorted(checkpoints.steps):
        params, _ = checkpoints.restore_ema("autoencoder", shapes, step)
        # The whitening is that of the last step. It keeps all channels, so it can be inverted, and
        # the decoder of an earlier step gets the latents of its own encoder.
        records.append({"step": step} | measure(replace(codec, params=params), clips))
        print(f"{step:8}" + "".join(f"{records[-1][name]:19.3f}" for name in FIGURES), flush=True)
    if options.picture:
        draw(records, options.picture)
    print(json.dumps({"clips": len(clips), "curve": records}))
