"""A small JEN-1: the whole chain on two CPU cores.

Trains: a masked autoencoder of STFT levels (hop 2560: 64 channels at 18.75 Hz), whose latents hold
no phase, and a small omnidirectional U-Net with its own text encoder, on all of the music.
Cost: about 2 minutes for the autoencoder and 5 for the U-Net, on two CPU cores.
Command: `bash launch/quickstart.sh`.
Result to expect: captions that were not in the training data give music with the right timbre
(docs/decisions.md has the ranks).
"""

from ml_collections import ConfigDict

from configs import jen1_levels


def get_config() -> ConfigDict:
    config = jen1_levels.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(512, 5),
            channels=(384, 512),
            dilations=(1,),
            kernel_size=3,
            latent_channels=64,
            # Latents without phase. With phase, a small U-Net only memorised its clips
            # (docs/decisions.md).
            window=2048,
            phase_iterations=16,
            activation="elu",  # a third less time than snake on a CPU
        )
        config.whitening.keep = 1.0
        config.train_autoencoder.update(
            steps=100,  # few, because it starts from the principal directions of the levels
            batch_size=8,
            seconds=1.07,
            learning_rate=5e-4,
            warmup_steps=20,
            betas=(0.9, 0.99),
            ema_decay=0.95,
            log_every=25,
            checkpoint_every=100,
        )
        config.text.update(
            encoder="",
            max_length=48,
            dtype="float32",
            vocab_size=256,
            d_model=96,
            d_kv=24,
            d_ff=192,
            num_layers=1,
            num_heads=4,
        )
        config.unet.update(
            channels=32,
            multipliers=(4, 4, 6),
            factors=(2, 4),
            num_blocks=(1, 1),
            attentions=(1, 1, 2),  # text at every level (docs/decisions.md)
            head_dim=64,
            text_features=96,
            dtype="float32",
            remat="none",
            scan=False,
        )
        config.diffusion.sample_steps = 20  # fewer than in jen1_levels, to save time
        config.tasks.ratios.text_to_music = 2.0  # half of each batch: the hardest task
        config.data.update(seconds=5.12, short_rate=0.0)
        config.train_diffusion.update(
            steps=1400,
            batch_size=16,
            learning_rate=1.5e-3,
            warmup_steps=100,
            weight_decay=0.01,
            ema_decay=0.995,
            log_every=50,
            checkpoint_every=200,
        )
    return config
