"""Trains the masked autoencoder and, at the end, fits the whitening of its latents."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec, fingerprint
from jen1_jax.autoencoder.discriminator import Discriminator
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.objective import adversarial, autoencoder_terms, discriminator_terms
from jen1_jax.autoencoder.whitening import Moments, Whitening
from jen1_jax.autoencoder.whitening import fit as fit_whitening
from jen1_jax.errors import Refusal
from jen1_jax.run import Run
from jen1_jax.training.checkpoints import Checkpoints
from jen1_jax.training.loop import Data, fit
from jen1_jax.training.mesh import make_mesh
from jen1_jax.training.step import Batch, Player, TrainState, adamw, init_state, stream


def train_autoencoder(config: ConfigDict, run: Run, data: Data, progress: Callable[[str], None] = print) -> None:
    """Trains RUN/autoencoder to `config.train_autoencoder.steps`, then fits RUN/autoencoder/whitening.npz on the EMA encoder."""
    if data.description["kind"] != "waveform":
        raise Refusal(f"{data.description['dir']} holds {data.description['kind']}; the autoencoder is trained on waveforms.")
    run = run.begin(config, "autoencoder")
    model = make_autoencoder(config)
    _, schedule = adamw(config.train_autoencoder)
    state = fit(
        "autoencoder",
        directory=run.path / "autoencoder",
        players=players(config, model),
        draw=partial(draw, config=config.train_autoencoder),
        batches=lambda start: ({name: b[name] for name in ("audio", "valid_samples", "index")} for b in data.batches(start)),
        config=config.train_autoencoder,
        schedule=schedule,
        mesh=make_mesh(config),
        rules=config.mesh.rules,
        seed=config.seed,
        record=run.record | {"data": dict(data.description)},
        progress=progress,
    )
    params = state.ema["autoencoder"]
    identify = partial(fingerprint, jax.device_get(params), sample_rate=config.audio.sample_rate, hop=model.hop)
    recorded = run.record["fingerprints"].get("autoencoder")
    if run.whitening.is_file() and identify(whitening=Whitening.load(run.whitening)) == recorded:
        progress(f"autoencoder: {run.path} is already trained to step {config.train_autoencoder.steps}")
        return
    progress("whitening: reading the training split")
    moments = latent_moments(model, params, data.sweep("train"))
    whitening = fit_whitening(moments, config.whitening.keep, config.whitening.floor)
    whitening.save(run.whitening)
    run.write(config, run.record["fingerprints"] | {"autoencoder": identify(whitening=whitening)})
    says = f"whitening: {whitening.k} of {model.latent_channels} directions kept"
    held_out = latent_moments(model, params, data.sweep("test"))
    if held_out.count:
        mean, covariance = whitening_error(whitening, held_out)
        says += (
            f"; on held-out files the mean is off by {mean:.3f} and the covariance by {covariance:.3f} "
            "(root mean square over entries; 0 on the data it was fitted on)"
        )
    progress(says)


def load_codec(run: Run) -> Codec:
    """The run's trained autoencoder (EMA weights) with its whitening; a missing or foreign part is refused."""
    missing = f"The run {run.path} has no trained autoencoder; train it with `jen1 train autoencoder --workdir {run.path}`."
    config = run.config
    checkpoints = Checkpoints.existing(run.checkpoints("autoencoder"), missing)
    if not run.whitening.is_file() or "autoencoder" not in run.record["fingerprints"]:
        raise Refusal(f"The autoencoder of {run.path} is not trained to its end; run the same `jen1 train autoencoder` again.")
    model = make_autoencoder(config)
    ema, _ = checkpoints.restore_ema(abstract_state(config, model))
    checkpoints.close()
    codec = Codec(model, ema["autoencoder"], Whitening.load(run.whitening), config.audio.sample_rate)
    recorded = run.record["fingerprints"]["autoencoder"]
    if codec.fingerprint != recorded:
        raise Refusal(
            f"The autoencoder in {run.path} has the fingerprint {codec.fingerprint}, but its record says {recorded}; "
            "a file was replaced: restore it, or train anew in another folder."
        )
    return codec


