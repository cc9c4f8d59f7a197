"""Does masking 5 % of the latents in training make the decoder tolerate noisy latents, as the paper says (JEN-1, section 3.1)?

Two autoencoders with the same seeds, data and budget, one masked and one not. Held-out clips are encoded, Gaussian noise
of growing strength (relative to the latents' own standard deviation) is added to the whitened latents, and what is decoded is
compared with the original. Prints both curves and draws them.

    jen1 data prepare --source synthetic --out DATA --seconds 5.12 --clips 300
    python -m benchmarks.masking DATA [--steps 550] [--seeds 1] [--picture docs/images/masking.png]
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from configs.waveform import get_config as waveform
from data_pipeline.shard_data import ShardData
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.evaluation.reconstruction import mel_distance, si_sdr
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder

STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
RATES = (0.0, 0.05)
HOP = 2560


def train(data: str, rate: float, seed: int, steps: int, folder: Path) -> Codec:
    config = waveform()
    config.seed = seed
    config.autoencoder.mask_rate = rate
    config.train_autoencoder.update(steps=steps, checkpoint_every=10_000)
    crop = round(config.train_autoencoder.seconds * config.audio.sample_rate) // HOP * HOP
    shards = ShardData(data, config.train_autoencoder.batch_size, seed, crop=crop)
    train_autoencoder(config, Run(folder), shards)
    return load_codec(Run.open(folder))


def curve(codec: Codec, data: str) -> dict[str, list[float]]:
    """Medians over the held-out clips at each strength of noise."""
    found = {"si_sdr": [[] for _ in STRENGTHS], "mel_distance": [[] for _ in STRENGTHS]}
    for number, batch in enumerate(ShardData(data, 8, seed=0).sweep("test")):
        latents = codec.encode(batch["audio"])
        noise = np.random.default_rng(number).standard_normal(latents.shape).astype(np.float32)
        for place, strength in enumerate(STRENGTHS):
            made = codec.decode(
                latents + strength * noise
            )  # whitened: the latents' standard deviation is 1
            for row, (audio, valid) in enumerate(
                zip(batch["audio"], batch["valid_samples"], strict=True)
            ):
                found["si_sdr"][place].append(si_sdr(made[row, :valid], audio[:valid]))
                found["mel_distance"][place].append(
                    mel_distance(made[row, :valid], audio[:valid], codec.sample_rate)
                )
    return {
        name: [float(np.nanmedian(values)) for values in series] for name, series in found.items()
    }


def draw(curves: dict[float, list[dict]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for axis, (name, label) in zip(
        axes, (("si_sdr", "SI-SDR, dB"), ("mel_distance", "mel distance")), strict=True
    ):
        for rate, runs in curves.items():
            for number, run in enumerate(runs):
                colour = "#b5573a" if rate else "#2f5d8a"
                axis.plot(
                    STRENGTHS,
                    run[name],
                    marker="o",
                    color=colour,
                    label=f"{rate:.0%} masked" if number == 0 else None,
                )
        axis.set(xlabel="noise added to the latents, in their standard deviations", ylabel=label)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=550)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    curves = {rate: [] for rate in RATES}
    for seed in range(options.seeds):
        for rate in RATES:
            with tempfile.TemporaryDirectory() as folder:
                curves[rate].append(
                    curve(
                        train(options.data, rate, seed, options.steps, Path(folder) / "run"),
                        options.data,
                    )
                )
            print(
                json.dumps(
                    {"mask_rate": rate, "seed": seed, "steps": options.steps, "noise": STRENGTHS}
                    | curves[rate][-1]
                ),
                flush=True,
            )
    for name in ("si_sdr", "mel_distance"):
        print(f"{name:14}" + "".join(f"{strength:>8}" for strength in STRENGTHS))
        for rate, runs in curves.items():
            print(
                f"{rate:13.0%} "
                + "".join(f"{value:8.2f}" for value in np.mean([run[name] for run in runs], axis=0))
            )
    if options.picture:
        draw(curves, options.picture)
