"""Refuses, before anything is trained, what would fail later or be lost."""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jen1_jax import conditioning, tasks
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.discriminator import ADVERSARIAL_LOSSES
from jen1_jax.autoencoder.whitening import check_whitening
from jen1_jax.conditioning.conditioner import check_fields
from jen1_jax.models.diffusion import check_sampling, check_unet
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder_losses import uses_discriminator
from jen1_jax.training.draw import draw_diffusion
from jen1_jax.training.loop import Data
from jen1_jax.training.optimizer import OPTIMIZERS
from jen1_numpy.errors import Refusal
from jen1_numpy.options import check_range


def check_diffusion(config: ConfigDict) -> None:
    """Refuses settings with which no diffusion model can be trained, or sampled afterwards."""
    if min(config.train_diffusion.steps, config.train_diffusion.batch_size) < 1:
        raise Refusal("train_diffusion.steps and batch_size must be at least 1.")
    _ = OPTIMIZERS[config.train_diffusion.optimizer]  # refuses an unknown name
    _check_share("train_diffusion.decay_share", config.train_diffusion.decay_share)
    _check_changes("train_diffusion", config.train_diffusion)
    check_sampling(config.diffusion)
    for name, most in (("null_text_rate", 1), ("min_snr_gamma", math.inf)):
        check_range(dict(config.diffusion), name, most)
    _check_share("data.short_rate", config.data.short_rate)
    check_unet(config.unet)
    if config.train_diffusion.gather_once and config.unet.dtype != "bfloat16":
        raise Refusal(
            "train_diffusion.gather_once gathers kernels in bfloat16, but unet.dtype is "
            f"{config.unet.dtype}; set this to bfloat16, or gather_once to ()."
        )
    tasks.weights(config.tasks)

    def trace(key, step, batch):  # the draw and the loss's mask have checks of their own
        drawn = draw_diffusion(key, step, batch, config=config, hop=1, k=1, window=8)
        return tasks.loss_mask(drawn["mask"], jnp.ones_like(drawn["mask"]), config.tasks.loss_on)

    conditions = {
        name: {key: jnp.ones(4) for key in each.names}
        for name, each in conditioning.chosen(config.unet.conditioning).items()
    }
    batch = {
        "latents": jnp.ones((4, 8, 1)),
        "valid_frames": jnp.full(4, 8),
        "conditions": conditions,
    }
    jax.eval_shape(trace, jax.random.key(0), jnp.int32(0), batch)


def check_data(config: ConfigDict, data: Data, codec: Codec, run: Run) -> int:
    """Refuses data that do not fit the run; returns the frames of a training window."""
    about, folder = data.description, data.description["dir"]
    latents = about["kind"] == "latents"
    # Waveforms have no fingerprint; latents must have one.
    theirs = about.get("fingerprint", "none" if latents else codec.fingerprint)
    if theirs != codec.fingerprint:
        raise Refusal(
            f"The latents in {folder} come from another autoencoder (fingerprint {theirs[:12]}) "
            f"than this run's ({codec.fingerprint[:12]}); encode the data again with "
            f"`jen1 data encode --autoencoder {run.path}`."
        )
    frames = about["length"] if latents else -(-about["length"] // codec.hop)
    window = round(config.data.seconds * codec.frame_rate)
    # Otherwise sampling would use lengths that training has never seen.
    if frames < window - 1 or (frames > window + 1 and not latents):
        raise Refusal(
            f"The examples in {folder} are {frames / codec.frame_rate:.2f} s long, but "
            f"data.seconds is {config.data.seconds}; set --config.data.seconds="
            f"{frames / codec.frame_rate:.2f}, or prepare the data with --seconds "
            f"{config.data.seconds}. Only longer latents (`jen1 data encode`) are cut into random "
            "windows."
        )
    training = config.train_diffusion
    if latents and (training.polarity_flip or training.channel_swap or any(training.gain_db)):
        raise Refusal(
            f"{folder} holds latents, whose audio cannot be changed any more; set "
            "train_diffusion.polarity_flip, channel_swap and gain_db to 0, or train on waveforms."
        )
    conditioners = conditioning.chosen(config.unet.conditioning)
    check_fields(conditioners, about["fields"], folder)
    deepest = window / math.prod(config.unet.factors)
    if deepest < 2:
        raise Refusal(
            f"unet.factors leave {deepest:.1f} frames of a {config.data.seconds} s example at the "
            "deepest level; train on longer examples (data.seconds), or resample less."
        )
    return window if frames > window + 1 else frames


def check_autoencoder_training(config: ConfigDict) -> None:
    """Refuses settings with which no autoencoder can be trained, or its training would be lost."""
    training = config.train_autoencoder
    check_whitening(config.whitening.keep, config.whitening.floor)
    weights = training.losses
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise Refusal(
            "train_autoencoder.losses are weights of at least 0, one of them above 0; got "
            f"{weights.to_dict()}."
        )
    for name in ("levels", "width"):
        if weights[name] > 0 and not config.autoencoder.window:
            raise Refusal(
                f"train_autoencoder.losses.{name} compares STFT levels, which autoencoder.window "
                "of 0 does not have."
            )
    if weights.waveform > 0 and config.autoencoder.window:
        raise Refusal(
            "train_autoencoder.losses.waveform compares phases, and latents with "
            "autoencoder.window hold none; set it to 0."
        )
    adversary = training.adversary
    used = {}
    if weights.stft > 0 or weights.mel > 0:
        used["stft_windows"] = training.stft_windows
    if uses_discriminator(training):
        _ = ADVERSARIAL_LOSSES[adversary.loss]  # refuses an unknown name
        if adversary.channels < 1 or adversary.start < 0:
            raise Refusal(
                "train_autoencoder.adversary.channels must be at least 1, and adversary.start at "
                "least 0."
            )
        used["adversary.windows"] = adversary.windows
    for name, windows in used.items():
        if not windows or min(windows) < 16 or any(window % 4 for window in windows):
            raise Refusal(
                f"train_autoencoder.{name} are multiples of 4 samples from 16 on, and at least "
                f"one; got {tuple(windows)}."
            )
    _check_share("train_autoencoder.decay_share", training.decay_share)
    _check_changes("train_autoencoder", training)
    if min(training.steps, training.batch_size) < 1:
        raise Refusal("train_autoencoder.steps and batch_size must be at least 1.")
    hop = math.prod(config.autoencoder.strides)
    if round(training.seconds * config.audio.sample_rate) < hop:
        raise Refusal(
            f"train_autoencoder.seconds of {training.seconds} is less than one hop of {hop} "
            "samples; take longer crops."
        )


def _check_changes(name: str, training: ConfigDict) -> None:
    """Refuses shares and gains of `draw.vary_audio` that are none."""
    for share in ("polarity_flip", "channel_swap"):
        _check_share(f"{name}.{share}", training[share])
    if len(training.gain_db) != 2 or not -60 <= training.gain_db[0] <= training.gain_db[1] <= 60:
        raise Refusal(
            f"{name}.gain_db is a smallest and a largest gain between -60 and 60 dB; "
            f"{training.gain_db} is not."
        )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise Refusal(f"{name} is a share between 0 and 1; {value} is not.")
