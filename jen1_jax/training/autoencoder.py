"""Trains the masked autoencoder and, at the end, fits the whitening of its latents."""

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jaxtyping import Array, Int, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec, fingerprint, measure_margin
from jen1_jax.autoencoder.discriminator import ADVERSARIAL, Discriminator
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.objective import adversarial, autoencoder_terms, discriminator_terms
from jen1_jax.autoencoder.whitening import Whitening
from jen1_jax.autoencoder.whitening import check as check_whitening
from jen1_jax.autoencoder.whitening import fit as fit_whitening
from jen1_jax.config import from_plain
from jen1_jax.errors import Refusal
from jen1_jax.files import write_text
from jen1_jax.keys import named_key
from jen1_jax.models.autoencoder import init_autoencoder, load_codec, make_autoencoder
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run
from jen1_jax.sharding import make_mesh
from jen1_jax.training import principal
from jen1_jax.training.loop import Data, fit
from jen1_jax.training.step import Batch, Player, Terms, adamw
from jen1_jax.training.whitening import measure, whitening_error, whole_params


def train_autoencoder(
    config: ConfigDict,
    run: Run,
    data: Data,
    source: Run | None = None,
    progress: Callable[[str], None] = print,
) -> None:
    """Trains RUN/autoencoder to `config.train_autoencoder.steps`, then fits RUN/autoencoder/whitening.npz on the EMA encoder.

    With a `source` the stage is decoder-only: it starts from that run's autoencoder, keeps its encoder and whitening as they are,
    and trains the decoder on. Latents of the source stay valid, which the fingerprint says: it is the same.
    """
    if data.description["kind"] != "waveform":
        raise Refusal(
            f"{data.description['dir']} holds {data.description['kind']}; the autoencoder is trained on waveforms."
        )
    kept = load_codec(source) if source else None
    model = make_autoencoder(config)
    if (
        kept
        and model.clone(mask_rate=kept.model.mask_rate, mask_unit=kept.model.mask_unit)
        != kept.model
    ):
        raise Refusal(
            f"The autoencoder of {source.path} has another layout than this configuration; use the one it was trained with."
        )
    trained = Checkpoints.newest(run.checkpoints("autoencoder"))
    if (
        not kept
        and trained < config.train_autoencoder.steps
        and Checkpoints.newest(run.checkpoints("diffusion")) >= 0
    ):
        raise Refusal(
            f"{run.path} has a diffusion model, which would be lost if its autoencoder were trained on from step {trained}; "
            "train in another --workdir, or only its decoder: --workdir NEW --autoencoder RUN."
        )
    check_training(config)
    run = run.begin(config, "autoencoder")
    _, schedule = adamw(config.train_autoencoder)
    keeps = kept.fingerprint if kept else None

    def check(record: Mapping[str, Any]) -> None:
        if record["keeps_encoder"] != keeps:
            theirs = record["keeps_encoder"]
            way_out = (
                f"give --autoencoder with the run of the autoencoder {theirs[:12]}"
                if theirs
                else "leave --autoencoder out"
            )
            raise Refusal(
                f"{run.path} was begun {'' if theirs else 'not '}as a decoder-only stage; {way_out}."
            )
        before = from_plain(record["config"], "the checkpoint's configuration").train_autoencoder
        now = run.config.train_autoencoder
        held, asked = (
            adversarial(part) and (list(part.adversary.windows), part.adversary.channels)
            for part in (before, now)
        )
        if held != asked:
            raise Refusal(
                f"{run.path} was begun with the adversary (windows, channels) {held or 'off'}, and this configuration has "
                f"{asked or 'off'}: leave train_autoencoder.adversary and its losses as they were, or choose another --workdir."
            )

    if kept:
        start_from = {"autoencoder": kept.params}
    elif config.autoencoder.window and trained < 0:
        fresh = jax.jit(partial(init_autoencoder, model=model))(jax.random.key(config.seed))
        start_from = {"autoencoder": principal.begin(model, fresh, data.batches(0))}
    else:
        start_from = {}
    state = fit(
        "autoencoder",
        directory=run.path / "autoencoder",
        players=players(config, model, freeze_encoder=kept is not None),
        start_from=start_from,
        check=check,
        draw=draw,
        batches=lambda start: (
            prepare(step, batch, config.train_autoencoder)
            for step, batch in enumerate(data.batches(start), start)
        ),
        config=config.train_autoencoder,
        schedule=schedule,
        mesh=make_mesh(config),
        rules=config.mesh.rules,
        seed=config.seed,
        record=run.record | {"data": dict(data.description), "keeps_encoder": keeps},
        progress=progress,
    )
    if int(state.updates) == 0:
        raise Refusal(
            f"Every step of {run.path} was skipped, nothing was learnt; look for bad data with `jen1 data validate`."
        )
    params = whole_params(state.ema["autoencoder"])
    identify = partial(fingerprint, params, sample_rate=config.audio.sample_rate, hop=model.hop)
    recorded = run.record["fingerprints"].get("autoencoder")
    fitted = Whitening.load(run.whitening) if run.whitening.is_file() else None
    if fitted and identify(whitening=fitted) != recorded:
        fitted = None
    if fitted and run.measured.is_file():
        progress(
            f"autoencoder: {run.path} is already trained to step {config.train_autoencoder.steps}"
        )
        return
    progress("whitening: reading the training split")
    changed = (
        model.window or not kept
    )  # of what is measured: the encoder alone decides the rest, and it may be kept
    found = measure(model, params, data.sweep("train") if changed else (), progress)
    whitening = (
        kept.whitening if kept else fitted
    )  # fitted anew, it could change the fingerprint by a rounding
    whitening = whitening or fit_whitening(
        found.moments, config.whitening.keep, config.whitening.floor
    )
    codec = Codec(model, params, whitening, config.audio.sample_rate)
    margin = kept.margin if kept else measure_margin(codec, found.clips)
    if jax.process_count() > 1:  # each has other clips
        margin = int(multihost_utils.broadcast_one_to_all(np.int32(margin)))
    measured = {"margin": margin, "loudest": [round(float(level), 4) for level in found.loudest]}
    write_text(run.measured, json.dumps(measured))
    whitening.save(run.whitening)
    run.write(config, run.record["fingerprints"] | {"autoencoder": identify(whitening=whitening)})
    says = f"whitening: {whitening.k} of {model.latent_channels} directions kept"
    held_out = measure(model, params, data.sweep("test")).moments
    if held_out.count:
        mean, covariance = whitening_error(whitening, held_out)
        says += (
            f"; on held-out files the mean is off by {mean:.3f} and the covariance by {covariance:.3f} "
            "(root mean square over entries; 0 on the data it was fitted on)"
        )
    progress(says)


