"""Sampling latents with a trained U-Net: guidance, given frames, and windows for pieces longer than the training examples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from jen1_jax.diffusion.guidance import guide
from jen1_jax.diffusion.objectives import OBJECTIVES
from jen1_jax.diffusion.samplers import SAMPLERS
from jen1_jax.diffusion.schedules import make_schedule, sample_log_snrs
from jen1_jax.unet import UNet


@dataclass(frozen=True)
class Plan:
    """What is known of a piece before it is made.

    `trusted` frames go to the network as context. `known` frames, all trusted ones and the margin around a border, keep their
    given latents whatever the network says: an encoder sees across the border, so the network was never shown such frames as
    context, and yet they must agree with the audio that is there.
    """

    given: Float[np.ndarray, "frames k"]
    trusted: Bool[np.ndarray, " frames"]
    known: Bool[np.ndarray, " frames"]


@dataclass(frozen=True)
class Sampler:
    """A trained U-Net with its diffusion settings; `window` is the number of frames of its training examples."""

    unet: UNet
    params: PyTree
    config: ConfigDict  # the section `diffusion`
    window: int

    def fill(
        self,
        plan: Plan,
        text: Float[Array, "tokens features"],
        text_length: int,
        *,
        seed: int,
        steps: int,
        guidance_scale: float,
        causal: bool | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float[np.ndarray, "frames k"]:
        """The piece's latents, with everything that is not known generated, window by window from the left.

        `causal=None` lets each window choose: bidirectional with nothing to go on from, causal as a continuation.
        """
        latents, trusted, known = plan.given.astype(np.float32), plan.trusted.copy(), plan.known.copy()
        frames, size, total = len(latents), self.window, int((~plan.known).sum())
        for number in range(frames):
            unknown = np.flatnonzero(~known)
            progress(total - len(unknown), total)
            if len(unknown) == 0:
                break
            first = unknown[0]
            run = int(np.argmax(np.append(known[first:], True)))
            # A hole sits in the middle of its window; what is longer than a window goes on from half a window of context.
            lead = (size - run) // 2 if run < size else size // 2
            if not known[first:].any():
                lead = size // 2
            start = int(np.clip(first - lead, 0, max(frames - size, 0)))
            part = slice(start, start + size)
            continues = trusted[start:first].any() if causal is None else causal
            filled = self._sample(
                latents[part], trusted[part], known[part], text, text_length, continues, (seed, number), steps, guidance_scale
            )
            latents[part], trusted[part], known[part] = filled, True, True
        return latents

    def _sample(self, given, trusted, known, text, text_length, causal, seeds, steps, guidance_scale) -> np.ndarray:
        frames = len(given)
        pad = lambda x: jnp.asarray(np.pad(x, [(0, self.window - frames)] + [(0, 0)] * (x.ndim - 1)), jnp.float32)[None]
        seed, number = seeds
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), number), (1, self.window, given.shape[1]))
        latents = self._run(
            self.params,
            noise,
            pad(given),
            pad(trusted[:, None]),
            pad(known[:, None]),
            pad(np.ones((frames, 1))),
            jnp.array([causal]),
            text[None],
            jnp.array([text_length], jnp.int32),
            jnp.float32(guidance_scale),
            steps,
            text_length > 0 and guidance_scale != 1,
        )
        return np.asarray(latents[0, :frames])

    @cached_property
    def _run(self):
        schedule, objective = make_schedule(self.config), OBJECTIVES[self.config.objective]
        sampler = SAMPLERS[self.config.sampler]

        def run(
            params: PyTree,
            noise: Float[Array, "batch frames k"],
            given: Float[Array, "batch frames k"],
            trusted: Float[Array, "batch frames 1"],
            known: Float[Array, "batch frames 1"],
            valid: Float[Array, "batch frames 1"],
            causal: Bool[Array, " batch"],
            text: Float[Array, "batch tokens features"],
            text_lengths: Int[Array, " batch"],
            scale: Float[Array, ""],
            steps: int,
            guided: bool,
        ) -> Float[Array, "batch frames k"]:
            twice = lambda x: jnp.concatenate([x, x]) if guided else x
            lengths = jnp.concatenate([text_lengths, jnp.zeros_like(text_lengths)]) if guided else text_lengths
            fixed = [twice(x) for x in (given * trusted, trusted)]

            def denoise(noisy, log_snr):
                prediction = self.unet.apply(
                    {"params": params}, twice(noisy), *fixed, twice(log_snr), twice(text), lengths, twice(valid), twice(causal)
                )
                if guided:
                    prediction = guide(*jnp.split(prediction, 2), scale)
                clean = objective.clean(prediction, noisy, log_snr)
                return jnp.where(known > 0, given, clean) * valid

            return sampler(denoise, noise * valid, sample_log_snrs(schedule, steps))

        return jax.jit(run, static_argnums=(10, 11))
