"""Lets a training be heard: examples by the EMA at intervals."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.batch import Clips
from jen1_jax.config import to_plain
from jen1_jax.files import AnyPath, filled
from jen1_jax.models.denoiser import Denoiser
from jen1_jax.models.diffusion import Diffusion
from jen1_jax.models.run import Run
from jen1_jax.sharding import make_mesh
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.hooks import Hook
from jen1_jax.training.step import TrainState
from jen1_jax.training.whitening import whole_params
from jen1_numpy.errors import Refusal

# Writes into a folder what a model makes of a clip [samples, 2] and its caption.
Write = Callable[[Path, Run, Diffusion, Float[np.ndarray, "samples 2"], str], None]


class Demos(Hook):
    """Calls `write` for `RUN/diffusion/demos/STEP` every `train_diffusion.demos_every` steps.

    It gets the first held-out clip. All processes gather the parameters; the first one samples on
    one of its own devices while the others wait.
    """

    def __init__(
        self,
        write: Write,
        held_out: Callable[[], Iterable[Clips]],
        *,
        config: ConfigDict,
        run: Run,
        unet: Denoiser,
        codec: Codec,
        text: TextEncoder,
        progress: Callable[[str], None],
    ):
        self._write, self._held_out, self._config, self._run = write, held_out, config, run
        self._unet, self._codec, self._text = unet, codec, text
        self._progress = progress

    def due(self, step: int) -> bool:
        every = self._config.train_diffusion.demos_every
        return every > 0 and step % every == 0

    def evaluate(self, step: int, state: TrainState) -> Mapping[str, float]:
        params = whole_params(state.averaged["diffusion"])
        if jax.process_index() == 0:
            alone = ConfigDict({"mesh": {"axes": dict.fromkeys(self._config.mesh.axes, 1)}})
            with jax.set_mesh(make_mesh(alone, jax.local_devices()[:1])):
                self._make(self._run.path / "diffusion" / "demos" / str(step), params)
        return {}

    def _make(self, folder: AnyPath, params: PyTree) -> None:
        batch: Any = next(iter(self._held_out()), None)
        if batch is None:
            return
        if "audio" in batch:
            audio = batch["audio"][0, : batch["valid_samples"][0]]
        else:
            latents = batch["latents"][0, : batch["valid_frames"][0]]
            audio = self._codec.decode(np.asarray(latents, np.float32))
        text_params = params["text"] if self._text.trainable else self._text.params
        record = {"config": to_plain(self._config)}
        model = Diffusion(self._codec, self._text, text_params, self._unet, params["unet"], record)
        try:
            with filled(folder) as local:
                self._write(local, self._run, model, np.array(audio), str(batch["caption"][0]))
        except (Refusal, OSError, jax.errors.JaxRuntimeError) as error:
            self._progress(f"demos: {error}")  # it must not end the training
