"""Measures whether masking in training makes the decoder tolerate noise (JEN-1, section 3.1).

    jen1 data prepare --source synthetic --out DATA --seconds 5.12 --clips 300
    python -m benchmarks.masking DATA [--steps 550] [--seeds 1] [--picture FILE.png]

It trains two autoencoders of the preset `waveform` with the same seed and data, one with 5 % of the
latents masked and one without. Then it encodes held-out clips, adds Gaussian noise of several
strengths (in standard deviations of the latents), decodes, and compares the result with the
original. It needs prepared DATA with held-out clips, and takes about 10 minutes a seed on two CPU
cores.
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
    si_sdrs, mel_distances = ([[] for _ in STRENGTHS] for _ in range(2))
    for number, batch in enumerate(ShardData(data, 8, seed=0).sweep("test")):
        latents = codec.encode(batch["audio"])
        noise = np.random.default_rng(number).standard_normal(latents.shape).astype(np.float32)
        for place, strength in enumerate(STRENGTHS):
            # The latents are whitened, so their standard deviation is 1.
            decoded = codec.decode(latents + strength * noise)
            rows = zip(decoded, batch["audio"], batch["valid_samples"], strict=True)
            for output, audio, valid in rows:
                output, audio = output[:valid], audio[:valid]
                si_sdrs[place].append(si_sdr(output, audio))
                mel_distances[place].append(mel_distance(output, audio, codec.sample_rate))
    median = lambda values: float(np.nanmedian(values))
    return {
        "si_sdr": [median(values) for values in si_sdrs],
        "mel_distance": [median(values) for values in mel_distances],
    }


def draw(curves: dict[float, list[dict]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    labels = {"si_sdr": "SI-SDR, dB", "mel_distance": "mel distance"}
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        for rate, runs in curves.items():
            colour = "#b5573a" if rate else "#2f5d8a"
            for number, run in enumerate(runs):
                legend = f"{rate:.0%} masked" if number == 0 else None
                axis.plot(STRENGTHS, run[name], marker="o", color=colour, label=legend)
        axis.set(xlabel="noise added to the latents, in their standard deviations", ylabel=label)
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with prepared shards")
    parser.add_argument(
        "--steps", type=int, default=550, help="of each training; default: %(default)s"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="number of seeds; default: %(default)s"
    )
    parser.add_argument("--picture", type=Path, help="a PNG file for the curves")
    options = parser.parse_args()
    curves, records = {rate: [] for rate in RATES}, []
    for seed in range(options.seeds):
        for rate in RATES:
            with tempfile.TemporaryDirectory() as folder:
                codec = train(options.data, rate, seed, options.steps, Path(folder) / "run")
                curves[rate].append(curve(codec, options.data))
            settings = dict(mask_rate=rate, seed=seed, steps=options.steps, noise=STRENGTHS)
            records.append(settings | curves[rate][-1])
            print(f"seed {seed}, {rate:.0%} masked: measured", flush=True)
    for name in ("si_sdr", "mel_distance"):
        print(f"{name:14}" + "".join(f"{strength:>8}" for strength in STRENGTHS))
        for rate, runs in curves.items():
            means = np.mean([run[name] for run in runs], axis=0)
            print(f"{rate:13.0%} " + "".join(f"{value:8.2f}" for value in means))
    if options.picture:
        draw(curves, options.picture)
    print(json.dumps(records))
