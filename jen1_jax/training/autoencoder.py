"""Trains the masked autoencoder and, at the end, fits the whitening of its latents."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec, fingerprint, measure_margin
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.whitening import Whitening, fit_whitening
from jen1_jax.batch import as_float
from jen1_jax.config import from_plain
from jen1_jax.distributed import on_first
from jen1_jax.files import write_text
from jen1_jax.models.autoencoder import init_autoencoder, load_codec, make_autoencoder
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run
from jen1_jax.sharding import make_mesh
from jen1_jax.training import principal
from jen1_jax.training.autoencoder_losses import make_trainables, uses_discriminator
from jen1_jax.training.checks import check_autoencoder_training
from jen1_jax.training.draw import draw_autoencoder
from jen1_jax.training.held_out import EXAMPLES, first_clips, held_out_loss
from jen1_jax.training.inputs import autoencoder_inputs
from jen1_jax.training.loop import Data, fit
from jen1_jax.training.optimizer import adamw
from jen1_jax.training.start import source_run
from jen1_jax.training.whitening import CLIPS, measure, whitening_error, whole_params
from jen1_numpy.errors import Refusal

DECODER = ("^decoder/",)  # the parameters that a decoder-only stage trains


def train_autoencoder(
    config: ConfigDict,
    run: Run,
    data: Data,
    source: Run | None = None,
    progress: Callable[[str], None] = print,
) -> None:
    """Trains RUN/autoencoder to `config.train_autoencoder.steps`, then fits its whitening.

    With a `source` only the decoder is trained: it starts from that run's autoencoder and keeps its
    encoder and whitening. Latents of the source stay valid: the fingerprint is the same.
    """
    training = config.train_autoencoder
    if source and (training.init_from or training.trained):
        raise Refusal(
            "--autoencoder starts from a run and trains its decoder; leave it out, or "
            "train_autoencoder.init_from and trained."
        )
    if data.description["kind"] != "waveform":
        raise Refusal(
            f"{data.description['dir']} holds {data.description['kind']}; the autoencoder is "
            "trained on waveforms."
        )
    kept = load_codec(source) if source else None
    model = make_autoencoder(config)
    if source and kept and not _same_layout(model, kept.model):
        raise Refusal(
            f"The autoencoder of {source.path} has another layout than this configuration; use the "
            "one it was trained with."
        )
    trained = Checkpoints.newest(run.checkpoints("autoencoder"))
    unfinished = trained < training.steps
    if not kept and unfinished and Checkpoints.newest(run.checkpoints("diffusion")) >= 0:
        raise Refusal(
            f"{run.path} has a diffusion model, which would be lost if its autoencoder were "
            f"trained on from step {trained}; train in another --workdir, or only its decoder: "
            "--workdir NEW --autoencoder RUN."
        )
    check_autoencoder_training(config)
    on_first(lambda: run.begin(config, "autoencoder"))
    init_from = source or source_run(training.init_from, run, "autoencoder")
    if config.autoencoder.window and trained < 0 and init_from is None:
        fresh = jax.jit(partial(init_autoencoder, model=model))(jax.random.key(config.seed))
        start_from = {"autoencoder": principal.begin(model, fresh, map(as_float, data.batches(0)))}
    else:
        start_from = {}
    keeps = kept.fingerprint if kept else None
    trainables = make_trainables(config, model, DECODER if kept else tuple(training.trained))
    draw = partial(draw_autoencoder, training=training)
    clips = _held_out(data, config, model.hop)
    if clips is None:
        progress("There are no held-out clips: no held-out loss and no best checkpoint.")
    state = fit(
        "autoencoder",
        directory=run.path / "autoencoder",
        trainables=trainables,
        start_from=start_from,
        init_from=init_from,
        check=lambda record: _check_record(record, run, keeps),
        draw=draw,
        held_out=held_out_loss(trainables["autoencoder"], draw, clips) if clips else None,
        batches=lambda start, number, rows: (
            autoencoder_inputs(clips, step, training)
            for step, clips in enumerate(data.batches(number, rows=rows), start)
        ),
        training=training,
        schedule=adamw(training)[1],
        mesh=make_mesh(config),
        placement=config.mesh,
        seed=config.seed,
        audio_seconds=training.seconds,
        record=run.record | {"data": dict(data.description), "keeps_encoder": keeps},
        progress=progress,
    )
    if int(state.updates) == 0:
        raise Refusal(
            f"Every step of {run.path} was skipped, nothing was learnt; look for bad data with "
            "`jen1 data validate`."
        )
    _finish(config, run, data, model, whole_params(state.averaged["autoencoder"]), kept, progress)


def _held_out(data: Data, config: ConfigDict, hop: int) -> dict[str, np.ndarray] | None:
    """Crops of held-out clips; None if there are none. Their loss is without the adversary's."""
    training = config.train_autoencoder
    most = min(EXAMPLES, training.batch_size)
    clips = first_clips(data.sweep("test", limit=most), most)
    samples = round(training.seconds * config.audio.sample_rate)
    samples -= samples % hop
    if clips is None:
        return None
    valid = np.minimum(clips["valid_samples"], samples)
    return {"audio": clips["audio"][:, :samples], "valid_samples": valid}


