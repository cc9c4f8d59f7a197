"""Trains the masked autoencoder and, at the end, fits the whitening of its latents."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.codec import Codec, fingerprint, measure_margin
from jen1_jax.autoencoder.discriminator import ADVERSARIAL, Discriminator
from jen1_jax.autoencoder.model import ACTIVATIONS, MASK_UNITS, Autoencoder
from jen1_jax.autoencoder.objective import adversarial, autoencoder_terms, discriminator_terms
from jen1_jax.autoencoder.whitening import Moments, Whitening
from jen1_jax.autoencoder.whitening import check as check_whitening
from jen1_jax.autoencoder.whitening import fit as fit_whitening
from jen1_jax.config import from_plain
from jen1_jax.errors import Refusal
from jen1_jax.run import Run, write_text
from jen1_jax.training import principal
from jen1_jax.training.checkpoints import Checkpoints
from jen1_jax.training.loop import Data, fit
from jen1_jax.training.mesh import make_mesh
from jen1_jax.training.step import Batch, Player, Terms, adamw, stream

MARGIN_CLIPS = 64  # that the margin is measured on
ROOM = 0.1  # units of levels, 3.5 dB: how much louder than in the training data a band may be decoded


def train_autoencoder(
    config: ConfigDict, run: Run, data: Data, source: Run | None = None, progress: Callable[[str], None] = print
) -> None:
    """Trains RUN/autoencoder to `config.train_autoencoder.steps`, then fits RUN/autoencoder/whitening.npz on the EMA encoder.

    With a `source` the stage is decoder-only: it starts from that run's autoencoder, keeps its encoder and whitening as they are,
    and trains the decoder on. Latents of the source stay valid, which the fingerprint says: it is the same.
    """
    if data.description["kind"] != "waveform":
        raise Refusal(f"{data.description['dir']} holds {data.description['kind']}; the autoencoder is trained on waveforms.")
    kept = load_codec(source) if source else None
    model = make_autoencoder(config)
    if kept and model.clone(mask_rate=kept.model.mask_rate, mask_unit=kept.model.mask_unit) != kept.model:
        raise Refusal(
            f"The autoencoder of {source.path} has another layout than this configuration; use the one it was trained with."
        )
    trained = Checkpoints.newest(run.checkpoints("autoencoder"))
    if not kept and trained < config.train_autoencoder.steps and Checkpoints.newest(run.checkpoints("diffusion")) >= 0:
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
            way_out = f"give --autoencoder with the run of the autoencoder {theirs[:12]}" if theirs else "leave --autoencoder out"
            raise Refusal(f"{run.path} was begun {'' if theirs else 'not '}as a decoder-only stage; {way_out}.")
        before = from_plain(record["config"], "the checkpoint's configuration").train_autoencoder
        now = run.config.train_autoencoder
        held, asked = (adversarial(part) and (list(part.adversary.windows), part.adversary.channels) for part in (before, now))
        if held != asked:
            raise Refusal(
                f"{run.path} was begun with the adversary (windows, channels) {held or 'off'}, and this configuration has "
                f"{asked or 'off'}: leave train_autoencoder.adversary and its losses as they were, or choose another --workdir."
            )

    if kept:
        start_from = {"autoencoder": kept.params}
    elif config.autoencoder.window and trained < 0:
        fresh = jax.jit(partial(init_params, model=model))(jax.random.key(config.seed))
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
            prepare(step, batch, config.train_autoencoder) for step, batch in enumerate(data.batches(start), start)
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
        raise Refusal(f"Every step of {run.path} was skipped, nothing was learnt; look for bad data with `jen1 data validate`.")
    params = _whole(state.ema["autoencoder"])
    identify = partial(fingerprint, params, sample_rate=config.audio.sample_rate, hop=model.hop)
    recorded = run.record["fingerprints"].get("autoencoder")
    fitted = Whitening.load(run.whitening) if run.whitening.is_file() else None
    if fitted and identify(whitening=fitted) != recorded:
        fitted = None
    if fitted and run.measured.is_file():
        progress(f"autoencoder: {run.path} is already trained to step {config.train_autoencoder.steps}")
        return
    progress("whitening: reading the training split")
    changed = model.window or not kept  # of what is measured: the encoder alone decides the rest, and it may be kept
    found = measure(model, params, data.sweep("train") if changed else (), progress)
    whitening = kept.whitening if kept else fitted  # fitted anew, it could change the fingerprint by a rounding
    whitening = whitening or fit_whitening(found.moments, config.whitening.keep, config.whitening.floor)
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


def load_codec(run: Run) -> Codec:
    """The run's trained autoencoder (EMA weights) with its whitening; a missing or foreign part is refused."""
    missing = f"The run {run.path} has no trained autoencoder; train it with `jen1 train autoencoder --workdir {run.path}`."
    config = run.config
    checkpoints = Checkpoints.existing(run.checkpoints("autoencoder"), missing)
    if not run.whitening.is_file() or "autoencoder" not in run.record["fingerprints"]:
        raise Refusal(f"The autoencoder of {run.path} is not trained to its end; run the same `jen1 train autoencoder` again.")
    model = make_autoencoder(config)
    params, _ = checkpoints.restore_ema("autoencoder", jax.eval_shape(partial(init_params, model=model), jax.random.key(0)))
    checkpoints.close()
    whitening = Whitening.load(run.whitening)
    codec = Codec(model, params, whitening, config.audio.sample_rate, **_load_measured(run.measured, model))
    recorded = run.record["fingerprints"]["autoencoder"]
    if codec.fingerprint != recorded:
        raise Refusal(
            f"The autoencoder in {run.path} has the fingerprint {codec.fingerprint}, but its record says {recorded}; "
            "a file was replaced: restore it, or train anew in another folder."
        )
    return codec


