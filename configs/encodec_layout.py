"""The plain EnCodec layout (Défossez et al. 2022, 48 kHz), for comparison.

It has ELU, one residual unit a level, no LSTM and no quantiser. Two things differ from EnCodec: a
strided convolution reads one stride of samples instead of two, and the widest level has a residual
unit too.

Trains: an autoencoder with 4.8 M parameters. `python -m benchmarks.autoencoder` measures its speed.
Cost: not measured.
Command: `jen1 train autoencoder --config encodec_layout --workdir runs/encodec`.
Result to expect: not measured.
"""

from ml_collections import ConfigDict

from configs import jen1


def get_config() -> ConfigDict:
    config = jen1.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(1, 2, 4, 5, 8),
            channels=(32, 64, 128, 256, 512),
            dilations=(1,),
            compress=2,
            latent_channels=128,
            activation="elu",
        )
    return config
