"""JEN-1 as published, with latents that hold no phase: the paper's 150 Hz x 128 channels, of STFT levels instead of samples.

The U-Net, its diffusion and its tasks are those of `jen1`. Choose it over `jen1` where the budget is small: narrow, and with the
objective x0, this layout gave the right timbre and `jen1`'s gave nothing (docs/decisions.md).
Cost: not measured. Command: `jen1 train autoencoder --config jen1_levels --workdir runs/jen1_levels`.
Result to expect: not measured at this size.
"""

from ml_collections import ConfigDict

from configs import jen1


def get_config() -> ConfigDict:
    config = jen1.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(320,), channels=(1024,), dilations=(1, 3), kernel_size=3, window=1280, phase_iterations=32
        )
        config.train_autoencoder.steps = 100_000
        config.train_autoencoder.losses.update(waveform=0.0, stft=0.0, mel=0.0, levels=1.0, adversarial=0.0, feature_matching=0.0)
    return config