def _load_measured(path: Path, model: Autoencoder) -> dict[str, Any]:
    """The fields `loudest` and `margin` of a `Codec`, as `train_autoencoder` has measured and written them."""
    bands = spectrum.bands(model.window) if model.window else 0
    try:
        measured = json.loads(path.read_text())
        loudest, margin = np.asarray(measured["loudest"], np.float32), measured["margin"]
        if loudest.shape != (bands,) or not np.isfinite(loudest).all():
            raise ValueError(f"it holds no {bands} finite levels")
        if type(margin) is not int or not 0 <= margin <= model.encoder_reach:
            raise ValueError(f"its margin is not between 0 and {model.encoder_reach}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(
            f"{path} does not hold what was measured on the training data ({error}); delete it and run the same "
            "`jen1 train autoencoder` again."
        ) from None
    return {"margin": margin} | ({"loudest": loudest} if bands else {})


def make_autoencoder(config: ConfigDict) -> Autoencoder:
    """The configured autoencoder; refuses fields that do not fit together."""
    fields = config.autoencoder
    if not 4_000 <= config.audio.sample_rate <= 768_000:
        raise Refusal(f"audio.sample_rate must lie between 4,000 and 768,000 Hz; {config.audio.sample_rate} does not.")
    if not len(fields.strides) == len(fields.channels) > 0 or fields.kernel_size % 2 == 0:
        raise Refusal(
            "autoencoder.strides and autoencoder.channels need as many entries, at least one, and autoencoder.kernel_size is odd."
        )
    sizes = (*fields.strides, *fields.channels, *fields.dilations, fields.latent_channels, fields.kernel_size, fields.compress)
    if min(sizes) < 1 or fields.compress > min(fields.channels):
        raise Refusal(
            "autoencoder's strides, widths, dilations and compress are at least 1, and compress is no more than a width."
        )
    if fields.window and (fields.window % 8 or fields.window != 4 * fields.strides[0] or fields.causal):
        raise Refusal(
            f"autoencoder.window is a multiple of 8 samples and four times strides[0], without autoencoder.causal; "
            f"got {fields.window} with strides {tuple(fields.strides)} and causal={fields.causal}."
        )
    if fields.phase_iterations < (1 if fields.window else 0):
        raise Refusal(
            f"autoencoder.phase_iterations is at least 0, and with autoencoder.window at least 1, got {fields.phase_iterations}."
        )
    if not 0 <= fields.mask_rate < 1:
        raise Refusal(f"autoencoder.mask_rate is a share in [0, 1), got {fields.mask_rate}.")
    if fields.dtype not in ("float32", "bfloat16"):
        raise Refusal(f'autoencoder.dtype is "float32" or "bfloat16", not "{fields.dtype}".')
    _ = ACTIVATIONS[fields.activation], MASK_UNITS[fields.mask_unit]  # refuse unknown names
    return Autoencoder(**config.autoencoder)


