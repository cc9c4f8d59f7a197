"""Sampling of latents by a trained U-Net, window by window and step by step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Key, PyTree
from ml_collections import ConfigDict

from jen1_jax import conditioning
from jen1_jax.conditioning import conditioner
from jen1_jax.diffusion import samplers
from jen1_jax.diffusion.guidance import guide
from jen1_jax.diffusion.objectives import OBJECTIVES, scales
from jen1_jax.diffusion.schedules import (
    earliest_time,
    make_schedule,
    sample_log_snrs,
    shift,
)
from jen1_jax.models.denoiser import Denoiser
from jen1_numpy.noise import Noise, by_window
from jen1_numpy.prompts import Prompts
from jen1_numpy.windows import Piece, Request, Values, Window

BATCH = 16  # windows that are sampled at once, at most
# Up to this log-SNR a margin's frames are context. The noise there, .22 of the signal, is as large
# as the error in a margin's latents.
MARGIN_LOG_SNR = 3.0


class Batch(NamedTuple):
    """Windows that are sampled at once, each with its prompt, the noise that it starts from, and
    the random key of a sampler's further noise.

    With `diffusion.reference_frames` all of them have the same number of valid frames.
    """

    windows: Window
    prompts: Prompts
    noise: Float32[Array, "batch frames k"]
    keys: Key[Array, " batch"]


class Step(NamedTuple):
    """One step of sampling: its number, its two noise levels, and how the network is used."""

    number: Int[Array, ""]
    log_snr: Float32[Array, ""]
    next_log_snr: Float32[Array, ""]
    margin_log_snr: Float32[Array, ""]  # margins are context below it
    guidance_scale: Float32[Array, ""]


class Snapshot(NamedTuple):
    """Sampling before one of its steps: frames done and in all, and what is being denoised.

    `windows` has the slice of each piece by its row; `state.clean` holds the current estimates of
    their clean latents, in the same order.
    """

    done: int
    total: int
    windows: Mapping[int, slice]
    state: samplers.State


@dataclass(frozen=True)
class LatentSampler:
    """A trained U-Net with its settings of sampling. It samples `window` frames at once.

    `sample` does everything, and `iterate` does it step by step. `start`, `step` and `latents` are
    their parts, for one batch of windows:

        log_snrs = sampler.log_snrs(steps)
        state = sampler.start(batch)
        for index in range(steps):
            state = sampler.step(batch, state, index, log_snrs, guidance_scale)
        latents = sampler.latents(state)

    After each step, `state.clean` is the current estimate of the clean latents.
    """

    unet: Denoiser
    params: PyTree
    diffusion: ConfigDict  # the section of the configuration
    window: int
    frame_rate: float  # latent frames per second
    # Without padding in training, a piece shorter than a window is sampled as a whole window.
    whole_windows: bool = True

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
    ) -> list[Float[np.ndarray, "frames k"]]:
        """The latents of whole pieces, in which all frames that are not given are generated.

        With `causal=None` a window is causal where it continues something, and bidirectional where
        it has nothing to continue. A `strength` below 1 begins with the requests' latents under the
        noise of that time. A piece's result depends on its own request, prompt and seed only.
        `noise` takes the place of the random noise that windows start from. Batches are filled up
        to powers of two, so that few sizes are compiled.

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
        for snapshot in self.iterate(
            pieces,
            prompts,
            seeds=seeds,
            steps=steps,
            guidance_scale=guidance_scale,
            causal=causal,
            strength=strength,
            noise=noise,
        ):
            progress(snapshot.done, snapshot.total)
        return [piece.latents for piece in pieces]

    def iterate(
        self,
        pieces: Sequence[Piece],
        prompts: Prompts,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance_scale: float,
        causal: bool | None = None,
        strength: float = 1.0,
        noise: Noise | None = None,
    ) -> Iterator[Snapshot]:
        """Samples the missing frames of `pieces`, which change, and stops before each step.

        For previews and cancelling; see `sample` for the arguments.
        """
        if noise is None:
            noise = lambda row, window: self.noise(seeds[row], window)
        start_noise = by_window(noise, self.window, self.unet.out_channels)
        total = sum(piece.missing() for piece in pieces)
        while rows := self._next_rows(pieces):
            log_snrs = self.log_snrs(steps, strength, pieces[rows[0]].window_frames)
            done = total - sum(piece.missing() for piece in pieces)
            windows = {row: pieces[row].window() for row in rows}
            new = sum(pieces[row].missing(windows[row]) for row in rows)
            padded = [rows[n % len(rows)] for n in range(1 << (len(rows) - 1).bit_length())]
            inputs = [pieces[row].inputs(windows[row], causal) for row in padded]
            starts = {row: start_noise(row, pieces[row].windows_done) for row in rows}
            keys = [_key(seeds[row], pieces[row].windows_done) for row in padded]
            batch = Batch(
                jax.device_put(jax.tree.map(lambda *parts: np.stack(parts), *inputs)),
                Prompts(*(jnp.asarray(array)[np.array(padded)] for array in prompts)),
                jnp.stack([starts[row] for row in padded]),
                jnp.stack(keys),
            )
            state = self.start(batch, float(log_snrs[0]) if strength < 1 else -np.inf)
            for index in range(steps):
                yield Snapshot(done + new * index // steps, total, windows, state)
                before, state = state, self.step(batch, state, index, log_snrs, guidance_scale)
                jax.block_until_ready(before)  # so that the caller is at most one step ahead
            latents = np.asarray(self.latents(state))
            for row, sampled in zip(rows, latents, strict=False):
                pieces[row].fill(windows[row], sampled)

    @property
    def conditioners(self) -> dict[str, conditioner.Conditioner]:
        return conditioning.chosen(self.unet.conditioning)

    def _conditions_at(self, values: Values, seconds: float) -> PyTree:
        """As `Conditions`, of one number per value."""
        one = lambda value: np.full(1, value, np.float32)
        used = jax.tree.map(one, {name: values[name] for name in self.conditioners})
        moved = conditioner.window(self.conditioners, used, one(seconds), one(np.inf))
        return jax.tree.map(lambda value: np.asarray(value[0], np.float32), moved)

    def _next_rows(self, pieces: Sequence[Piece]) -> list[int]:
        """The next pieces to sample a window of, at most `BATCH`.

        With `diffusion.reference_frames` their windows have the same number of frames, since all
        windows of a batch have the same noise levels.
        """
        rows = [row for row, piece in enumerate(pieces) if piece.missing()]
        if self.diffusion.reference_frames:
            frames = [pieces[row].window_frames for row in rows]
            rows = [row for row, each in zip(rows, frames, strict=True) if each == frames[0]]
        return rows[:BATCH]

    def log_snrs(
        self, steps: int, strength: float = 1.0, frames: int | None = None
    ) -> Float32[np.ndarray, " {steps}+1"]:
        """The noise levels before and after each step, of windows with `frames` valid frames.

        By default these are whole windows.
        """
        schedule, end = make_schedule(self.diffusion), earliest_time(self.diffusion)
        log_snrs = sample_log_snrs(schedule, steps, strength, end)
        frames = self.window if frames is None else frames
        return np.asarray(shift(log_snrs, frames, self.diffusion))

    def noise(self, seed: int, window: int) -> Float32[np.ndarray, "frames k"]:
        """The random noise from which a window of the piece with this seed starts."""
        shape = self.window, self.unet.out_channels
        return np.asarray(jax.random.normal(_key(seed, window), shape))

    def start(self, batch: Batch, log_snr: float = -np.inf) -> samplers.State:
        """The state before the first step: the latents at `log_snr`, or noise alone at -inf."""
        return self._start(batch, np.float32(log_snr))

    def step(
        self,
        batch: Batch,
        state: samplers.State,
        index: int,
        log_snrs: Float32[np.ndarray, " levels"],
        guidance_scale: float,
    ) -> samplers.State:
        """The state after step `index`. Another number of steps or scale compiles nothing.

        Margins are context until `MARGIN_LOG_SNR`, and never in the last of several steps.
        """
        margin = min(MARGIN_LOG_SNR, log_snrs[-2]) if len(log_snrs) > 2 else MARGIN_LOG_SNR
        step = Step(
            jnp.int32(index),
            log_snr=jnp.float32(log_snrs[index]),
            next_log_snr=jnp.float32(log_snrs[index + 1]),
            margin_log_snr=jnp.float32(margin),
            guidance_scale=jnp.float32(guidance_scale),
        )
        return self._step(self.params, batch, state, step, guided=guidance_scale != 1)

    def latents(self, state: samplers.State) -> Float[Array, "batch frames k"]:
        """The windows' latents after the last step."""
        return self._method.latents(state)

    @cached_property
    def _method(self) -> samplers.Sampler:
        return samplers.make_sampler(self.diffusion)

    @cached_property
    def _start(self):
        def start(batch: Batch, log_snr: Float[Array, ""]) -> samplers.State:
            latents, valid = batch.windows.latents, batch.windows.valid
            alpha, sigma = scales(log_snr)
            return self._method.start((alpha * latents + sigma * batch.noise) * valid)

        return jax.jit(start)

    @cached_property
    def _step(self):
        diffusion, schedule = self.diffusion, make_schedule(self.diffusion)
        objective = OBJECTIVES[diffusion.objective]
        guidance = {
            "rescale": diffusion.guidance_rescale,
            "parallel": diffusion.guidance_parallel,
            "limit": diffusion.guidance_limit,
        }

        def step(
            params: PyTree, batch: Batch, state: samplers.State, step: Step, guided: bool
        ) -> samplers.State:
            latents, context, given, valid, conditions, causal = batch.windows
            prompts = batch.prompts
            twice = lambda x: jnp.concatenate([x, x]) if guided else x
            text, lengths = prompts.text, prompts.lengths
            if guided:
                text = jnp.concatenate([text, prompts.negative])
                lengths = jnp.concatenate([lengths, prompts.negative_lengths])
            vectors = jax.tree.map(twice, conditioner.embed(self.conditioners, conditions))
            rest = text, lengths, twice(valid), twice(causal), vectors
            times = jnp.asarray(diffusion.guidance_interval, jnp.float32)
            frames = jnp.sum(valid[0]).astype(jnp.int32)
            last, first = shift(schedule.log_snr(times), frames, diffusion)

            def denoise(noisy, log_snr):
                noisy, level = twice(noisy), twice(log_snr)
                shown = jnp.where(log_snr[:, None, None] < step.margin_log_snr, given, context)
                inputs = [twice(x) for x in (latents * shown, shown.astype(jnp.float32))]
                prediction = self.unet.apply({"params": params}, noisy, *inputs, level, *rest)
                clean = objective.clean(prediction, noisy, level)
                if guided:
                    inside = (log_snr[0] >= first) & (log_snr[0] <= last)
                    scale = jnp.where(inside, step.guidance_scale, 1.0)
                    conditional, unconditional = jnp.split(clean, 2)
                    counts = jnp.logical_not(given) * valid
                    clean = guide(conditional, unconditional, scale, counts, **guidance)
                return jnp.where(shown, latents, clean) * valid

            return self._method.step(
                denoise, state, step.number, step.log_snr, step.next_log_snr, batch.keys
            )

        return jax.jit(step, static_argnames="guided")


def _key(seed: int, window: int) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.key(seed), window)