def check_training(config: ConfigDict) -> None:
    """Refuses settings of training that could only be found out, or lost, later."""
    training = config.train_autoencoder
    check_whitening(config.whitening.keep, config.whitening.floor)
    if not all(0 <= weight < math.inf for weight in training.losses.values()) or not any(
        training.losses.values()
    ):
        raise Refusal(
            f"train_autoencoder.losses are weights of at least 0, one of them above 0; got {training.losses.to_dict()}."
        )
    if training.losses.levels > 0 and not config.autoencoder.window:
        raise Refusal(
            "train_autoencoder.losses.levels compares STFT levels, which autoencoder.window of 0 does not have."
        )
    if training.losses.waveform > 0 and config.autoencoder.window:
        raise Refusal(
            "train_autoencoder.losses.waveform compares phases, and latents with autoencoder.window hold none; set it to 0."
        )
    if adversarial(training):
        _ = ADVERSARIAL[training.adversary.loss]  # refuses an unknown name
        if training.adversary.channels < 1 or training.adversary.start < 0:
            raise Refusal(
                "train_autoencoder.adversary.channels must be at least 1, and adversary.start at least 0."
            )
    used = {
        "stft_windows": training.stft_windows
        if training.losses.stft > 0 or training.losses.mel > 0
        else None
    }
    used["adversary.windows"] = training.adversary.windows if adversarial(training) else None
    for name, windows in used.items():
        if windows is not None and (
            not len(windows) or min(windows) < 16 or any(window % 4 for window in windows)
        ):
            raise Refusal(
                f"train_autoencoder.{name} are multiples of 4 samples from 16 on, and at least one; got {tuple(windows)}."
            )
    if min(training.steps, training.batch_size) < 1:
        raise Refusal("train_autoencoder.steps and batch_size must be at least 1.")
    hop = math.prod(config.autoencoder.strides)
    if round(training.seconds * config.audio.sample_rate) < hop:
        raise Refusal(
            f"train_autoencoder.seconds of {training.seconds} is less than one hop of {hop} samples; take longer crops."
        )


def players(
    config: ConfigDict, model: Autoencoder, freeze_encoder: bool = False
) -> dict[str, Player]:
    """The autoencoder, and its discriminator where a loss needs one."""
    training = config.train_autoencoder
    judge = Discriminator(
        tuple(training.adversary.windows), training.adversary.channels, config.autoencoder.dtype
    )
    args = lambda batch: (
        batch["audio"],
        batch["valid_samples"],
        batch["mask_key"][0],
        batch["ramp"][0] if "ramp" in batch else None,
        training,
    )

    def terms(params: PyTree, batch: Batch, _: PyTree) -> Terms:
        if freeze_encoder:
            own = params["autoencoder"]
            params = params | {
                "autoencoder": own | {"encoder": jax.lax.stop_gradient(own["encoder"])}
            }
        return autoencoder_terms(model, judge, params, *args(batch), config.audio.sample_rate)

    frozen = lambda params: {part: freeze_encoder and part == "encoder" for part in params}
    still = optax.masked(optax.set_to_zero(), frozen)  # weight decay included
    both = {
        "autoencoder": Player(
            init=partial(init_autoencoder, model=model),
            terms=terms,
            weights=dict(training.losses),
            optimizer=optax.chain(adamw(training)[0], still),
        ),
        "discriminator": Player(
            init=lambda key: judge.init(key, jnp.zeros((1, max(judge.windows), 2)))["params"],
            terms=lambda params, batch, _: discriminator_terms(model, judge, params, *args(batch)),
            weights={"discriminator": 1.0},
            optimizer=adamw(training, start=training.adversary.start)[0],
        ),
    }
    return both if adversarial(training) else {"autoencoder": both["autoencoder"]}


def prepare(step: int, batch: Mapping[str, Any], config: ConfigDict) -> dict[str, np.ndarray]:
    """What the device needs of a batch; from the adversary's start on also `ramp`, how far it is in (0 to 1, one an example).

    The step without it and the step with it are two compiled functions.
    """
    arrays = {name: batch[name] for name in ("audio", "valid_samples", "index")}
    ramp = (step - config.adversary.start + 1) / max(config.adversary.ramp, 1)
    if ramp > 0:
        arrays["ramp"] = np.full(len(batch["audio"]), min(ramp, 1), np.float32)
    return arrays


def draw(key: Key[Array, ""], step: Int[Array, ""], batch: Batch) -> Batch:
    """The keys that mask the latents, one an example, so that every micro-batch has its own."""
    return batch | {"mask_key": jax.random.split(named_key(key, "mask"), batch["audio"].shape[0])}