def check_training(config: ConfigDict) -> None:
    """Refuses settings of training that could only be found out, or lost, later."""
    training = config.train_autoencoder
    check_whitening(config.whitening.keep, config.whitening.floor)
    if not all(0 <= weight < math.inf for weight in training.losses.values()) or not any(training.losses.values()):
        raise Refusal(
            f"train_autoencoder.losses are weights of at least 0, one of them above 0; got {training.losses.to_dict()}."
        )
    if training.losses.levels > 0 and not config.autoencoder.window:
        raise Refusal("train_autoencoder.losses.levels compares STFT levels, which autoencoder.window of 0 does not have.")
    if training.losses.waveform > 0 and config.autoencoder.window:
        raise Refusal(
            "train_autoencoder.losses.waveform compares phases, and latents with autoencoder.window hold none; set it to 0."
        )
    if adversarial(training):
        _ = ADVERSARIAL[training.adversary.loss]  # refuses an unknown name
        if training.adversary.channels < 1 or training.adversary.start < 0:
            raise Refusal("train_autoencoder.adversary.channels must be at least 1, and adversary.start at least 0.")
    used = {"stft_windows": training.stft_windows if training.losses.stft > 0 or training.losses.mel > 0 else None}
    used["adversary.windows"] = training.adversary.windows if adversarial(training) else None
    for name, windows in used.items():
        if windows is not None and (not len(windows) or min(windows) < 16 or any(window % 4 for window in windows)):
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


