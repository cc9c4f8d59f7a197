"""JEN-1 with a low latent rate: 64 channels at 23.4 Hz instead of 128 at 150 Hz.

A training step sees six times as much music. The autoencoder reads and writes STFT levels, so its
latents hold no phase and a small generator can learn them (docs/decisions.md); decoding searches
for phases. It is trained on the levels alone, without an adversary, and starts from the principal
directions of the music. The U-Net has the paper's width. It resamples less, because the latents are
already coarse, and it is given the place of a window in its piece, as in Stable Audio (Evans et al.
2024).

Trains: the autoencoder, then the diffusion model on its latents.
Cost: not measured.
Command: `jen1 train autoencoder --config jen1_fast --workdir runs/fast`.
Result to expect: not measured at this size; `quickstart` is a small version of it.
"""

from ml_collections import ConfigDict

from configs import jen1_levels


def get_config() -> ConfigDict:
    config = jen1_levels.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(512, 4), channels=(1024, 1024), latent_channels=64, window=2048
        )
        config.whitening.keep = 1.0
        config.unet.update(
            multipliers=(4, 4, 4, 5),
            factors=(1, 2, 2),
            num_blocks=(2, 2, 2),
            attentions=(0, 3, 4, 6),
            conditioning=("timing",),
        )
        config.data.seconds = 40.96
        config.train_autoencoder.seconds = 1.37
    return config
