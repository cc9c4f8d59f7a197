"""Sampling latents with a trained U-Net: guidance, given frames, and windows for pieces longer than those of training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from ml_collections import ConfigDict
from scipy import ndimage

from jen1_jax.diffusion.guidance import guide
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.diffusion.samplers import make_sampler, sample
from jen1_jax.diffusion.schedules import make_schedule, sample_log_snrs
from jen1_jax.layers.embeddings import timing_features
from jen1_jax.models.denoiser import Denoiser

BATCH = 16  # windows that are sampled at once, at most
# Up to here a margin's frames are context: the noise, .22 of the signal, is about what silence behind the border does to them.
MARGIN_LOG_SNR = 3.0
# Of the configuration, what a trained model can be sampled with in another way than its run says.
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


@dataclass(frozen=True)
class Plan:
    """What is known of a piece before it is made.

    `trusted` frames keep their given latents, and the network sees them as context. The other `known` frames, the margin at a
    border, are treated so only while there is much noise (`MARGIN_LOG_SNR`): what is made must go on from them, but their latents
    are somewhat wrong, since the encoder saw across the border. With little noise left, the network corrects them.

    The first frame lies `start` seconds into the piece, and the whole piece lasts `total` seconds.
    """

    given: Float[np.ndarray, "frames k"]
    trusted: Bool[np.ndarray, " frames"]
    known: Bool[np.ndarray, " frames"]
    start: float
    total: float


class Prompts(NamedTuple):
    """What each piece shall sound like, and unlike: embeddings and numbers of tokens, 0 being nothing."""

    text: Float[Array, "pieces tokens features"]
    lengths: Int[np.ndarray, " pieces"]
    negative: Float[Array, "pieces tokens features"]
    negative_lengths: Int[np.ndarray, " pieces"]


class _Piece:
    """A piece on its way: what of it is done, and which window is next."""

    def __init__(self, plan: Plan, size: int, grid: int, frame_rate: float, whole: bool):
        missing = max(size - len(plan.given), 0) if whole else 0
        self.latents = np.pad(
            plan.given.astype(np.float32), ((0, missing), (0, 0)), mode="wrap"
        )  # a variation goes on as it is
        self.trusted, self.known = (
            np.pad(frames, (0, missing)) for frames in (plan.trusted, plan.known)
        )
        self.frames = len(plan.given)
        self._total = max(plan.total, plan.start + size / frame_rate) if missing else plan.total
        self.number, self._size, self._grid = (
            0,
            size,
            grid,
        )  # of windows done; frames of a window, and between two beginnings
        self._plan, self._frame_rate = plan, frame_rate

    @property
    def missing(self) -> int:
        return int((~self.known[: self.frames]).sum())

    def window(self, causal: bool | None) -> tuple[slice, bool]:
        """The frames to sample next, from the left, and whether in causal mode."""
        first, size = int(np.argmin(self.known)), self._size
        run = int(np.argmax(np.append(self.known[first:], True)))
        # A hole sits in the middle of its window; what is longer, or never ends, goes on from half a window of context.
        hole = run < size and self.known[first:].any()
        lead = (size - run) // 2 if hole else size // 2
        # As in training, windows begin on the U-Net's grid, counted from the piece's beginning.
        before = round(self._plan.start * self._frame_rate)
        place = (before + first - lead) / self._grid
        start = (round(place) if hole else math.floor(place)) * self._grid - before
        if hole:  # which its window must hold all the same
            start = np.clip(start, first + run - size, first)
        start = int(np.clip(start, 0, max(len(self.known) - size, 0)))
        return slice(start, start + size), bool(
            self.trusted[start:first].any() if causal is None else causal
        )

    def inputs(self, window: slice) -> tuple[np.ndarray, ...]:
        """Latents, trusted, known and valid frames of a window, padded to its size, and its `start` and `total` seconds."""
        parts = (
            self.latents[window],
            self.trusted[window, None],
            self.known[window, None],
            np.ones_like(self.known[window, None]),
        )
        pad = lambda x: np.pad(x, ((0, self._size - len(x)), (0, 0)))
        latents, trusted, known, valid = map(pad, parts)
        timing = np.float32([self._plan.start + window.start / self._frame_rate, self._total])
        return latents, trusted.astype(np.float32), known, valid.astype(np.float32), timing

    def fill(self, window: slice, latents: Float[np.ndarray, "frames k"]) -> None:
        before, made = self.latents[window], latents[: len(self.latents[window])]
        unknown, margin = ~self.known[window], self.known[window] & ~self.trusted[window]
        corrected = ndimage.binary_propagation(
            unknown, mask=unknown | margin
        )  # beside what was made here
        self.latents[window] = np.where((margin & ~corrected)[:, None], before, made)
        self.trusted[window] |= (
            corrected  # the rest of a margin waits for the window of its own hole
        )
        self.known[window] = True
        self.number += 1


@dataclass(frozen=True)
class Sampler:
    """A trained U-Net with its diffusion settings; `window` is the number of frames that it was trained on at once."""

    unet: Denoiser
    params: PyTree
    config: ConfigDict  # the section `diffusion`
    window: int
    frame_rate: float  # latent frames per second
    # A model that has seen no padding samples a piece shorter than a window as a whole window, which is cut then.
    whole: bool = True

    def fill(
        self,
        plans: Sequence[Plan],
        prompts: Prompts,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance_scale: float,
        causal: bool | None = None,
        start: float = 1.0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Float[np.ndarray, "frames k"]]:
        """The pieces' latents, with everything that is not known generated, window by window from the left.

        `causal=None` lets each window choose: bidirectional with nothing to go on from, causal as a continuation. A `start` below
        1 begins with the given latents under the noise of that time. A piece's result depends on its own plan, prompt and seed;
        batches are filled up to powers of two, so that few sizes are compiled.
        """
        pieces = [
            _Piece(plan, self.window, self.unet.frames_multiple, self.frame_rate, self.whole)
            for plan in plans
        ]
        total = sum(piece.missing for piece in pieces)
        while rows := [row for row, piece in enumerate(pieces) if piece.missing][:BATCH]:
            progress(total - sum(piece.missing for piece in pieces), total)
            windows = {row: pieces[row].window(causal) for row in rows}
            padded = [rows[n % len(rows)] for n in range(1 << (len(rows) - 1).bit_length())]
            inputs = jax.tree.map(
                lambda *parts: np.stack(parts),
                *[pieces[row].inputs(windows[row][0]) for row in padded],
            )
            latents = self._run(
                self.params,
                jnp.stack(
                    [
                        jax.random.fold_in(jax.random.key(seeds[row]), pieces[row].number)
                        for row in padded
                    ]
                ),
                *inputs,
                np.array([windows[row][1] for row in padded]),
                Prompts(*(jnp.asarray(array)[np.array(padded)] for array in prompts)),
                jnp.float32(guidance_scale),
                jnp.float32(start),
                steps,
                guidance_scale != 1,
            )
            for row, filled in zip(rows, np.asarray(latents), strict=False):
                pieces[row].fill(windows[row][0], filled)
        return [piece.latents[: piece.frames] for piece in pieces]

    @cached_property
    def _run(self):
        config, schedule, sampler = (
            self.config,
            make_schedule(self.config),
            make_sampler(self.config),
        )
        objective = OBJECTIVES[config.objective]
        guidance = {
            "rescale": config.guidance_rescale,
            "parallel": config.guidance_parallel,
            "limit": config.guidance_limit,
        }

        def run(
            params: PyTree,
            keys: Key[Array, " batch"],
            given: Float[Array, "batch frames k"],
            trusted: Float[Array, "batch frames 1"],
            known: Bool[Array, "batch frames 1"],
            valid: Float[Array, "batch frames 1"],
            timing: Float[Array, "batch 2"],
            causal: Bool[Array, " batch"],
            prompts: Prompts,
            scale: Float[Array, ""],
            start: Float[Array, ""],
            steps: int,
            guided: bool,
        ) -> Float[Array, "batch frames k"]:
            twice = lambda x: jnp.concatenate([x, x]) if guided else x
            text, lengths = prompts.text, prompts.lengths
            if guided:
                text = jnp.concatenate([text, prompts.negative])
                lengths = jnp.concatenate([lengths, prompts.negative_lengths])
            conditioning = (
                {"timing": twice(timing_features(*timing.T))}
                if "timing" in self.unet.conditioning
                else {}
            )
            rest = text, lengths, twice(valid), twice(causal), conditioning
            last, first = schedule.log_snr(jnp.asarray(config.guidance_interval, jnp.float32))

            log_snrs = sample_log_snrs(schedule, steps, start)
            margin_until = (
                jnp.minimum(MARGIN_LOG_SNR, log_snrs[-2]) if steps > 1 else MARGIN_LOG_SNR
            )  # the last step corrects

            def denoise(noisy, log_snr):
                noisy, level = twice(noisy), twice(log_snr)
                shown = jnp.where(log_snr[:, None, None] < margin_until, known, trusted > 0)
                context = [twice(x) for x in (given * shown, shown.astype(jnp.float32))]
                prediction = self.unet.apply({"params": params}, noisy, *context, level, *rest)
                clean = objective.clean(prediction, noisy, level)
                if guided:
                    inside = (log_snr[0] >= first) & (log_snr[0] <= last)
                    clean = guide(
                        *jnp.split(clean, 2),
                        jnp.where(inside, scale, 1.0),
                        (1 - known) * valid,
                        **guidance,
                    )
                return jnp.where(shown, given, clean) * valid

            noise = jax.vmap(lambda key: jax.random.normal(key, given.shape[1:]))(keys)
            alpha, sigma = scales(log_snrs[0])
            noisy = jnp.where(start < 1, alpha * given + sigma * noise, noise)
            return sample(sampler, denoise, noisy * valid, log_snrs, keys)

        return jax.jit(run, static_argnums=(11, 12))
