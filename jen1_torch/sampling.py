"""Sampling of latents by a trained U-Net, window by window and step by step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from jen1_numpy.noise import Noise, by_window
from jen1_numpy.options import check_numbers
from jen1_numpy.prompts import Prompts
from jen1_numpy.windows import Piece, Request, Values, Window
from jen1_torch import conditioning
from jen1_torch.conditioning import Conditioner
from jen1_torch.diffusion import OBJECTIVES, corrupt, guide
from jen1_torch.samplers import Denoise, make_sampler, sample
from jen1_torch.schedules import earliest_time, make_schedule, sample_log_snrs, shift

BATCH = 16  # windows that are sampled at once, at most
# Up to this log-SNR a margin's frames are context. The noise there, .22 of the signal, is as large
# as the error in a margin's latents.
MARGIN_LOG_SNR = 3.0


@dataclass(frozen=True)
class LatentSampler:
    """A trained U-Net with its settings of sampling. It samples `window` frames at once."""

    unet: nn.Module
    diffusion: Mapping[str, Any]  # the section of the configuration
    conditioners: Mapping[str, Conditioner]
    window: int
    frame_rate: float  # latent frames per second
    # Without padding in training, a piece shorter than a window is sampled as a whole window.
    whole_windows: bool
    device: torch.device

    @torch.no_grad()
    def sample(
        self,
        requests: Sequence[Request],
        prompts: Prompts,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance_scale: float,
        causal: bool | None = None,
        strength: float = 1.0,
        noise: Noise | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[np.ndarray]:
        """The latents [frames, k] of whole pieces; all frames that are not given are generated.

        With `causal=None` a window is causal where it continues something, and bidirectional where
        it has nothing to continue. A `strength` below 1 begins with the requests' latents under the
        noise of that time. A piece's result depends on its own request, prompt and seed only.
        `noise` takes the place of the random noise from which windows start.

        `progress` is called before every step with the number of frames done and their total; an
        exception that it raises ends the sampling.
        """
        pieces = [
            Piece(
                request,
                self.window,
                self.unet.frames_multiple,
                self.frame_rate,
                self.whole_windows,
                self._conditions_at,
            )
            for request in requests
        ]
        if noise is not None:
            noise = by_window(noise, self.window, requests[0].latents.shape[1])
        total = sum(piece.missing() for piece in pieces)
        while rows := self._next_rows(pieces):
            batch = [pieces[row] for row in rows]
            places = [piece.window() for piece in batch]
            done = total - sum(piece.missing() for piece in pieces)
            new = sum(piece.missing(place) for piece, place in zip(batch, places, strict=True))
            frames = batch[0].window_frames
            inputs = self._inputs(
                [piece.inputs(place, causal) for piece, place in zip(batch, places, strict=True)],
                Prompts(*(each[rows] for each in prompts)),
            )
            numbers = [(row, piece.windows_done) for row, piece in zip(rows, batch, strict=True)]
            generators = [_generator(seeds[row], window) for row, window in numbers]
            shape = inputs.latents.shape[1:]
            fresh = lambda generators=generators, shape=shape: torch.stack(
                [torch.randn(shape, generator=each) for each in generators]
            ).to(self.device)
            if noise is None:
                start = fresh()
            else:
                given = np.stack([noise(*each) for each in numbers])
                start = torch.from_numpy(given).to(self.device)
            log_snrs = self._log_snrs(steps, strength, frames)
            level = log_snrs[:1] if strength < 1 else torch.tensor([-math.inf])
            sampled = sample(
                make_sampler(self.diffusion),
                self._denoiser(inputs, frames, log_snrs, guidance_scale),
                corrupt(inputs.latents, start, level.to(self.device)) * inputs.valid,
                log_snrs,
                fresh,
                lambda index, done=done, new=new: progress(done + new * index // steps, total),
            )
            for piece, place, latents in zip(batch, places, sampled.cpu().numpy(), strict=True):
                piece.fill(place, latents)
        return [piece.latents for piece in pieces]

    def _conditions_at(self, values: Values, seconds: float) -> Values:
        return {
            name: conditioner.window(values[name], seconds)
            for name, conditioner in self.conditioners.items()
        }

    def _next_rows(self, pieces: Sequence[Piece]) -> list[int]:
        """The next pieces to sample a window of, at most `BATCH`.

        With `diffusion.reference_frames` their windows have the same number of frames, since all
        windows of a batch have the same noise levels.
        """
        rows = [row for row, piece in enumerate(pieces) if piece.missing()]
        if self.diffusion["reference_frames"]:
            frames = [pieces[row].window_frames for row in rows]
            rows = [row for row, each in zip(rows, frames, strict=True) if each == frames[0]]
        return rows[:BATCH]

    def _log_snrs(self, steps: int, strength: float, frames: int) -> Tensor:
        """The noise levels [steps + 1] of windows with `frames` valid frames, on the CPU."""
        schedule, end = make_schedule(self.diffusion), earliest_time(self.diffusion)
        return shift(sample_log_snrs(schedule, steps, strength, end), frames, self.diffusion)

    def _inputs(self, windows: Sequence[Window], prompts: Prompts) -> "_Inputs":
        stack = lambda name: torch.from_numpy(
            np.stack([getattr(window, name) for window in windows])
        ).to(self.device)
        vectors = conditioning.embed(self.conditioners, [each.conditions for each in windows])
        return _Inputs(
            *map(stack, ("latents", "context", "given", "valid", "causal")),
            {name: vector.to(self.device) for name, vector in vectors.items()},
            Prompts(*(each.to(self.device) for each in prompts)),
        )

    def _denoiser(
        self, inputs: "_Inputs", frames: int, log_snrs: Tensor, guidance_scale: float
    ) -> Denoise:
        """The function from noisy to clean latents that the sampler calls.

        Margins are context until `MARGIN_LOG_SNR`, and never in the last of several steps.
        """
        latents, context, given, valid, causal, vectors, prompts = inputs
        objective = OBJECTIVES[self.diffusion["objective"]]
        guided = guidance_scale != 1
        twice = lambda x: torch.cat([x, x]) if guided else x
        text, lengths = prompts.text, prompts.lengths
        if guided:
            text = torch.cat([text, prompts.negative])
            lengths = torch.cat([lengths, prompts.negative_lengths])
        vectors = {name: twice(vector) for name, vector in vectors.items()}
        rest = text, lengths, twice(valid), twice(causal), vectors
        times = torch.tensor(self.diffusion["guidance_interval"], dtype=torch.float32)
        levels = make_schedule(self.diffusion).log_snr(times)
        last, first = shift(levels, frames, self.diffusion).tolist()
        margin = min(MARGIN_LOG_SNR, float(log_snrs[-2])) if len(log_snrs) > 2 else MARGIN_LOG_SNR

        def denoise(noisy: Tensor, log_snr: Tensor) -> Tensor:
            level = float(log_snr)
            shown = given if level < margin else context
            noisy = twice(noisy)
            level_of_each = torch.full((len(noisy),), level, device=self.device)
            known = [twice(x) for x in (latents * shown, shown.float())]
            prediction = self.unet(noisy, *known, level_of_each, *rest)
            clean = objective.clean(prediction, noisy, level_of_each)
            if guided:
                conditional, unconditional = clean.chunk(2)
                clean = guide(
                    conditional,
                    unconditional,
                    guidance_scale if first <= level <= last else 1.0,
                    ~given * valid,
                    rescale=self.diffusion["guidance_rescale"],
                    parallel=self.diffusion["guidance_parallel"],
                    limit=self.diffusion["guidance_limit"],
                )
            return torch.where(shown, latents, clean) * valid

        return denoise


class _Inputs(NamedTuple):
    """Windows that are sampled at once, with a first axis `batch`; see `Window`."""

    latents: Tensor
    context: Tensor
    given: Tensor
    valid: Tensor
    causal: Tensor
    vectors: Mapping[str, Tensor]  # of each conditioner, [batch, n]
    prompts: Prompts


def _generator(seed: int, window: int) -> torch.Generator:
    """Random numbers of one window; on the CPU, so that they are the same for every device."""
    mixed = np.random.SeedSequence((seed, window)).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]))


def check_sampling(diffusion: Mapping[str, Any]) -> None:
    """Refuses a section `diffusion` with which nothing can be sampled."""
    make_sampler(diffusion)
    make_schedule(diffusion)
    _ = OBJECTIVES[diffusion["objective"]]
    check_numbers(diffusion)
