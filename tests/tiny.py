"""A configuration and data that train in seconds, for many tests."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs.jen1 import get_config

SECONDS = 0.128  # 6144 samples, 96 latent frames of 64 samples
CAPTIONS = ("a low tone on the left", "a high tone on the right", "two tones", "slow noise")


def config() -> ConfigDict:
    """The preset `jen1` with all sizes reduced."""
    config = get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(8, 8), channels=(8, 8), dilations=(1,), kernel_size=3, latent_channels=8
        )
        config.whitening.keep = 0.75
        config.text.update(
            encoder="",
            max_length=16,
            dtype="float32",
            vocab_size=64,
            d_model=8,
            d_kv=4,
            d_ff=8,
            num_layers=1,
            num_heads=2,
        )
        config.unet.update(
            channels=12,
            multipliers=(1, 1, 2),
            factors=(2, 2),
            num_blocks=(1, 1),
            attentions=(0, 1, 1),
            head_dim=4,
            text_features=8,
            conditioning=("timing",),
            dtype="float32",
            remat="none",
            scan=False,
        )
        config.diffusion.update(objective="v", schedule="cosine", sample_steps=4)
        config.data.update(seconds=SECONDS, short_rate=0.0)
        config.train_autoencoder.update(
            steps=6,
            batch_size=4,
            seconds=SECONDS / 2,
            warmup_steps=2,
            learning_rate=1e-3,
            log_every=1,
            checkpoint_every=100,
        )
        config.train_autoencoder.stft_windows = (256, 64)
        config.train_autoencoder.adversary.update(windows=(64,), channels=4, start=2, ramp=2)
        config.train_diffusion.update(
            steps=6, batch_size=6, learning_rate=1e-3, log_every=1, checkpoint_every=100
        )
    return config


def write_audio_npz(path: Path, seed: int = 0) -> Path:
    """Writes six stereo clips, of which one is held out and one is half as long."""
    rng = np.random.default_rng(seed)
    samples = round(SECONDS * 48_000)
    t = np.arange(samples) / 48_000
    frequencies = rng.uniform(200, 2000, (6, 1, 2))
    phases = rng.uniform(0, 6, (6, 1, 2))
    tones = np.sin(2 * np.pi * frequencies * t[:, None] + phases)
    audio = (0.3 * tones + 0.02 * rng.standard_normal((6, samples, 2))).astype(np.float32)
    valid = np.full(6, samples, np.int32)
    valid[1], audio[1, samples // 2 :] = samples // 2, 0
    captions = np.array([CAPTIONS[i % 4] for i in range(6)])
    start, total = np.arange(6) * SECONDS, np.arange(6, 0, -1) * 10.0
    np.savez(
        path,
        audio=audio,
        valid_samples=valid,
        caption=captions,
        start=start,
        total=total,
        test=np.arange(6) == 5,
    )
    return path
