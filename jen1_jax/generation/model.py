"""The API that a person calls: `load` a run, then `generate`, `vary`, `inpaint` and `extend`."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral, Real
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.config import override
from jen1_jax.errors import Refusal
from jen1_jax.generation.audio import MAX_SECONDS, Audio, as_stereo, crossfade, master
from jen1_jax.generation.sampling import SETTINGS, Plan, Prompts, Sampler
from jen1_jax.models.diffusion import check_sampling, load_diffusion
from jen1_jax.models.run import Run
from jen1_jax.text.prompts import TextEncoder

log = logging.getLogger(__name__)

EXTEND_FADE = 0.05  # seconds of the original's end that fade into their own reconstruction
INPAINT_FADE = 0.02  # seconds inside a span over which original and generated audio are mixed, at each of its ends

Progress = Callable[
    [str, int, int], None
]  # what is being done, latent frames done, and of how many


@dataclass(frozen=True)
class Model:
    """A trained run. Audio is float32 [samples, 2] in [-1, 1] at `sample_rate`; seeds reproduce on the same machine."""

    run: Run
    config: ConfigDict
    codec: Codec
    text: TextEncoder
    text_params: PyTree
    sampler: Sampler
    progress: Progress = field(default=lambda doing, done, total: None)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        progress: Progress = lambda doing, done, total: None,
        settings: Mapping[str, Any] = {},
    ) -> "Model":
        """The EMA weights of a run folder, sampled as its configuration says but for `settings`, by dotted key, of `SETTINGS`.

        Raises `Refusal` where a part is missing or belongs to another run, and for a setting that is none.
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
        trained = load_diffusion(run)
        codec, unet = trained.codec, trained.unet
        frames = config.data.seconds * codec.frame_rate
        if not unet.frames_multiple <= frames <= MAX_SECONDS * codec.frame_rate:
            raise Refusal(
                f"data.seconds of {config.data.seconds} is no length that this model samples at once; restore the run's."
            )
        window = round(frames)
        window -= window % unet.frames_multiple
        whole = (
            trained.trained["config"]["data"]["short_rate"] == 0
        )  # as it was trained, whatever config.json says now
        sampler = Sampler(unet, trained.params, config.diffusion, window, codec.frame_rate, whole)
        return cls(run, config, codec, trained.text, trained.text_params, sampler, progress)

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    def generate(
        self,
        prompt: str | Sequence[str] | np.ndarray,
        seconds: float | Sequence[float] | np.ndarray,
        seed: int | Sequence[int] | np.ndarray = 0,
        *,
        negative_prompt: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        start: float | Sequence[float] | np.ndarray = 0.0,
        total: float | Sequence[float | None] | np.ndarray | None = None,
    ) -> Audio | list[Audio]:
        """`seconds` of music for `prompt`; an empty prompt means unconditional. The run has defaults for the rest.

        Where prompt, seconds, seed, start or total are sequences or arrays, a list of pieces is made at once; what is single
        counts for all of them, and each piece is what it would be alone.

        A model with `unet.timing` makes a whole piece, unless it is asked for what lies `start` seconds into a piece of `total`
        seconds (default: to the end of what is made). Audio that the other methods are given has such a place too.
        """
        given = [
            value.tolist() if isinstance(value, np.ndarray) else value
            for value in (prompt, seconds, seed, start, total)
        ]
        several = [isinstance(value, Sequence) and not isinstance(value, str) for value in given]
        counts = {len(value) for value, more in zip(given, several, strict=True) if more}
        if len(counts) > 1 or 0 in counts:
            raise Refusal(
                f"Sequences of {sorted(counts)} prompts, seconds, seeds or places do not go together; give as many of each."
            )
        count = counts.pop() if counts else 1
        prompts, lengths, seeds, starts, totals = (
            list(value) if more else [value] * count
            for value, more in zip(given, several, strict=True)
        )
        samples = [self._samples(length) for length in lengths]
        plans = [
            self._placed(self._nothing(number), *place)
            for number, *place in zip(samples, starts, totals, strict=True)
        ]
        latents = self._fill(plans, prompts, seeds, negative_prompt, steps, guidance_scale)
        pieces = [
            master(self._decode(made)[:number], self.sample_rate)
            for made, number in zip(latents, samples, strict=True)
        ]
        return pieces if any(several) else pieces[0]

    def vary(
        self,
        audio: np.ndarray,
        prompt: str = "",
        strength: float = 0.6,
        seed: int = 0,
        *,
        sample_rate: int | None = None,
        negative_prompt: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        start: float = 0.0,
        total: float | None = None,
    ) -> Audio:
        """A variation of `audio`, as long: its latents under the noise of time `strength`, denoised for `prompt`.

        Near 0 it is the audio's round trip through the autoencoder, and at 1 nothing of it is left (SDEdit, Meng et al. 2022).
        """
        if not (isinstance(strength, Real) and 0 < strength <= 1):
            raise Refusal(
                f"A strength of {strength} makes no variation; give more than 0 and at most 1."
            )
        audio = as_stereo(audio, sample_rate or self.sample_rate, self.sample_rate)
        given = self.codec.encode(audio, partial(self.progress, "encoding"))
        plan = self._placed(replace(self._nothing(len(audio)), given=given), start, total)
        made = self._fill(
            [plan], [prompt], [seed], negative_prompt, steps, guidance_scale, time=strength
        )[0]
        return master(self._decode(made)[: len(audio)], self.sample_rate)

    def inpaint(
        self,
        audio: np.ndarray,
        spans: Sequence[tuple[float, float]] | np.ndarray,
        prompt: str = "",
        seed: int = 0,
        *,
        sample_rate: int | None = None,
        negative_prompt: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        start: float = 0.0,
        total: float | None = None,
    ) -> Audio:
        """`audio` with the `spans` (start, end in seconds) made anew; outside them it is the original, sample for sample.

        Spans that touch or overlap are one. `audio` is [samples] or [samples, channels] at `sample_rate` (default: the model's);
        what is not stereo at the model's rate is converted, and that is logged.
        """
        audio = as_stereo(audio, sample_rate or self.sample_rate, self.sample_rate)
        holes = self._spans(spans, len(audio))
        inside = np.zeros(len(audio), bool)
        for left, right in holes:
            inside[left:right] = True
        # The encoder looks across a hole's border: silence it first, or its content would leak into the context.
        result = np.where(inside[:, None], np.float32(0), audio)
        given = self.codec.encode(result, partial(self.progress, "encoding"))
        hop, frames = self.codec.hop, len(given)
        hole = np.pad(inside, (0, frames * hop - len(inside))).reshape(frames, hop).any(axis=1)
        margin = self.codec.margin
        near = np.convolve(hole, np.ones(2 * margin + 1))[margin : margin + frames] > 0
        edges = np.flatnonzero(np.diff(near, prepend=False, append=False))
        longest = int(
            (edges[1::2] - edges[::2]).max()
        )  # of frames without context: a sliver between two spans gives none
        limit = int(self.config.tasks.max_generated * self.sampler.window)
        if longest > limit:
            seconds = lambda frames: f"{frames / self.codec.frame_rate:.2f} s"
            raise Refusal(
                f"With the {seconds(margin)} beside it that give no context, a span comes to {seconds(longest)}, but this model "
                f"inpaints {seconds(limit)} at once; give shorter spans, one after the other."
            )
        plan = self._placed(
            Plan(given, ~near, ~hole, start=0.0, total=len(audio) / self.sample_rate), start, total
        )
        latents = self._fill(
            [plan], [prompt], [seed], negative_prompt, steps, guidance_scale, causal=False
        )[0]
        for left, right in holes:
            # Only what the hole's samples depend on is decoded.
            part = slice(
                max(left // hop - self.codec.decoder_reach, 0),
                -(-right // hop) + self.codec.decoder_reach,
            )
            first, nearby = part.start, slice(part.start * hop, part.stop * hop)
            made = self._decode(latents[part], (result[nearby], ~inside[nearby]))
            made = master(made[left - first * hop : right - first * hop], self.sample_rate)
            fade = min(int(INPAINT_FADE * self.sample_rate), len(made) // 2)
            if left > 0:
                made[:fade] = crossfade(audio[left : left + fade], made[:fade])
            if right < len(audio):
                made[len(made) - fade :] = crossfade(
                    made[len(made) - fade :], audio[right - fade : right]
                )
            result[left:right] = made
        return result

    def _decode(
        self,
        latents: Float[np.ndarray, "frames k"],
        around: tuple[Float[np.ndarray, "known 2"], Bool[np.ndarray, " known"]] | None = None,
    ) -> Audio:
        return self.codec.decode(
            latents, progress=partial(self.progress, "decoding"), around=around
        )

    def extend(
        self,
        audio: np.ndarray,
        seconds: float,
        prompt: str = "",
        seed: int = 0,
        *,
        sample_rate: int | None = None,
        negative_prompt: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        start: float = 0.0,
        total: float | None = None,
    ) -> Audio:
        """`audio` and `seconds` more of it; all but the last 50 ms of the original stay as they are, sample for sample."""
        audio = as_stereo(audio, sample_rate or self.sample_rate, self.sample_rate)
        added = self._samples(seconds)
        hop, margin = self.codec.hop, self.codec.margin
        # A window of context is all that the sampler reads; the margin before it is what the encoder needs to settle.
        # Frames are counted back from the end, so that the border lies between two of them.
        whole = min(len(audio) // hop, self.sampler.window + 2 * margin)
        tail = audio[len(audio) - whole * hop :]
        if whole <= margin:
            raise Refusal(
                f"The audio of {len(audio) / self.sample_rate:.2f} s is too short to go on from; "
                f"give at least {(margin + 1) * hop / self.sample_rate:.2f} s."
            )
        frames = -(-(len(tail) + added) // hop)
        given = np.zeros((frames, self.codec.k), np.float32)
        given[:whole] = self.codec.encode(tail)[:whole]
        position = np.arange(frames)
        plan = Plan(
            given,
            position < whole - margin,
            position < whole,
            start=(len(audio) - len(tail)) / self.sample_rate,
            total=(len(audio) + added) / self.sample_rate,
        )
        plan = self._placed(plan, start, total)
        latents = self._fill(
            [plan], [prompt], [seed], negative_prompt, steps, guidance_scale, causal=True
        )[0]
        fade = min(int(EXTEND_FADE * self.sample_rate), len(tail))
        # What fades is decoded anew: were it known too, the phases would jump at the end of the original instead.
        made = self._decode(latents, (tail, np.arange(len(tail)) < len(tail) - fade))
        made = master(made[len(tail) - fade : len(tail) + added], self.sample_rate)
        kept = len(audio) - fade
        return np.concatenate([audio[:kept], crossfade(audio[kept:], made[:fade]), made[fade:]])

    def _nothing(self, samples: int) -> Plan:
        """A piece of which nothing is known but its length."""
        nothing = np.zeros(-(-samples // self.codec.hop), bool)
        given = np.zeros((len(nothing), self.codec.k), np.float32)
        return Plan(given, nothing, nothing, start=0.0, total=samples / self.sample_rate)

    def _fill(
        self,
        plans: list[Plan],
        prompts: list[str],
        seeds: list[int],
        negative_prompt: str,
        steps: int | None,
        guidance_scale: float | None,
        causal: bool | None = None,
        time: float = 1.0,
    ) -> list[Float[np.ndarray, "frames k"]]:
        defaults = self.config.diffusion
        steps = defaults.sample_steps if steps is None else steps
        for text in (*prompts, negative_prompt):
            if not isinstance(text, str):
                raise Refusal(
                    f"{text!r} is no prompt; give text, and one negative prompt for all pieces."
                )
        if not (isinstance(steps, Integral) and steps >= 1):
            raise Refusal(f"{steps!r} steps cannot be taken; give a whole number, at least 1.")
        for seed in seeds:
            if not (isinstance(seed, Integral) and 0 <= seed < 2**32):
                raise Refusal(f"{seed!r} is no seed; give a whole number from 0 to {2**32 - 1}.")
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        if not (isinstance(scale, Real) and math.isfinite(scale)):
            raise Refusal(
                f"The guidance scale must be a finite number, and {scale!r} is not; 1 samples the model as it was trained."
            )
        if negative_prompt.strip() and scale == 1:
            log.warning("Without guidance (scale 1) the negative prompt has no effect.")
        if any(not prompt.strip() for prompt in prompts):
            log.warning("The prompt is empty: the music is unconditional.")
        return self.sampler.fill(
            plans,
            self._prompts(prompts, negative_prompt, guided=scale != 1),
            seeds=seeds,
            steps=steps,
            guidance_scale=scale,
            causal=causal,
            start=time,
            progress=partial(self.progress, "sampling"),
        )

    def _placed(self, plan: Plan, start: float, total: float | None) -> Plan:
        """The plan of what lies `start` seconds into a piece of `total` seconds."""
        if total is None and isinstance(start, Real) and start == 0:
            return plan
        if "timing" not in self.sampler.unet.conditioning:
            raise Refusal(
                "This model was trained without unet.timing and knows no place in a piece; leave start and total out."
            )
        if not (isinstance(start, Real) and 0 <= start < math.inf):
            raise Refusal(
                f"Nothing starts {start!r} seconds into a piece; give a number, at least 0."
            )
        end = start + plan.total
        if total is None:
            total = end
        elif not (isinstance(total, Real) and end - 1 / self.codec.frame_rate <= total < math.inf):
            raise Refusal(
                f"A piece of {total!r} seconds in total ends before what is made, at {end:.2f} s; give at least that."
            )
        return replace(plan, start=plan.start + start, total=total)

    def _prompts(self, prompts: list[str], negative_prompt: str, guided: bool) -> Prompts:
        """The embeddings that sampling needs, each different prompt's made once; none of the negative prompt without guidance."""
        wanted = [
            prompt if prompt.strip() else "" for prompt in [*prompts, *[negative_prompt] * guided]
        ]
        texts = list(dict.fromkeys(wanted))
        embedding, lengths = self._embed(texts)
        for text, length in zip(texts, lengths, strict=True):
            if length == self.text.max_length and self.text.tokenizer.truncated(text):
                log.warning(
                    "The prompt %r is longer than %d tokens: the rest of it is cut off.",
                    text,
                    self.text.max_length,
                )
        rows = np.array([texts.index(text) for text in wanted])
        own, negative = rows[: len(prompts)], np.repeat(rows[-1:], len(prompts))
        return Prompts(embedding[own], lengths[own], embedding[negative], lengths[negative])

    def _embed(
        self, texts: list[str]
    ) -> tuple[Float[Array, "texts tokens features"], Int[np.ndarray, " texts"]]:
        """Embeddings of texts and their numbers of tokens."""
        if not self.text.trainable:
            embedding, lengths = self.text.embed(texts)
            return jnp.asarray(embedding, jnp.float32), lengths
        tokens, lengths = self.text.tokenize(texts)
        apply = lambda *row: self.text.module.apply(
            {"params": self.text_params}, *map(jnp.asarray, row)
        )[0]
        rows = [
            apply(tokens[row, None], lengths[row, None]) for row in range(len(texts))
        ]  # no piece depends on its mates
        return jnp.stack(rows), lengths

    def _samples(self, seconds: float) -> int:
        if not (isinstance(seconds, Real) and 0 < seconds <= MAX_SECONDS):  # a NaN fails too
            raise Refusal(
                f"{seconds} seconds cannot be made; give a number above 0 and at most {MAX_SECONDS}."
            )
        return max(1, round(seconds * self.sample_rate))

    def _spans(
        self, spans: Sequence[tuple[float, float]] | np.ndarray, samples: int
    ) -> list[tuple[int, int]]:
        """The spans in samples, in order; those that touch or overlap are one."""
        try:
            pairs = sorted((float(start), float(end)) for start, end in spans)
        except (TypeError, ValueError):
            raise Refusal(
                f"The spans {spans!r} are not pairs; give a list of (start, end) in seconds."
            ) from None
        if not pairs:
            raise Refusal(
                "There is nothing to inpaint; give at least one span (start:end in seconds)."
            )
        length = samples / self.sample_rate
        holes = []
        for start, end in pairs:
            if not 0 <= start < end <= length + 0.5 / self.sample_rate:
                raise Refusal(
                    f"The span {start}:{end} is not inside the audio of {length:.2f} s; give 0 <= start < end <= {length:.2f}."
                )
            first, last = (
                round(start * self.sample_rate),
                min(round(end * self.sample_rate), samples),
            )
            if first == last:
                raise Refusal("A span is shorter than one sample; give a longer one.")
            if (
                holes and first <= holes[-1][1]
            ):  # they are one, or the fades where they meet would let the original back in
                before, end_before = holes.pop()
                first, last = before, max(end_before, last)
            holes.append((first, last))
        if holes == [(0, samples)]:
            raise Refusal("The spans cover the whole audio; use generate for that.")
        return holes
