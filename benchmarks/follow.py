"""Tests on a very small model that it follows captions that were not in its training data.

    python -m benchmarks.follow [--folder DIR] [--controls]

A tiny autoencoder and a tiny U-Net learn 240 clips of 1.28 s. Then the model generates from the
captions of 48 held-out clips. Each result is compared with all held-out clips by its mean mel
spectrum, and the rank of the right clip counts. Without text, the ranks must be those of chance.
With --controls it also trains two models that must not follow captions: one with shuffled captions,
and one on the latents of a waveform autoencoder. It needs nothing else. It takes a few minutes on
two CPU cores, and about three times as long with --controls. `tests/test_learning.py` runs it.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from benchmarks.features import RATE
from benchmarks.learnability import Generator, generator_config, train
from configs.quickstart import get_config as quickstart
from data_pipeline import synthesis
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.evaluation import adherence
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.npz import NpzData

SECONDS = 1.28  # 24 frames of latents
SEED, CLIPS, HELD_OUT = 23, 240, 48
SIGNIFICANT = 0.001  # with a p below this, captions are followed


def autoencoder_config() -> ConfigDict:
    config = quickstart()
    with config.unlocked():
        config.autoencoder.update(channels=(96, 192), latent_channels=24, phase_iterations=4)
        config.train_autoencoder.update(
            steps=40, learning_rate=5e-4, seconds=0.64, log_every=30, checkpoint_every=10_000
        )
    return config


def unet_config(frame_rate: float) -> ConfigDict:
    config = generator_config(frame_rate, 300, {})
    with config.unlocked():
        config.text.update(d_model=48, d_kv=12, d_ff=96)
        config.unet.update(
            channels=32,
            multipliers=(3, 4, 6),
            factors=(2, 2),
            attentions=(0, 1, 1),
            head_dim=32,
            text_features=48,
        )
        config.data.seconds = SECONDS
        config.train_diffusion.update(learning_rate=3e-3, ema_decay=0.98, log_every=150)
    return config


def music() -> tuple[np.ndarray, list[str]]:
    """Audio [n, samples, 2] and captions; the last `HELD_OUT` are not trained on."""
    clips = [synthesis.clip(SEED, index, SECONDS) for index in range(CLIPS + HELD_OUT)]
    return np.stack([clip.audio for clip in clips]), [clip.caption for clip in clips]


def train_codec(audio: np.ndarray, folder: Path, config: ConfigDict) -> Codec:
    folder.mkdir(parents=True, exist_ok=True)
    count, file = len(audio), folder / "audio.npz"
    np.savez(
        file,
        audio=audio,
        valid_samples=np.full(count, audio.shape[1], np.int32),
        caption=np.full(count, ""),
        test=np.zeros(count, bool),
    )
    crop = round(config.train_autoencoder.seconds * RATE)
    data = NpzData(str(file), config.train_autoencoder.batch_size, config.seed, crop)
    train_autoencoder(config, Run(folder / "run"), data)
    return load_codec(Run.open(folder / "run"))


def train_unet(codec: Codec, audio: np.ndarray, captions: list[str], folder: Path) -> Generator:
    config, described = unet_config(codec.frame_rate), [[caption] for caption in captions]
    return train(codec, codec.encode(audio), described, config, folder, SEED)


def compare(
    generator: Generator, codec: Codec, real: np.ndarray, captions: list[str]
) -> list[dict]:
    """How near the results of captions are to the `real` clips by timbre (`adherence.retrieval`).

    `captions` is one list for all real clips, or several such lists in a row. Each gives an entry.
    """
    timbre = lambda clips: np.stack([adherence.describe(clip, RATE)["timbre"] for clip in clips])
    groups = np.split(generator.generate(captions), len(captions) // len(real))
    return [
        adherence.retrieval(timbre(codec.decode(latents, real.shape[1])), timbre(real))
        for latents in groups
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="an empty folder for the models; default: a temporary one"
    )
    parser.add_argument(
        "--controls",
        action="store_true",
        help="also train on shuffled captions and on waveform latents",
    )
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty; give another --folder.")
    audio, captions = music()
    known, known_captions = audio[:CLIPS], captions[:CLIPS]
    real, new_captions = audio[CLIPS:], captions[CLIPS:]
    rows = {}

    def show(names: list[str], generator: Generator, codec: Codec, captions: list[str]) -> None:
        for name, row in zip(names, compare(generator, codec, real, captions), strict=True):
            rows[name] = row
            followed = "  followed" if row["p"] < SIGNIFICANT else ""
            median = f"median rank {row['rank']:4.1f} of {HELD_OUT}"
            print(f"{name:18} {median}, p {row['p']:.4f}{followed}", flush=True)

    codec = train_codec(known, folder, autoencoder_config())
    generator = train_unet(codec, known, known_captions, folder / "right")
    show(["right captions", "no text"], generator, codec, new_captions + [""] * HELD_OUT)
    if options.controls:
        order = np.random.default_rng(0).permutation(CLIPS)
        shuffled = [known_captions[row] for row in order]
        generator = train_unet(codec, known, shuffled, folder / "shuffled")
        show(["shuffled captions"], generator, codec, new_captions)
        waveform = autoencoder_config()
        with waveform.unlocked():
            waveform.autoencoder.update(window=0, strides=(64, 40), latent_channels=48)
            waveform.train_autoencoder.update(steps=300, learning_rate=2e-3)
            waveform.train_autoencoder.losses.update(waveform=1.0, stft=0.2, levels=0.0)
        phases = train_codec(known, folder / "phases", waveform)
        generator = train_unet(phases, known, known_captions, folder / "phases" / "right")
        show(["waveform latents"], generator, phases, new_captions)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