def players(config: ConfigDict, model: Autoencoder, freeze_encoder: bool = False) -> dict[str, Player]:
    """The autoencoder, and its discriminator where a loss needs one."""
    training = config.train_autoencoder
    judge = Discriminator(tuple(training.adversary.windows), training.adversary.channels, config.autoencoder.dtype)
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
            params = params | {"autoencoder": own | {"encoder": jax.lax.stop_gradient(own["encoder"])}}
        return autoencoder_terms(model, judge, params, *args(batch), config.audio.sample_rate)

    frozen = lambda params: {part: freeze_encoder and part == "encoder" for part in params}
    still = optax.masked(optax.set_to_zero(), frozen)  # weight decay included
    both = {
        "autoencoder": Player(
            init=partial(init_params, model=model),
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


def init_params(key: Key[Array, ""], *, model: Autoencoder) -> PyTree:
    return model.init(key, jnp.zeros((1, model.hop, 2)))["params"]


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
    return batch | {"mask_key": jax.random.split(stream(key, "mask"), batch["audio"].shape[0])}


class Measured(NamedTuple):
    """Of all valid frames of some data: the moments of the unmasked latents, and with a `window` each band's loudest level.

    `clips` are this process's random sample of at most `MARGIN_CLIPS` examples, the middle of each, for `measure_margin`.
    """

    moments: Moments
    loudest: Float[np.ndarray, " bands"]
    clips: list[Float[np.ndarray, "samples 2"]]


def measure(
    model: Autoencoder, params: PyTree, batches: Iterable[Mapping[str, Any]], progress: Callable[[str], None] = print
) -> Measured:
    """What `batches` give; processes share them and get the same answer.

    Examples whose latents are not finite are left out, and that is told: training has skipped them too.
    """

    @jax.jit
    def encode(params, audio):
        latents = model.apply({"params": params}, audio, method="encode")
        if not model.window:
            return latents, jnp.zeros((*latents.shape[:2], 0))
        levels = spectrum.analyse(audio, model.window)
        return latents, levels.reshape(*latents.shape[:2], -1, levels.shape[-1]).max(2)

    params = jax.device_put(params, jax.local_devices()[0])
    moments, left_out, size = Moments.empty(model.latent_channels), 0, 0
    loudest = np.zeros(spectrum.bands(model.window) if model.window else 0, np.float32)
    clips, seen, rng = [], 0, np.random.default_rng(0)
    most = 4 * model.encoder_reach * model.hop  # frames within reach of the middle, and what these depend on
    for batch in islice(batches, jax.process_index(), None, jax.process_count()):
        rows, samples, _ = batch["audio"].shape
        size = max(size, rows)  # the last batch may be smaller: padded, it needs no compiling of its own
        audio = np.pad(batch["audio"], ((0, size - rows), (0, -samples % model.hop), (0, 0)))
        latents, levels = (np.asarray(part)[:rows] for part in encode(params, audio))
        finite = np.isfinite(latents).all(axis=(1, 2))
        left_out += int((~finite).sum())
        frames = np.where(finite, -(-batch["valid_samples"] // model.hop), 0)
        real = np.arange(latents.shape[1]) < frames[:, None]
        for row in np.flatnonzero(finite):
            seen += 1  # a reservoir: every example is as likely to be in the sample
            place = len(clips) if len(clips) < MARGIN_CLIPS else int(rng.integers(seen))
            if place < MARGIN_CLIPS:
                valid = int(batch["valid_samples"][row])
                first = max(valid - most, 0) // 2
                clips[place : place + 1] = [np.array(batch["audio"][row, first : min(first + most, valid)])]
        moments = moments.merge(Moments.of(latents[real]))
        loudest = np.maximum(loudest, levels[real].max(0, initial=0))
    if left_out:
        progress(f"whitening: left out {left_out} examples that are not finite; `jen1 data validate` names them")
    if jax.process_count() > 1:
        loudest = np.asarray(multihost_utils.process_allgather(loudest)).max(0)
    return Measured(over_processes(moments), np.minimum(loudest + ROOM, spectrum.LOUDEST), clips)


def _whole(params: PyTree) -> PyTree:
    """Parameters as numpy arrays, gathered where several processes hold parts of them."""
    if jax.process_count() == 1:
        return jax.device_get(params)
    return multihost_utils.process_allgather(params, tiled=True)


def over_processes(moments: Moments) -> Moments:
    """Those of all processes' vectors together, of which each brings its own."""
    if jax.process_count() == 1:
        return moments
    channels = len(moments.mean)
    packed = np.concatenate([[moments.count], moments.mean, moments.covariance.ravel()])
    bits = np.asarray(multihost_utils.process_allgather(packed.view(np.uint32)))  # as bits: JAX would round float64 to float32
    total = Moments.empty(channels)
    for row in np.ascontiguousarray(bits).view(np.float64):
        total = total.merge(Moments(int(row[0]), row[1 : channels + 1], row[channels + 1 :].reshape(channels, channels)))
    return total


def whitening_error(whitening: Whitening, moments: Moments) -> tuple[float, float]:
    """How far whitened latents with these moments are from zero mean and identity covariance: root mean squares over entries."""
    scaled = whitening.basis / whitening.scale
    mean = (moments.mean - whitening.mean) @ scaled
    covariance = scaled.T @ moments.covariance @ scaled
    return float(np.sqrt(np.mean(mean**2))), float(np.sqrt(np.mean((covariance - np.eye(whitening.k)) ** 2)))
