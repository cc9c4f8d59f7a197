"""Builds the autoencoder of a configuration, and loads a trained one with its whitening."""

import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.model import ACTIVATIONS, MASK_UNITS, Autoencoder
from jen1_jax.autoencoder.whitening import Whitening
from jen1_jax.files import AnyPath
from jen1_jax.models import weights
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal


def make_autoencoder(config: ConfigDict) -> Autoencoder:
    """The autoencoder of a configuration; raises `Refusal` if its fields do not fit together."""
    fields = config.autoencoder
    if not 4_000 <= config.audio.sample_rate <= 768_000:
        raise Refusal(
            "audio.sample_rate must lie between 4,000 and 768,000 Hz, got "
            f"{config.audio.sample_rate}."
        )
    if not len(fields.strides) == len(fields.channels) > 0 or fields.kernel_size % 2 == 0:
        raise Refusal(
            "autoencoder.strides and autoencoder.channels need the same number of entries, at "
            "least one, and autoencoder.kernel_size must be odd."
        )
    sizes = (
        *fields.strides,
        *fields.channels,
        *fields.dilations,
        fields.latent_channels,
        fields.kernel_size,
        fields.compress,
    )
    if min(sizes) < 1 or fields.compress > min(fields.channels):
        raise Refusal(
            "autoencoder's strides, channels, kernel_size, latent_channels, dilations and compress "
            "must be at least 1, and compress no more than any of the channels."
        )
    fits = fields.window % 8 == 0 and fields.window == 4 * fields.strides[0]
    if fields.window and (not fits or fields.causal):
        raise Refusal(
            "autoencoder.window must be a multiple of 8 samples and four times strides[0], without "
            f"autoencoder.causal; got {fields.window} with strides {tuple(fields.strides)} and "
            f"causal={fields.causal}."
        )
    short = fields.short_window
    if short and not (256 <= short < fields.window and fields.window % short == short % 8 == 0):
        raise Refusal(
            "autoencoder.short_window must be 0, or a multiple of 8 samples from 256 on that "
            f"divides autoencoder.window; got {short} with a window of {fields.window}."
        )
    if fields.phase_iterations < (1 if fields.window else 0):
        raise Refusal(
            "autoencoder.phase_iterations must be at least 0, and at least 1 with "
            f"autoencoder.window; got {fields.phase_iterations}."
        )
    if not -140 <= fields.quietest <= -40:
        raise Refusal(
            f"autoencoder.quietest must be between -140 and -40 dB, got {fields.quietest}."
        )
    if not 0 <= fields.mask_rate < 1:
        raise Refusal(f"autoencoder.mask_rate must be a share in [0, 1), got {fields.mask_rate}.")
    if fields.dtype not in ("float32", "bfloat16"):
        raise Refusal(f'autoencoder.dtype is "float32" or "bfloat16", not "{fields.dtype}".')
    _ = (
        ACTIVATIONS[fields.activation],
        MASK_UNITS[fields.mask_unit],
    )  # raise Refusal for unknown names
    return Autoencoder(**config.autoencoder)


def init_autoencoder(key: Key[Array, ""], *, model: Autoencoder) -> PyTree:
    return model.init(key, jnp.zeros((1, model.hop, 2)))["params"]


def load_codec(run: Run) -> Codec:
    """The trained autoencoder of a run (EMA weights) with its whitening.

    Raises `Refusal` if a part is missing, or if its fingerprint is not the one that the run has
    recorded.
    """
    missing = (
        f"The run {run.path} has no trained autoencoder; train it with "
        f"`jen1 train autoencoder --workdir {run.path}`."
    )
    config = run.config
    weights.check(run, "autoencoder", missing)
    if not run.whitening.is_file() or "autoencoder" not in run.record["fingerprints"]:
        raise Refusal(
            f"The autoencoder of {run.path} is not trained to its end; run the same "
            "`jen1 train autoencoder` again."
        )
    model = make_autoencoder(config)
    shapes = jax.eval_shape(partial(init_autoencoder, model=model), jax.random.key(0))
    params, _ = weights.restore(run, "autoencoder", shapes)
    whitening = Whitening.load(run.whitening)
    measured = _load_measured(run.measured, model)
    codec = Codec(model, params, whitening, config.audio.sample_rate, **measured)
    recorded = run.record["fingerprints"]["autoencoder"]
    if codec.fingerprint != recorded:
        raise Refusal(
            f"The autoencoder in {run.path} has the fingerprint {codec.fingerprint}, but the run's "
            f"record holds {recorded}; a file was replaced: restore it, or train again in another "
            "folder."
        )
    return codec


def _load_measured(path: AnyPath, model: Autoencoder) -> dict[str, Any]:
    """The fields `loudest` and `margin` of a `Codec`, which `train_autoencoder` has measured."""
    try:
        return check_measured(json.loads(path.read_text()), model)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(
            f"{path} does not hold the measurements of the training data ({error}); delete it and "
            "run the same `jen1 train autoencoder` again."
        ) from None


def check_measured(measured: Any, model: Autoencoder) -> dict[str, Any]:
    """`measured` as fields of a `Codec`; raises for what does not fit the `model`."""
    bands = model.layout.bands
    loudest, margin = np.asarray(measured["loudest"], np.float32), measured["margin"]
    if loudest.shape != (bands,) or not np.isfinite(loudest).all():
        raise ValueError(f"it does not hold {bands} finite levels")
    if type(margin) is not int or not 0 <= margin <= model.encoder_reach:
        raise ValueError(f"its margin is not between 0 and {model.encoder_reach}")
    return {"margin": margin} | ({"loudest": loudest} if bands else {})
