"""The methods that a person calls, `generate` and the others, with modules of PyTorch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from jen1_numpy import generation
from jen1_numpy.options import SamplingOptions
from jen1_torch import conditioning
from jen1_torch.codec import Codec
from jen1_torch.sampling import LatentSampler, check_sampling
from jen1_torch.text import TextEncoder


class Generation(generation.Generation):
    """Generates with the modules of a trained model.

    Attributes:
        config: the configuration as nested dictionaries. Changes of its section "diffusion", such
            as of the sampler, count from the next call on.
        whole_windows: whether a piece shorter than a window is sampled as a whole window.
    """

    config: dict[str, Any]
    codec: Codec
    unet: nn.Module
    prompts: TextEncoder
    whole_windows: bool
    device: torch.device

    def progress(self, done: int, total: int) -> None:
        """Called before every step of sampling with the frames done and in all.

        Does nothing here. An exception that it raises ends the call.
        """

    @property
    def sampler(self) -> LatentSampler:
        frame_rate, grid = self.codec.frame_rate, self.unet.frames_multiple
        return LatentSampler(
            unet=self.unet,
            diffusion=self.config["diffusion"],
            conditioners=conditioning.chosen(self.config["unet"]["conditioning"]),
            window=round(self.config["data"]["seconds"] * frame_rate) // grid * grid,
            frame_rate=frame_rate,
            whole_windows=self.whole_windows,
            device=self.device,
        )

    def _settings(self, options: Mapping[str, Any], kind: type = SamplingOptions) -> dict[str, Any]:
        check_sampling(self.config["diffusion"])
        return super()._settings(options, kind)

    def _sampling(self, done: int, total: int) -> None:
        self.progress(done, total)

    def _encode(self, audio: np.ndarray) -> np.ndarray:
        return self.codec.encode(audio).cpu().numpy()

    def _decode(
        self, latents: np.ndarray, around: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        return self.codec.decode(torch.from_numpy(latents), around)