def make_autoencoder(config: ConfigDict) -> Autoencoder:
    """The configured autoencoder; refuses fields that do not fit together."""
    fields = config.autoencoder
    if len(fields.strides) != len(fields.channels) or fields.kernel_size % 2 == 0:
        raise Refusal("autoencoder.strides and autoencoder.channels need as many entries, and autoencoder.kernel_size is odd.")
    return Autoencoder(**config.autoencoder)


def players(config: ConfigDict, model: Autoencoder) -> dict[str, Player]:
    """The autoencoder, and its discriminator where a loss needs one."""
    training = config.train_autoencoder
    judge = Discriminator(tuple(training.adversary.windows), training.adversary.channels)
    args = lambda batch: (batch["audio"], batch["valid_samples"], batch["mask_key"][0], batch["ramp"][0], training)
    both = {
        "autoencoder": Player(
            init=partial(init_params, model=model),
            terms=lambda params, batch, _: autoencoder_terms(model, judge, params, *args(batch), config.audio.sample_rate),
            weights=dict(training.losses),
            optimizer=adamw(training)[0],
        ),
        "discriminator": Player(
            init=lambda key: judge.init(key, jnp.zeros((1, max(judge.windows), 2)))["params"],
            terms=lambda params, batch, _: discriminator_terms(model, judge, params, *args(batch)),
            weights={"discriminator": 1.0},
            optimizer=adamw(training, start=training.adversary.start)[0],
        ),
    }
    return both if adversarial(training) else {"autoencoder": both["autoencoder"]}


def init_params(key: Key[Array, ""], *, model: Autoencoder) -> PyTree:
    return model.init(key, jnp.zeros((1, model.hop, 2)))["params"]


def abstract_state(config: ConfigDict, model: Autoencoder) -> TrainState:
    """Shapes of what a checkpoint of this part holds."""
    return jax.eval_shape(lambda: init_state(players(config, model), jax.random.key(0)))


def draw(key: Key[Array, ""], step: Int[Array, ""], batch: Batch, *, config: ConfigDict) -> Batch:
    """The keys that mask the latents, one an example, so that every micro-batch has its own, and how far the adversary is in."""
    size = batch["audio"].shape[0]
    ramp = jnp.clip((step - config.adversary.start + 1) / max(config.adversary.ramp, 1), 0, 1)
    return batch | {"mask_key": jax.random.split(stream(key, "mask"), size), "ramp": jnp.full(size, ramp)}


def latent_moments(model: Autoencoder, params: PyTree, batches: Iterable[Mapping[str, Any]]) -> Moments:
    """Mean and covariance of the unmasked latents of all valid frames."""
    encode = jax.jit(lambda audio: model.apply({"params": params}, audio, method="encode"))
    moments = Moments.empty(model.latent_channels)
    for batch in batches:
        audio = np.pad(batch["audio"], ((0, 0), (0, -batch["audio"].shape[1] % model.hop), (0, 0)))
        latents = np.asarray(encode(audio))
        frames = -(-batch["valid_samples"] // model.hop)
        moments = moments.merge(Moments.of(latents[np.arange(latents.shape[1]) < frames[:, None]]))
    return moments


def whitening_error(whitening: Whitening, moments: Moments) -> tuple[float, float]:
    """How far whitened latents with these moments are from zero mean and identity covariance: root mean squares over entries."""
    scaled = whitening.basis / whitening.scale
    mean = (moments.mean - whitening.mean) @ scaled
    covariance = scaled.T @ moments.covariance @ scaled
    return float(np.sqrt(np.mean(mean**2))), float(np.sqrt(np.mean((covariance - np.eye(whitening.k)) ** 2)))
