"""Captions never seen, followed: the smallest run in which what comes out is music that a new caption asks for.

A tiny autoencoder and a tiny U-Net learn some hundred clips of 1.28 s. Then captions of held-out clips are played, and each
result is compared with all held-out clips by its mean mel spectrum. Is the right clip among the nearest? Without text, no caption
may be followed. `tests/test_learning.py` runs it. With --controls it also trains what must not follow: shuffled captions, and a
waveform autoencoder's latents.

    python -m benchmarks.follow [--folder DIR] [--controls]
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from benchmarks.learnability import RATE, Generator, generator, train
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
LEAST = 0.001  # p below which captions are followed


def config() -> ConfigDict:
    config = quickstart()
    with config.unlocked():
        config.autoencoder.update(channels=(96, 192), latent_channels=24, phase_iterations=4)
        config.train_autoencoder.update(
            steps=40, learning_rate=5e-4, seconds=0.64, log_every=30, checkpoint_every=10_000
        )
    return config


def composer(frame_rate: float) -> ConfigDict:
    config = generator(frame_rate, 300, {})
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
    """Audio [n, samples, 2] and captions; the last `HELD_OUT` are for judging."""
    clips = [synthesis.clip(SEED, index, SECONDS) for index in range(CLIPS + HELD_OUT)]
    return np.stack([clip.audio for clip in clips]), [clip.caption for clip in clips]


def make_codec(audio: np.ndarray, folder: Path, config: ConfigDict) -> Codec:
    folder.mkdir(parents=True, exist_ok=True)
    count = len(audio)
    np.savez(
        folder / "audio.npz", audio=audio, valid_samples=np.full(count, audio.shape[1], np.int32),
        caption=np.full(count, ""), test=np.zeros(count, bool),
    )  # fmt: skip
    crop = round(config.train_autoencoder.seconds * RATE)
    data = NpzData(
        str(folder / "audio.npz"), config.train_autoencoder.batch_size, config.seed, crop
    )
    train_autoencoder(config, Run(folder / "run"), data)
    return load_codec(Run.open(folder / "run"))


def compose(codec: Codec, audio: np.ndarray, captions: list[str], folder: Path) -> Generator:
    return train(codec, codec.encode(audio), captions, composer(codec.frame_rate), folder, SEED)


def judge(made_by: Generator, codec: Codec, real: np.ndarray, captions: list[str]) -> list[dict]:
    """How near what the captions give is to the `real` clips (`adherence.follow`), by timbre, for each as many captions."""
    timbre = lambda clips: np.stack([adherence.describe(clip, RATE)["timbre"] for clip in clips])
    parts = np.split(made_by.make(captions), len(captions) // len(real))
    return [
        adherence.follow(timbre(codec.decode(latents, real.shape[1])), timbre(real))
        for latents in parts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument(
        "--controls", action="store_true", help="also shuffled captions and waveform latents"
    )
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty; give another --folder.")
    audio, captions = music()
    songs, words, real, wanted = audio[:CLIPS], captions[:CLIPS], audio[CLIPS:], captions[CLIPS:]
    rows = {}

    def show(names: list[str], made_by: Generator, codec: Codec, captions: list[str]) -> None:
        for name, row in zip(names, judge(made_by, codec, real, captions), strict=True):
            rows[name] = row
            followed = "  followed" if row["p"] < LEAST else ""
            print(
                f"{name:18} median rank {row['rank']:4.1f} of {HELD_OUT}, p {row['p']:.4f}{followed}",
                flush=True,
            )

    codec = make_codec(songs, folder, config())
    made_by = compose(codec, songs, words, folder / "right")
    show(["right captions", "no text"], made_by, codec, wanted + [""] * HELD_OUT)
    if options.controls:
        shuffled = [words[i] for i in np.random.default_rng(0).permutation(CLIPS)]
        show(
            ["shuffled captions"],
            compose(codec, songs, shuffled, folder / "shuffled"),
            codec,
            wanted,
        )
        waveform = config()
        with waveform.unlocked():
            waveform.autoencoder.update(window=0, strides=(64, 40), latent_channels=48)
            waveform.train_autoencoder.update(steps=300, learning_rate=2e-3)
            waveform.train_autoencoder.losses.update(waveform=1.0, stft=0.2, levels=0.0)
        phases = make_codec(songs, folder / "phases", waveform)
        show(
            ["waveform latents"],
            compose(phases, songs, words, folder / "phases" / "right"),
            phases,
            wanted,
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
