"""What the autoencoder is trained on: named losses of one batch, unweighted and unreduced."""

from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from jen1_jax.autoencoder import losses
from jen1_jax.autoencoder.model import Autoencoder


def loss_terms(
    model: Autoencoder,
    params: dict,
    audio: Float[Array, "batch samples 2"],
    valid_samples: Int[Array, " batch"],
    rng: Array,
    config: ConfigDict,
) -> dict[str, losses.Term]:
    """(total, count) per example of every term in `config.losses` (of `config.train_autoencoder`) that weighs above 0.

    The caller sums totals and counts over examples, divides, and applies the weights. `rng` draws the latent mask.
    """
    reconstruction, latents = model.apply({"params": params}, audio, rng)
    terms = {
        "waveform": lambda: losses.waveform(reconstruction, audio, valid_samples),
        "stft": lambda: losses.multi_resolution_stft(reconstruction, audio, valid_samples, tuple(config.stft_windows)),
        "kl": lambda: losses.kl(latents, -(-valid_samples // model.hop)),
    }
    return {name: terms[name]() for name, weight in config.losses.items() if weight > 0}
