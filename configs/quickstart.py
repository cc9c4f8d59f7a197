"""JEN-1 in miniature: the whole chain, small enough for two CPU cores.

Trains: a masked autoencoder (hop 2560: 96 channels at 18.75 Hz) on all of the music, and a small omnidirectional U-Net with a
text encoder of its own on windows of four clips of 10.24 s, to learn by heart. `--config.data.limit=0` trains it on everything,
which within minutes gives the right colour and no notes.
Cost: about 5 minutes for the autoencoder and 7 for the U-Net on two CPU cores.
Command: `bash launch/quickstart.sh`.
Result to expect: unseen clips without drums come through the autoencoder at 10 dB SI-SDR; the clips come back by their captions,
window after window, four times as long as what the U-Net has ever seen at once.
"""

from ml_collections import ConfigDict

from configs import jen1


def get_config() -> ConfigDict:
    config = jen1.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(64, 40),  # a patch stem: nothing runs above 750 Hz, and all matrix products are wide
            channels=(128, 512),
            dilations=(1,),
            kernel_size=3,
            latent_channels=96,
            activation="elu",  # a third cheaper than snake on a CPU
        )
        config.whitening.keep = 1.0
        config.train_autoencoder.update(
            steps=550,
            batch_size=8,
            seconds=1.07,
            learning_rate=2e-3,
            warmup_steps=50,
            betas=(0.9, 0.99),
            ema_decay=0.99,
            stft_windows=(1024, 256),
            log_every=50,
            checkpoint_every=200,
        )
        config.train_autoencoder.losses.update(stft=0.2, mel=0.0, adversarial=0.0, feature_matching=0.0)
        config.text.update(
            encoder="", max_length=64, dtype="float32", vocab_size=400, d_model=96, d_kv=24, d_ff=192, num_layers=1, num_heads=4
        )
        config.unet.update(
            channels=64,
            multipliers=(4, 4, 6),
            factors=(2, 4),  # the text task learns clips by their places, and few deep frames have few places
            num_blocks=(1, 1),
            attentions=(0, 0, 3),
            head_dim=64,
            text_features=96,
            null_text="token",
            timing=True,  # a caption alone brings back a clip's beginning, not any of its windows
            dtype="float32",
            remat="none",
            scan=False,
        )
        config.diffusion.update(schedule="cosine", objective="x0", null_text_rate=0.1, sample_steps=50)
        config.tasks.ratios.text_to_music = 2.0  # which is the hardest to learn: nothing is given
        config.data.update(seconds=2.56, limit=4)  # minutes on a CPU teach a model a few clips by heart, and no more
        config.train_diffusion.update(
            steps=1600,
            batch_size=24,
            learning_rate=2.5e-3,
            warmup_steps=50,
            weight_decay=0.01,
            ema_decay=0.99,
            log_every=50,
            checkpoint_every=200,
        )
    return config
