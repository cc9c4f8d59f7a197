"""JEN-1 with what small trainings needed to generate music: latents without phase, objective x0.

The latents have the paper's rate and width, 150 Hz x 128 channels, but the autoencoder reads STFT
levels instead of samples. The U-Net's layout and the tasks are those of `jen1`. Choose it over
`jen1` where the budget is small: narrow versions of both layouts were trained, and this one gave
the right timbre, while `jen1`'s gave no music (docs/decisions.md).

Trains: the autoencoder, then the diffusion model on its latents.
Cost: not measured.
Command: `jen1 train autoencoder --config jen1_levels --workdir runs/jen1_levels`.
Result to expect: not measured at this size.
"""

from ml_collections import ConfigDict

from configs import jen1


def get_config() -> ConfigDict:
    config = jen1.get_config()
    with config.unlocked():
        config.autoencoder.update(
            strides=(320,),
            channels=(1024,),
            dilations=(1, 3),
            kernel_size=3,
            window=1280,
            phase_iterations=32,
        )
        config.unet.null_text = "token"
        config.diffusion.update(  # provisional: measured with one seed, at small scale
            objective="x0",
            schedule="cosine",
            null_text_rate=0.1,
            sampler="dpm_solver",
            sample_steps=50,
            guidance_scale=3.0,
        )
        config.train_autoencoder.steps = 100_000
        config.train_autoencoder.losses.update(
            waveform=0.0, stft=0.0, mel=0.0, levels=1.0, adversarial=0.0, feature_matching=0.0
        )
    return config
