"""The training step of a configuration, compiled ahead of time for chips that need not be there.

Everything is made from shapes: no run folder, no data and no device.
"""

import math
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jen1_jax import conditioning
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Whitening
from jen1_jax.flops import flops
from jen1_jax.models.autoencoder import make_autoencoder
from jen1_jax.models.diffusion import make_unet
from jen1_jax.sharding import BATCH_AXES, local_rows, make_mesh, shardings
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.text.t5 import T5Config
from jen1_jax.training.autoencoder_losses import make_trainables, uses_discriminator
from jen1_jax.training.checks import check_autoencoder_training, check_diffusion
from jen1_jax.training.diffusion_loss import make_trainable
from jen1_jax.training.draw import draw_autoencoder, draw_diffusion
from jen1_jax.training.optimizer import OPTIMIZERS
from jen1_jax.training.start import check_patterns
from jen1_jax.training.step import TrainState, init_state, jit_step
from jen1_numpy.errors import Refusal
from jen1_numpy.tokenizer import Tokenizer


@dataclass(frozen=True)
class Program:
    """A training step for a mesh.

    Attributes:
        step: (state, batch) -> (state, metrics), as a jitted function.
        state: the shapes of the state, with their shardings.
        batch: the shapes of a global batch, with theirs.
        training: the section `train_*` of the configuration.
    """

    mesh: Mesh
    step: Any
    state: TrainState
    batch: PyTree
    training: ConfigDict

    def lower(self) -> Any:
        with jax.set_mesh(self.mesh):
            return self.step.trace(self.state, self.batch, None).lower(
                lowering_platforms=(self.mesh.devices.flat[0].platform,)
            )


def topology(name: str, slices: int) -> list[Any]:
    """The devices of `slices` times the TPU slice `name`, like v5e:4x4."""
    import libtpu  # noqa: F401  (jax finds it by itself, and without it names another reason)
    from jax.experimental import topologies

    os.environ.update(
        TPU_SKIP_MDS_QUERY="1",  # without a TPU it would wait for a cloud machine's metadata
        TPU_WORKER_HOSTNAMES="localhost",  # and complain about these two
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # only the TPU itself is for one process alone
    )
    try:
        given = {"num_slices": slices} if slices > 1 else {}
        return topologies.get_topology_desc(name, "tpu", **given).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise Refusal(
            f"The TPU compiler knows no topology {name!r} ({reason.splitlines()[0]}); name one "
            "like v5e:4x4, v6e:16x16 or v5p:4x4x4."
        ) from None


def make_program(config: ConfigDict, part: str, devices: list[Any]) -> Program:
    """The step with which `part` ("diffusion" or "autoencoder") is trained on `devices`."""
    mesh = make_mesh(config, devices)
    training = config[f"train_{part}"]
    # Refuses a batch that cannot be split.
    _ = local_rows(mesh, training.batch_size, training.microbatches, process=0)
    trainables, draw, batch = PARTS[part](config)
    check_patterns(part, trainables, training)
    with jax.set_mesh(mesh):
        init = partial(init_state, trainables, average=training.ema_decay > 0)
        state = jax.eval_shape(lambda: init(jax.random.key(config.seed)))
        layout = shardings(state, mesh, config.mesh.rules)
        step = jit_step(
            trainables,
            draw,
            training,
            mesh=mesh,
            layout=layout,
            placement=config.mesh,
            seed=config.seed,
        )
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    rows = NamedSharding(mesh, P(BATCH_AXES))
    return Program(
        mesh,
        step,
        jax.tree.map(place, state, layout),
        jax.tree.map(lambda leaf: place(leaf, rows), batch),
        training,
    )


def model_flops(config: ConfigDict, part: str) -> int:
    """FLOPs of a step on the whole batch, as three forward passes (see `flops`).

    Those of the first trainable: a discriminator shares the autoencoder's passes, and what its own
    gradients need besides is left out.
    """
    trainables, draw, batch = PARTS[part](config)
    key = jax.eval_shape(lambda: jax.random.key(0))
    drawn = jax.eval_shape(draw, key, _shape((), jnp.int32), batch)
    params = jax.eval_shape(lambda: init_state(trainables, jax.random.key(0)).params)
    first = next(iter(trainables.values()))
    return 3 * flops(first.losses, params, drawn, None)


def _diffusion(config: ConfigDict) -> tuple[Any, Any, PyTree]:
    """Trainables, draw and batch of the diffusion model, on latents of the window's length."""
    check_diffusion(config)
    training, size = config.train_diffusion, config.train_diffusion.batch_size
    codec, text = _codec(config), _text(config)
    window = round(config.data.seconds * codec.frame_rate)
    batch = {
        "latents": _shape((size, window, codec.k), jnp.float16),
        "valid_frames": _shape((size,), jnp.int32),
        "text_lengths": _shape((size,), jnp.int32),
        "conditions": {
            name: {value: _shape((size,), jnp.float32) for value in each.names}
            for name, each in conditioning.chosen(config.unet.conditioning).items()
        },
    }
    if text.trainable:
        batch["tokens"] = _shape((size, text.max_length), jnp.int32)
    else:
        batch["text_embedding"] = _shape((size, text.max_length, text.features), jnp.float16)
    unet = make_unet(config, codec.k, text)
    optimizer = OPTIMIZERS[training.optimizer](training).transformation
    trainable = make_trainable(config, unet, codec, text, optimizer)
    draw = partial(draw_diffusion, config=config, hop=codec.hop, k=codec.k, window=window)
    return {"diffusion": trainable}, draw, batch


def _autoencoder(config: ConfigDict) -> tuple[Any, Any, PyTree]:
    """Trainables, draw and batch of the autoencoder, with its adversary where it has one."""
    check_autoencoder_training(config)
    training, size = config.train_autoencoder, config.train_autoencoder.batch_size
    model = make_autoencoder(config)
    samples = round(training.seconds * config.audio.sample_rate)
    batch = {
        "audio": _shape((size, samples - samples % model.hop, 2), jnp.int16),
        "valid_samples": _shape((size,), jnp.int32),
    }
    if uses_discriminator(training):
        batch["ramp"] = _shape((size,), jnp.float32)
    trainables = make_trainables(config, model, tuple(training.trained))
    return trainables, partial(draw_autoencoder, training=training), batch


PARTS = {"diffusion": _diffusion, "autoencoder": _autoencoder}


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _codec(config: ConfigDict) -> Codec:
    """An autoencoder without parameters, which knows its latents' rate and width."""
    channels = config.autoencoder.latent_channels
    kept = max(1, math.floor(config.whitening.keep * channels + 1e-9))
    whitening = Whitening(np.zeros(channels), np.eye(channels, kept), np.ones(kept))
    return Codec(make_autoencoder(config), {}, whitening, config.audio.sample_rate)


class _NoTokenizer(Tokenizer):
    """Only says how many tokens a caption is padded to: a plan reads no captions."""

    files = ()
    model = b""
    vocab_size = 0

    def __init__(self, max_length: int):
        self.max_length = max_length

    def ids(self, caption: str) -> list[int]:
        return []


def _text(config: ConfigDict) -> TextEncoder:
    """A text encoder without weights: trained with the U-Net, or as wide as the U-Net expects."""
    fields = {name: config.text[name] for name in config.text if name in T5Config.__annotations__}
    frozen = bool(config.text.encoder)
    if frozen:
        fields["d_model"] = config.unet.text_features
    return TextEncoder(
        config.text.encoder,
        T5Config(**fields),
        _NoTokenizer(config.text.max_length),
        config.text.dtype,
        fingerprint="",
        params={} if frozen else None,
    )
