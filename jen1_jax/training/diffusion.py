"""Trains the omnidirectional U-Net, and the text encoder where it is not frozen.

On whitened latents, or on waveforms that are encoded in the step.
"""

from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from jen1_jax.distributed import on_first
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.diffusion import check_autoencoder, copy_autoencoder, make_unet
from jen1_jax.models.run import Run
from jen1_jax.sharding import local_layout, make_mesh
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.checks import check_data, check_diffusion
from jen1_jax.training.demos import Demos, Write
from jen1_jax.training.diffusion_loss import make_trainable
from jen1_jax.training.draw import draw_diffusion
from jen1_jax.training.held_out import EXAMPLES, first_clips, held_out_loss
from jen1_jax.training.hooks import Hook
from jen1_jax.training.inputs import diffusion_inputs
from jen1_jax.training.loop import Data, fit
from jen1_jax.training.optimizer import OPTIMIZERS
from jen1_jax.training.start import check_latents, source_run, take_vocabulary
from jen1_jax.training.text_gain import TextGain
from jen1_numpy.errors import Refusal


def train_diffusion(
    config: ConfigDict,
    run: Run,
    data: Data,
    autoencoder: Run | None = None,
    progress: Callable[[str], None] = print,
    write_demos: Write | None = None,
) -> None:
    """Trains RUN/diffusion to `config.train_diffusion.steps`.

    With the run's own autoencoder, or with a copy of the run `autoencoder`'s. `write_demos` makes
    examples at intervals. Raises `Refusal` for a run without a trained autoencoder, and for latents
    of another one.
    """
    check_diffusion(config)
    if autoencoder is not None:
        copy_autoencoder(autoencoder, run)
    codec = load_codec(run)
    window = check_data(config, data, codec, run)
    training = config.train_diffusion
    init_from = source_run(training.init_from, run, "diffusion")
    if init_from:
        check_latents(init_from, run, codec)
    on_first(lambda: run.begin(config, "diffusion"))
    if init_from:
        on_first(lambda: take_vocabulary(init_from, run, config))

    def open_text(captions=()):
        return TextEncoder.create(config.text, run.text, captions, local_layout(config))

    # The first process makes the folder, and the others open it.
    text = on_first(lambda: open_text(() if config.text.encoder else data.captions()))
    text = text or open_text()
    theirs = data.description.get("text_fingerprint", text.fingerprint)  # captions have none
    if theirs != text.fingerprint:
        raise Refusal(
            f"The embeddings in {data.description['dir']} come from another text encoder "
            f"(fingerprint {theirs[:12]}) than text.encoder ({text.fingerprint[:12]}), or from "
            "another max_length or dtype; encode the data as the configuration says, or without "
            "--text, in a new --workdir."
        )
    fingerprints = {"text": text.fingerprint}
    on_first(lambda: run.write(config, run.record["fingerprints"] | fingerprints))
    unet = make_unet(config, codec.k, text)
    optimizer, schedule = OPTIMIZERS[training.optimizer](training)
    waveforms = data.description["kind"] == "waveform"
    # What the encoder sees beyond a clip, and a hop more, since a clip may end within one.
    hops = min(codec.encoder_reach + 1, data.description["length"] // codec.hop)
    around = hops * codec.hop if waveforms else 0
    inputs = partial(diffusion_inputs, config=config, text=text)
    networks = {"config": config, "unet": unet, "codec": codec, "text": text}
    hooks: list[Hook] = [
        TextGain(data.sweep("test", around), inputs, window=window, progress=progress, **networks)
    ]
    if write_demos:
        held_out = partial(data.sweep, "test")
        hooks.append(Demos(write_demos, held_out, run=run, progress=progress, **networks))
    trainable = make_trainable(config, unet, codec, text, optimizer)
    draw = partial(draw_diffusion, config=config, hop=codec.hop, k=codec.k, window=window)
    # A batch of training fits into memory, and the mesh can split it.
    most = min(EXAMPLES, training.batch_size)
    clips = first_clips(data.sweep("test", around, limit=most), most)
    if clips is None:
        progress("There are no held-out clips: no held-out loss, no best checkpoint and no demos.")
    if not text.trainable and "text_fingerprint" not in data.description:
        progress(
            "The captions are embedded in every step, while the device waits; `jen1 data encode "
            "--text` embeds them once."
        )
    fit(
        "diffusion",
        directory=run.path / "diffusion",
        trainables={"diffusion": trainable},
        draw=draw,
        batches=lambda start, number, rows: map(inputs, data.batches(number, around, rows)),
        training=training,
        schedule=schedule,
        mesh=make_mesh(config),
        placement=config.mesh,
        seed=config.seed,
        audio_seconds=config.data.seconds,
        record=run.record | {"data": dict(data.description)},
        init_from=init_from,
        check=lambda record: check_autoencoder(run, record, codec),
        held_out=held_out_loss(trainable, draw, inputs(clips)) if clips else None,
        hooks=hooks,
        frozen={"autoencoder": codec.params} if waveforms else None,
        progress=progress,
    )
