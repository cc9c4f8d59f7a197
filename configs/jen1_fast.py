"""JEN-1 at a low latent rate: 64 channels at 23.4 Hz instead of 128 at 150 Hz, so that a step sees six times as much music.

The autoencoder reads and writes STFT levels, so that its latents hold no phase and can be learnt (docs/decisions.md has how much
that decides at small scale); decoding looks for the phases. It is trained on levels alone, without an adversary, from the
principal directions of the music on. The U-Net keeps the paper's width and resamples less, as the latents are already coarse; it
knows where in its piece a window lies, as Stable Audio does (Evans et al. 2024).
Cost: not measured. Command: `jen1 train autoencoder --config jen1_fast --workdir runs/fast`.
Result to expect: not measured at this size; `quickstart` is its miniature.
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
