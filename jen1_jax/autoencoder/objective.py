"""What the autoencoder and its adversary are trained on: named losses of one batch, per example, unweighted."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder import discriminator, losses, spectrum
from jen1_jax.autoencoder.discriminator import Discriminator
from jen1_jax.autoencoder.model import Autoencoder

ADVERSARIAL = ("adversarial", "feature_matching")  # the losses that need a discriminator

Audio = Float[Array, "batch samples 2"]
Valid = Int[Array, " batch"]


def adversarial(config: ConfigDict) -> bool:
    """Whether this section `train_autoencoder` asks for a discriminator."""
    return any(config.losses[name] > 0 for name in ADVERSARIAL)


def autoencoder_terms(
    model: Autoencoder,
    judge: Discriminator,
    params: Mapping[str, PyTree],
    audio: Audio,
    valid_samples: Valid,
    rng: Array,
    ramp: Float[Array, ""] | None,
    config: ConfigDict,
    sample_rate: int,
) -> dict[str, losses.Term]:
    """(total, count) per example of every term in `config.losses` (of `config.train_autoencoder`) that weighs above 0.

    `params` holds the `autoencoder`'s and, where a loss needs them, the `discriminator`'s. `rng` draws the latent mask; `ramp`,
    up to 1, scales what the discriminator says, and without one it is not even asked.
    """
    windows = tuple(config.stft_windows)
    made, latents, levels = model.apply({"params": params["autoencoder"]}, audio, rng)
    made = losses.keep_valid(made, valid_samples)
    terms = {
        "waveform": lambda: losses.waveform(made, audio, valid_samples),
        "stft": lambda: losses.multi_resolution_stft(made, audio, valid_samples, windows),
        "mel": lambda: losses.mel(made, audio, valid_samples, windows, sample_rate),
        "levels": lambda: spectrum.distance(levels, audio, valid_samples, model.window),
        "kl": lambda: losses.kl(latents, -(-valid_samples // model.hop)),
    }
    terms = {name: term() for name, term in terms.items() if config.losses[name] > 0}
    if adversarial(config):

        def ask():
            real, ours = _judge(judge, params["discriminator"], audio, made)
            return {
                "adversarial": discriminator.adversarial_loss(
                    config.adversary.loss, ours, judge.windows, valid_samples
                ),
                "feature_matching": discriminator.feature_matching_loss(
                    real, ours, judge.windows, valid_samples
                ),
            }

        asked = _scaled(ask, ramp, len(audio))
        terms |= {name: asked[name] for name in ADVERSARIAL if config.losses[name] > 0}
    return terms


def discriminator_terms(
    model: Autoencoder,
    judge: Discriminator,
    params: Mapping[str, PyTree],
    audio: Audio,
    valid_samples: Valid,
    rng: Array,
    ramp: Float[Array, ""] | None,
    config: ConfigDict,
) -> dict[str, losses.Term]:
    """The discriminator's one term, on the same reconstruction as `autoencoder_terms` has."""
    made = model.apply({"params": params["autoencoder"]}, audio, rng).audio
    made = losses.keep_valid(made, valid_samples)

    def ask():
        real, ours = _judge(judge, params["discriminator"], audio, made)
        loss = discriminator.discriminator_loss(
            config.adversary.loss, real, ours, judge.windows, valid_samples
        )
        return {"discriminator": loss}

    return _scaled(ask, ramp, len(audio))


def _judge(judge: Discriminator, params: PyTree, real: Audio, made: Audio):
    """The verdicts and features on real audio and on made audio, in one pass over both."""
    both = judge.apply({"params": params}, jnp.concatenate([real, made]))
    halves = [jax.tree.map(lambda x, n=n: jnp.split(x, 2)[n], both) for n in range(2)]
    return halves[0], halves[1]


def _scaled(ask, ramp: Float[Array, ""] | None, batch: int) -> dict[str, losses.Term]:
    """`ramp` times the terms of `ask()`, or zeros.

    Whether it is asked is known when the step is traced: inside `lax.cond` a CPU would take the gradients ten times as long.
    """
    ones = jnp.ones(batch)
    if ramp is None:
        return {name: (0 * ones, ones) for name in jax.eval_shape(ask)}
    return {name: (ramp * total, ones) for name, (total, _) in ask().items()}
