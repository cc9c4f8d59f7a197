"""The API that a person calls: `load` a run, then `generate`, `vary`, `inpaint` and `extend`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.config import override
from jen1_jax.generation.prompts import PromptEncoder
from jen1_jax.generation.sampling import LatentSampler
from jen1_jax.models.diffusion import Diffusion, check_sampling, load_diffusion
from jen1_jax.models.run import Run
from jen1_jax.text.prompts import TextEncoder
from jen1_numpy.audio import MAX_SECONDS, Audio
from jen1_numpy.errors import Refusal
from jen1_numpy.generation import Generation, Latents

# The fields of the configuration that may differ from the run's when a trained model is sampled.
SETTINGS = (
    "diffusion.sampler",
    "diffusion.eta",
    "diffusion.sample_steps",
    "diffusion.guidance_scale",
    "diffusion.guidance_interval",
    "diffusion.guidance_rescale",
    "diffusion.guidance_parallel",
    "diffusion.guidance_limit",
)

# What is done at the moment ("encoding", "sampling", "decoding"), frames done, and frames in all.
# It is called before every step; an exception that it raises ends the call.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Model(Generation):
    """A trained run, ready to generate; see `Generation` for its methods."""

    run: Run
    config: ConfigDict
    codec: Codec
    text: TextEncoder
    text_params: PyTree
    sampler: LatentSampler
    progress: Progress = field(default=lambda doing, done, total: None)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        progress: Progress = lambda doing, done, total: None,
        settings: Mapping[str, Any] = {},
    ) -> "Model":
        """The model of a run folder, with its EMA weights.

        `settings` replace fields of the run's configuration by dotted key; `SETTINGS` names those
        that can be replaced. Raises `Refusal` for another one, and where a part of the run is
        missing or belongs to another run.
        """
        run = Run.open(path)
        config = run.config
        for key, value in settings.items():
            if key not in SETTINGS:
                raise Refusal(
                    f"{key!r} is no setting of sampling; those are {', '.join(SETTINGS)}."
                )
            value = value.item() if isinstance(value, np.generic) else value
            override(config, key, value if isinstance(value, str) else repr(value))
        check_sampling(config.diffusion)
        return cls.of(run, config, load_diffusion(run), progress)

    @classmethod
    def of(
        cls,
        run: Run,
        config: ConfigDict,
        trained: Diffusion,
        progress: Progress = lambda doing, done, total: None,
    ) -> "Model":
        """The model of a run whose networks are given, with the settings of `config`."""
        codec, unet = trained.codec, trained.unet
        frames = config.data.seconds * codec.frame_rate
        if not unet.frames_multiple <= frames <= MAX_SECONDS * codec.frame_rate:
            raise Refusal(
                f"The model cannot sample windows of data.seconds = {config.data.seconds}; "
                "restore the value that the run was trained with."
            )
        window = round(frames)
        window -= window % unet.frames_multiple
        # From the record of the training: config.json may have been edited since.
        whole_windows = trained.trained["config"]["data"]["short_rate"] == 0
        sampler = LatentSampler(
            unet, trained.params, config.diffusion, window, codec.frame_rate, whole_windows
        )
        return cls(run, config, codec, trained.text, trained.text_params, sampler, progress)

    @property
    def prompts(self) -> PromptEncoder:  # type: ignore[override]
        return PromptEncoder(self.text, self.text_params)

    def _encode(self, audio: Audio) -> Latents:
        return self.codec.encode(audio, partial(self.progress, "encoding"))

    def _decode(
        self,
        latents: Latents,
        around: tuple[Float[np.ndarray, "known 2"], Bool[np.ndarray, " known"]] | None = None,
    ) -> Audio:
        progress = partial(self.progress, "decoding")
        return self.codec.decode(latents, progress=progress, around=around)

    def _sampling(self, done: int, total: int) -> None:
        self.progress("sampling", done, total)
