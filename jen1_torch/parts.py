"""What the methods of `Generation` consist of: requests, sampling, encoding and decoding."""

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn

from jen1_numpy.audio import MAX_SECONDS, as_stereo, master
from jen1_numpy.errors import Refusal
from jen1_numpy.options import (
    SamplingOptions,
    check_place,
    check_seed,
    condition_values,
    resolve,
)
from jen1_numpy.windows import Request
from jen1_torch import conditioning
from jen1_torch.codec import Codec
from jen1_torch.sampling import LatentSampler, check_sampling
from jen1_torch.text import TextEncoder, embed_prompts


class Parts:
    """The parts of a trained model, and how they are used.

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

    def _settings(self, options: Mapping[str, Any], kind: type = SamplingOptions) -> dict[str, Any]:
        check_sampling(self.config["diffusion"])
        return resolve(options, self.config["diffusion"], kind)

    def _stereo(self, audio: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
        rate = self.codec.sample_rate
        return as_stereo(audio, settings["sample_rate"] or rate, rate)

    def _samples(self, seconds: float) -> int:
        if not (isinstance(seconds, Real) and 0 < seconds <= MAX_SECONDS):  # a NaN fails too
            raise Refusal(
                f"{seconds} seconds cannot be generated; "
                f"give a number above 0 and at most {MAX_SECONDS}."
            )
        return max(1, round(seconds * self.codec.sample_rate))

    def _request(self, samples: int) -> Request:
        """A piece of `samples` samples of which nothing is given."""
        latents = np.zeros((-(-samples // self.codec.hop), self.codec.k), np.float32)
        return Request.without_given(latents, samples / self.codec.sample_rate)

    def _conditioned(
        self, request: Request, start: float, total: float | None, conditions: Mapping[str, Any]
    ) -> Request:
        """The request with its place in a piece of `total` seconds, and with other conditions."""
        conditioners = self._conditioners()
        request = replace(request, conditions=condition_values(conditioners, conditions))
        if total is None and isinstance(start, Real) and start == 0:
            return request
        if "timing" not in conditioners:
            raise Refusal(
                'This model was trained without the conditioner "timing" and knows no place in a '
                "piece; leave start and total out."
            )
        start, total = check_place(start, total, request.total, 1 / self.codec.frame_rate)
        return replace(request, start=request.start + start, total=total)

    def _conditioners(self) -> dict[str, conditioning.Conditioner]:
        return conditioning.chosen(self.config["unet"]["conditioning"])

    def _sampler(self) -> LatentSampler:
        frame_rate, grid = self.codec.frame_rate, self.unet.frames_multiple
        return LatentSampler(
            unet=self.unet,
            diffusion=self.config["diffusion"],
            conditioners=self._conditioners(),
            window=round(self.config["data"]["seconds"] * frame_rate) // grid * grid,
            frame_rate=frame_rate,
            whole_windows=self.whole_windows,
            device=self.device,
        )

    def _sample(
        self,
        requests: list[Request],
        prompts: list[str],
        seeds: list[int],
        settings: Mapping[str, Any],
        causal: bool | None = None,
        strength: float = 1.0,
    ) -> list[np.ndarray]:
        for seed in seeds:
            check_seed(seed)
        scale = settings["guidance_scale"]
        negative = settings["negative_prompt"]
        return self._sampler().sample(
            requests,
            embed_prompts(self.prompts, prompts, negative, guided=scale != 1),
            seeds=seeds,
            steps=settings["steps"],
            guidance_scale=scale,
            causal=causal,
            strength=strength,
            noise=settings["noise"],
            progress=self.progress,
        )

    def _encode(self, audio: np.ndarray) -> np.ndarray:
        return self.codec.encode(audio).cpu().numpy()

    def _decode(
        self, latents: np.ndarray, around: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        return self.codec.decode(torch.from_numpy(latents), around)

    def _decoded_hole(
        self, latents: np.ndarray, silenced: np.ndarray, inside: np.ndarray, left: int, right: int
    ) -> np.ndarray:
        """The generated samples from `left` to `right`; decodes only the frames that they need."""
        hop, reach = self.codec.hop, self.codec.decoder_reach
        first, last = max(left // hop - reach, 0), -(-right // hop) + reach
        nearby = slice(first * hop, last * hop)
        generated = self._decode(latents[first:last], (silenced[nearby], ~inside[nearby]))
        generated = generated[left - first * hop : right - first * hop]
        return master(generated, self.codec.sample_rate)
