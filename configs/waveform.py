"""An autoencoder of samples, trained mainly on the waveform, and a U-Net that memorises four clips.

Its latents carry phase. Its SI-SDR is high, but a small U-Net generates no new music from its
latents (docs/decisions.md). The preset stays for comparison: `benchmarks/memorise.py`,
`benchmarks/masking.py` and `benchmarks/soak_autoencoder.py` start from it.

Trains: the autoencoder, then the diffusion model on four clips.
Cost: 5 minutes for the autoencoder on two CPU cores.
Command: `jen1 train autoencoder --config waveform --workdir runs/waveform`.
Result to expect: the round trip of held-out clips reaches 8.7 dB SI-SDR (docs/decisions.md).
Generated audio is noise with the right spectrum, except for the four clips that it memorises.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    with config.unlocked():
        config.autoencoder.update(
            # The stem folds 64 samples into channels: no layer runs faster than 750 Hz, and all
            # matrix products are wide.
            strides=(64, 40),
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
