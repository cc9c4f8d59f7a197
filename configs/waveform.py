"""A patch autoencoder that is ruled by the waveform, latents that carry phase, and a U-Net that learns four clips by heart.

It wins by SI-SDR, and a small U-Net composes nothing from it (docs/decisions.md). It stays for comparison:
`benchmarks/memorise.py`, `benchmarks/masking.py` and `benchmarks/soak_autoencoder.py` start from it.
Cost: 5 minutes for the autoencoder on two CPU cores. Command: `jen1 train autoencoder --config waveform --workdir runs/waveform`.
Result to expect: unseen clips without drums come through at 10 dB SI-SDR; generated audio is noise of the right colour.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(
                64,
                40,
            ),  # a patch stem: nothing runs above 750 Hz, and all matrix products are wide
            channels=(128, 512),
            latent_channels=96,
            window=0,
            phase_iterations=0,
        )
        config.unet.update(channels=64, attentions=(0, 0, 3), conditioning=("timing",))
        config.diffusion.update(sampler="ddim", sample_steps=50, guidance_scale=2.0)
        config.data.update(seconds=2.56, limit=4)
        config.train_diffusion.update(
            steps=1600, batch_size=24, learning_rate=2.5e-3, warmup_steps=50, ema_decay=0.99
        )
        config.train_autoencoder.update(
            steps=550,
            learning_rate=2e-3,
            warmup_steps=50,
            ema_decay=0.99,
            stft_windows=(1024, 256),
            log_every=50,
            checkpoint_every=200,
        )
        config.train_autoencoder.losses.update(waveform=1.0, stft=0.2, levels=0.0)
    return config