def _same_layout(model: Autoencoder, other: Autoencoder) -> bool:
    """Whether two autoencoders differ in the mask of training at most."""
    return model.clone(mask_rate=other.mask_rate, mask_unit=other.mask_unit) == other


def _check_record(record: Mapping[str, Any], run: Run, keeps: str | None) -> None:
    """Refuses to go on from a checkpoint of another kind of training.

    `keeps` is the fingerprint of the autoencoder whose encoder is kept, None where there is none.
    """
    if (theirs := record["keeps_encoder"]) != keeps:
        remedy = "leave --autoencoder out"
        if theirs:
            remedy = f"give --autoencoder with the run of the autoencoder {theirs[:12]}"
        raise Refusal(
            f"{run.path} was begun {'' if theirs else 'not '}as a decoder-only stage; {remedy}."
        )
    before = from_plain(record["config"], "the checkpoint's configuration").train_autoencoder
    held, wanted = map(_adversary, (before, run.config.train_autoencoder))
    if held != wanted:
        raise Refusal(
            f"{run.path} was begun with the adversary (windows, channels) {held or 'off'}, and "
            f"this configuration has {wanted or 'off'}: leave train_autoencoder.adversary and its "
            "losses as they were, or choose another --workdir."
        )


def _adversary(config: ConfigDict) -> tuple[list[int], int] | None:
    """What the discriminator's parameters depend on, of a section `train_autoencoder`."""
    if not uses_discriminator(config):
        return None
    return list(config.adversary.windows), config.adversary.channels


def _finish(
    config: ConfigDict,
    run: Run,
    data: Data,
    model: Autoencoder,
    params: PyTree,
    kept: Codec | None,
    progress: Callable[[str], None],
) -> None:
    """Fits the whitening, measures margin and loudest levels, and records the fingerprint."""
    identify = partial(fingerprint, params, sample_rate=config.audio.sample_rate, hop=model.hop)
    recorded = run.record["fingerprints"].get("autoencoder")
    fitted = Whitening.load(run.whitening) if run.whitening.is_file() else None
    if fitted and identify(whitening=fitted) != recorded:
        fitted = None
    if fitted and run.measured.is_file():
        steps = config.train_autoencoder.steps
        progress(f"autoencoder: {run.path} is already trained to step {steps}")
        return
    progress("whitening: reading the training split")
    # With a kept encoder only the loudest levels of an autoencoder with a window are new.
    changed = model.window or not kept
    sweep = partial(data.sweep, limit=CLIPS, share=(jax.process_index(), jax.process_count()))
    found = measure(model, params, sweep("train") if changed else (), progress)
    # A whitening that is there already stays: fitted anew, it could differ by a rounding, and so
    # could the fingerprint.
    whitening = kept.whitening if kept else fitted
    whitening = whitening or fit_whitening(
        found.moments, config.whitening.keep, config.whitening.floor
    )
    codec = Codec(model, params, whitening, config.audio.sample_rate)
    margin = kept.margin if kept else measure_margin(codec, found.clips)
    if jax.process_count() > 1:  # each process has measured other clips
        margin = int(multihost_utils.broadcast_one_to_all(np.int32(margin)))
    measured = {"margin": margin, "loudest": [round(float(level), 4) for level in found.loudest]}

    def save():
        write_text(run.measured, json.dumps(measured))
        whitening.save(run.whitening)
        fingerprints = {"autoencoder": identify(whitening=whitening)}
        run.write(config, run.record["fingerprints"] | fingerprints)

    on_first(save)
    message = f"whitening: {whitening.k} of {model.latent_channels} directions kept"
    held_out = measure(model, params, sweep("test")).moments
    if held_out.count:
        mean, covariance = whitening_error(whitening, held_out)
        message += (
            f"; on held-out files the mean is off by {mean:.3f} and the covariance by "
            f"{covariance:.3f} (root mean square over entries; 0 on the data it was fitted on)"
        )
    progress(message)
