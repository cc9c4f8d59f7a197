"""The plain EnCodec layout (Défossez et al. 2022, 48 kHz) for comparison: ELU, one residual unit a level, no LSTM, no quantiser.

Where it differs: a strided convolution here reads one stride of samples, not two, and the widest level has a residual unit too.
Command: `jen1 train autoencoder --config encodec_layout --workdir runs/encodec`; `benchmarks/autoencoder.py` times it.
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
