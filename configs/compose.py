"""A model that composes from text: the whole chain in a night on two CPU cores.

Trains: a masked autoencoder of STFT levels (hop 2048: 96 channels at 23.4 Hz) on ten hours of
composed music, then a U-Net with attention to text at every level on sixty hours. A frozen BERT,
all-MiniLM-L6-v2, reads the captions. Autoencoder and U-Net have at most 16 M parameters together.
Cost: meant for 8 to 12 hours on two CPU cores. On one NVIDIA H200, as many examples took the U-Net
128 s (docs/composing.md).
Command: `bash launch/compose.sh`.
Result to expect: music that follows drums and key, a little of the tempo, and not the meter.
"""

from ml_collections import ConfigDict

from configs import jen1_levels


def get_config() -> ConfigDict:
    config = jen1_levels.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(1024, 2),
            channels=(256, 384),
            dilations=(1,),
            kernel_size=3,
            latent_channels=96,
            # The long window keeps keys, the short one attacks (docs/decisions.md).
            window=4096,
            short_window=1024,
            # 40 to 50 % of the bins of this music are below -80 dB (docs/decisions.md).
            quietest=-120.0,
            phase_iterations=32,
            activation="elu",  # a third less time than snake on a CPU
        )
        config.whitening.keep = 1.0
        config.train_autoencoder.update(
            steps=4000,
            batch_size=16,
            seconds=1.07,
            gain_db=(-6.0, 6.0),
            learning_rate=3e-4,  # it starts from the principal directions of the levels
            warmup_steps=100,
            decay_share=0.8,
            betas=(0.9, 0.99),
            ema_decay=0.999,
            checkpoint_every=250,
        )
        config.train_autoencoder.losses.width = 0.2  # else wide music becomes narrow
        # launch/compose.sh gives a folder with this encoder instead.
        config.text.update(
            encoder="sentence-transformers/all-MiniLM-L6-v2", max_length=64, dtype="float32"
        )
        config.unet.update(
            channels=64,
            multipliers=(4, 4, 4),
            factors=(2, 4),
            num_blocks=(1, 1),
            attentions=(1, 1, 2),  # text at every level (docs/decisions.md)
            head_dim=64,
            text_features=384,
            qk_norm=True,
            dtype="float32",
            remat="none",
            scan=False,
        )
        # With more noise, captions and keys are learnt faster (docs/decisions.md).
        config.diffusion.update(
            times="logit_normal", times_mean=1.5, times_std=1.5, sample_steps=30
        )
        # Text-to-music is the hardest task. Two thirds of the examples have it, and with the same
        # weights every example counts alike. Generation uses its bidirectional mode.
        config.tasks.update(loss_on="generated", text_to_music_causal=0.1)
        config.tasks.ratios.text_to_music = 4.0
        config.tasks.weights.text_to_music = 4.0
        config.data.seconds = 10.24
        config.train_diffusion.update(
            steps=40_000,
            batch_size=16,
            optimizer="adamw",  # a step of Muon takes 2.4 times as long here (docs/decisions.md)
            learning_rate=1e-3,
            warmup_steps=200,
            decay_share=0.4,
            weight_decay=0.01,
            ema_decay=0.9995,
            checkpoint_every=500,
        )
    return config
