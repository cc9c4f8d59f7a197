"""What the autoencoder and its discriminator are trained on: named losses, per example."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder import discriminator, losses, spectrum
from jen1_jax.autoencoder.discriminator import Discriminator
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.models.autoencoder import init_autoencoder
from jen1_jax.training.optimizer import adamw
from jen1_jax.training.step import Batch, PerExample, Trainable

NEED_DISCRIMINATOR = ("adversarial", "feature_matching")


def uses_discriminator(training: ConfigDict) -> bool:
    """Whether this section `train_autoencoder` gives weight to a loss of the discriminator."""
    return any(training.losses[name] > 0 for name in NEED_DISCRIMINATOR)


def make_trainables(
    config: ConfigDict, model: Autoencoder, trained: Sequence[str] = ()
) -> dict[str, Trainable]:
    """The autoencoder, of which the parameters `trained` are trained, and its discriminator.

    There is a discriminator where a loss needs one, and all of it is trained.
    """
    training = config.train_autoencoder
    critic = Discriminator(
        tuple(training.adversary.windows), training.adversary.channels, config.autoencoder.dtype
    )
    settings = {"model": model, "critic": critic, "training": training}

    def generator_losses(params: PyTree, batch: Batch, _: PyTree) -> PerExample:
        return autoencoder_losses(params, batch, sample_rate=config.audio.sample_rate, **settings)

    trainables = {
        "autoencoder": Trainable(
            init=partial(init_autoencoder, model=model),
            losses=generator_losses,
            counts=partial(counts, names=tuple(training.losses)),
            weights=dict(training.losses),
            optimizer=adamw(training)[0],
            trained=trained,
        )
    }
    if uses_discriminator(training):
        trainables["discriminator"] = Trainable(
            init=lambda key: critic.init(key, jnp.zeros((1, max(critic.windows), 2)))["params"],
            losses=lambda params, batch, _: discriminator_losses(params, batch, **settings),
            counts=partial(counts, names=("discriminator",)),
            weights={"discriminator": 1.0},
            optimizer=adamw(training, start=training.adversary.start)[0],
        )
    return trainables


def counts(batch: Batch, names: tuple[str, ...]) -> PerExample:
    """How much each example counts: in `waveform` its samples, elsewhere 1 if it has any."""
    valid = batch["valid_samples"]
    return {
        name: (valid if name == "waveform" else valid > 0).astype(jnp.float32) for name in names
    }


def autoencoder_losses(
    params: Mapping[str, PyTree],
    batch: Batch,
    *,
    model: Autoencoder,
    critic: Discriminator,
    training: ConfigDict,
    sample_rate: int,
) -> PerExample:
    """Every loss of `training.losses` (of the section `train_autoencoder`) whose weight is above 0.

    `params` holds the `autoencoder`'s and, where a loss needs them, the `discriminator`'s. The
    batch has `audio`, `valid_samples`, `mask_key` [batch], whose first draws the latent mask, and
    from the adversary's start on `ramp` [batch], up to 1, which scales the adversarial losses.
    """
    audio, valid, windows = batch["audio"], batch["valid_samples"], tuple(training.stft_windows)
    decoded, latents, levels = model.apply(
        {"params": params["autoencoder"]}, audio, batch["mask_key"][0]
    )
    decoded = losses.keep_valid(decoded, valid)
    compute = {
        "waveform": lambda: losses.waveform(decoded, audio, valid),
        "stft": lambda: losses.multi_resolution_stft(decoded, audio, valid, windows),
        "mel": lambda: losses.mel(decoded, audio, valid, windows, sample_rate),
        "levels": lambda: spectrum.distance(levels, audio, valid, model.layout),
        "width": lambda: spectrum.width_error(levels, audio, valid, model.layout),
        "kl": lambda: losses.kl(latents, -(-valid // model.hop)),
    }
    found = {name: loss() for name, loss in compute.items() if training.losses[name] > 0}
    if uses_discriminator(training):

        def adversarial() -> PerExample:
            real, fake = _scores(critic, params["discriminator"], audio, decoded)
            kind, windows = training.adversary.loss, critic.windows
            matching = discriminator.feature_matching_loss(real, fake, windows, valid)
            return {
                "adversarial": discriminator.adversarial_loss(kind, fake, windows, valid),
                "feature_matching": matching,
            }

        scaled = _ramped(adversarial, batch)
        found |= {name: scaled[name] for name in NEED_DISCRIMINATOR if training.losses[name] > 0}
    return found


def discriminator_losses(
    params: Mapping[str, PyTree],
    batch: Batch,
    *,
    model: Autoencoder,
    critic: Discriminator,
    training: ConfigDict,
) -> PerExample:
    """The discriminator's loss, on the decoded audio that `autoencoder_losses` has."""
    audio, valid = batch["audio"], batch["valid_samples"]
    variables = {"params": params["autoencoder"]}
    decoded = losses.keep_valid(model.apply(variables, audio, batch["mask_key"][0]).audio, valid)

    def loss() -> PerExample:
        real, fake = _scores(critic, params["discriminator"], audio, decoded)
        kind, windows = training.adversary.loss, critic.windows
        found = discriminator.discriminator_loss(kind, real, fake, windows, valid)
        return {"discriminator": found}

    return _ramped(loss, batch)


def _scores(
    critic: Discriminator,
    params: PyTree,
    real: Float[Array, "batch samples 2"],
    decoded: Float[Array, "batch samples 2"],
) -> tuple[list[discriminator.Scores], list[discriminator.Scores]]:
    """The scores of real and of decoded audio, in one pass over both."""
    both = critic.apply({"params": params}, jnp.concatenate([real, decoded]))
    half = lambda n: jax.tree.map(lambda x: jnp.split(x, 2)[n], both)
    return half(0), half(1)


def _ramped(loss: Callable[[], PerExample], batch: Batch) -> PerExample:
    """`loss()` times the batch's `ramp`; zeros, without a call of any network, where it has none.

    Which of the two is known when the step is traced: with `lax.cond` a CPU would need ten times
    as long for the gradients.
    """
    if "ramp" not in batch:
        return {name: jnp.zeros(len(batch["audio"])) for name in jax.eval_shape(loss)}
    return {name: batch["ramp"] * each for name, each in loss().items()}
