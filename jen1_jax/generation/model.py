"""The API that a person calls: `load` a run, then `generate`, `vary`, `inpaint` and `extend`."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any, Unpack

import numpy as np
from jaxtyping import Bool, Float, PyTree
from ml_collections import ConfigDict

from jen1_jax.autoencoder.codec import Codec
from jen1_jax.config import override
from jen1_jax.generation.prompts import embed_prompts
from jen1_jax.generation.sampling import LatentSampler
from jen1_jax.models.diffusion import Diffusion, check_sampling, load_diffusion
from jen1_jax.models.run import Run
from jen1_jax.text.prompts import TextEncoder
from jen1_numpy.audio import MAX_SECONDS, Audio, as_stereo, crossfade, master
from jen1_numpy.errors import Refusal
from jen1_numpy.options import (
    AudioOptions,
    SamplingOptions,
    check_place,
    check_seed,
    condition_values,
    place_of,
    resolve,
)
from jen1_numpy.spans import check_longest, frames_around, merged_spans
from jen1_numpy.windows import Request

EXTEND_FADE = 0.05  # seconds of the original's end that fade into their own reconstruction
INPAINT_FADE = 0.02  # seconds at each end of a span over which original and new audio are mixed

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
class Model:
    """A trained run, ready to generate.

    Audio is float32 [samples, 2] in [-1, 1] at `sample_rate`. All four methods take the keywords of
    `SamplingOptions`, and those that are given audio `AudioOptions`. The same seed gives the same
    music on the same machine.
    """

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
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    def generate(
        self,
        prompt: str | Sequence[str] | np.ndarray,
        seconds: float | Sequence[float] | np.ndarray,
        seed: int | Sequence[int] | np.ndarray = 0,
        **options: Unpack[SamplingOptions],
    ) -> Audio | list[Audio]:
        """`seconds` of music for `prompt`; with an empty prompt it is unconditional.

        Where prompt, seconds, seed, start, total or conditions are sequences or arrays, the result
        is a list of pieces. A single value then counts for all of them. Each piece is what it would
        be alone.
        """
        settings = resolve(options, dict(self.config.diffusion))
        values = [prompt, seconds, seed, *place_of(settings).values()]
        values = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
        several = [isinstance(value, Sequence) and not isinstance(value, str) for value in values]
        counts = {len(value) for value, many in zip(values, several, strict=True) if many}
        if len(counts) > 1 or 0 in counts:
            raise Refusal(
                f"Sequences of {sorted(counts)} prompts, seconds, seeds or places do not go "
                "together; give as many of each."
            )
        count = counts.pop() if counts else 1
        prompts, lengths, seeds, *places = (
            list(value) if many else [value] * count
            for value, many in zip(values, several, strict=True)
        )
        samples = [self._samples(length) for length in lengths]
        requests = [
            self._conditioned(self._request(number), *place)
            for number, *place in zip(samples, *places, strict=True)
        ]
        latents = self._sample(requests, prompts, seeds, settings)
        pieces = [
            master(self._decode(piece)[:number], self.sample_rate)
            for piece, number in zip(latents, samples, strict=True)
        ]
        return pieces if any(several) else pieces[0]

    def vary(
        self,
        audio: np.ndarray,
        prompt: str = "",
        strength: float = 0.6,
        seed: int = 0,
        **options: Unpack[AudioOptions],
    ) -> Audio:
        """A variation of `audio`, of the same length (SDEdit, Meng et al. 2022).

        The audio's latents get the noise of the time `strength`, above 0 and up to 1, and are
        denoised for `prompt`. With little strength the result is the audio's round trip through the
        autoencoder; with a strength of 1 nothing of the audio is left.
        """
        settings = resolve(options, dict(self.config.diffusion), AudioOptions)
        if not (isinstance(strength, Real) and 0 < strength <= 1):
            raise Refusal(
                f"A strength of {strength} gives no variation; give more than 0 and at most 1."
            )
        audio = self._stereo(audio, settings)
        latents = self.codec.encode(audio, partial(self.progress, "encoding"))
        request = Request.without_given(latents, len(audio) / self.sample_rate)
        request = self._conditioned(request, **place_of(settings))
        [latents] = self._sample([request], [prompt], [seed], settings, strength=strength)
        return master(self._decode(latents)[: len(audio)], self.sample_rate)

    def inpaint(
        self,
        audio: np.ndarray,
        spans: Sequence[tuple[float, float]] | np.ndarray,
        prompt: str = "",
        seed: int = 0,
        **options: Unpack[AudioOptions],
    ) -> Audio:
        """`audio` with new music in the `spans` (start, end in seconds).

        Outside the spans the result is the original, sample for sample. Spans that touch or overlap
        are one span. `audio` is [samples] or [samples, channels]; audio that is not stereo at the
        model's rate is converted, which is logged.
        """
        settings = resolve(options, dict(self.config.diffusion), AudioOptions)
        audio = self._stereo(audio, settings)
        holes = merged_spans(spans, len(audio), self.sample_rate)
        inside = np.zeros(len(audio), bool)
        for left, right in holes:
            inside[left:right] = True
        # The encoder reads across a span's border. Silence in the span keeps the audio that is to
        # be replaced out of the context.
        silenced = np.where(inside[:, None], np.float32(0), audio)
        latents = self.codec.encode(silenced, partial(self.progress, "encoding"))
        context, given = frames_around(inside, len(latents), self.codec.hop, self.codec.margin)
        longest = int(self.config.tasks.max_generated * self.sampler.window)
        check_longest(context, longest, self.codec.margin, self.codec.frame_rate)
        request = Request(latents, context, given, 0.0, len(audio) / self.sample_rate)
        request = self._conditioned(request, **place_of(settings))
        [latents] = self._sample([request], [prompt], [seed], settings, causal=False)
        result = audio.copy()
        for left, right in holes:
            generated = self._decoded_hole(latents, silenced, inside, left, right)
            fade = min(int(INPAINT_FADE * self.sample_rate), (right - left) // 2)
            if left > 0:
                generated[:fade] = crossfade(audio[left : left + fade], generated[:fade])
            if right < len(audio):
                end = slice(len(generated) - fade, None)
                generated[end] = crossfade(generated[end], audio[right - fade : right])
            result[left:right] = generated
        return result

    def extend(
        self,
        audio: np.ndarray,
        seconds: float,
        prompt: str = "",
        seed: int = 0,
        **options: Unpack[AudioOptions],
    ) -> Audio:
        """`audio` and `seconds` more of it.

        All but the last 50 ms of the original stay as they are, sample for sample; those fade into
        their own reconstruction.
        """
        settings = resolve(options, dict(self.config.diffusion), AudioOptions)
        audio = self._stereo(audio, settings)
        added = self._samples(seconds)
        hop, margin = self.codec.hop, self.codec.margin
        # The sampler reads at most a window of context; the margin before it is what the encoder
        # needs. Frames are counted back from the end, so that the border lies between two of them.
        encoded = min(len(audio) // hop, self.sampler.window + 2 * margin)
        tail = audio[len(audio) - encoded * hop :]
        if encoded <= margin:
            raise Refusal(
                f"The audio of {len(audio) / self.sample_rate:.2f} s is too short to go on from; "
                f"give at least {(margin + 1) * hop / self.sample_rate:.2f} s."
            )
        position = np.arange(-(-(len(tail) + added) // hop))
        latents = np.zeros((len(position), self.codec.k), np.float32)
        latents[:encoded] = self.codec.encode(tail)[:encoded]
        request = Request(
            latents,
            context=position < encoded - margin,
            given=position < encoded,
            start=(len(audio) - len(tail)) / self.sample_rate,
            total=(len(audio) + added) / self.sample_rate,
        )
        request = self._conditioned(request, **place_of(settings))
        [latents] = self._sample([request], [prompt], [seed], settings, causal=True)
        fade = min(int(EXTEND_FADE * self.sample_rate), len(tail))
        # The last samples count as unknown. Otherwise the decoder's free phases would continue the
        # original up to its end and jump there, behind the cross-fade.
        generated = self._decode(latents, (tail, np.arange(len(tail)) < len(tail) - fade))
        generated = master(generated[len(tail) - fade : len(tail) + added], self.sample_rate)
        kept = len(audio) - fade
        faded = crossfade(audio[kept:], generated[:fade])
        return np.concatenate([audio[:kept], faded, generated[fade:]])

    def _stereo(self, audio: np.ndarray, settings: Mapping[str, Any]) -> Audio:
        return as_stereo(audio, settings["sample_rate"] or self.sample_rate, self.sample_rate)

    def _samples(self, seconds: float) -> int:
        if not (isinstance(seconds, Real) and 0 < seconds <= MAX_SECONDS):  # a NaN fails too
            raise Refusal(
                f"{seconds} seconds cannot be generated; "
                f"give a number above 0 and at most {MAX_SECONDS}."
            )
        return max(1, round(seconds * self.sample_rate))

    def _request(self, samples: int) -> Request:
        """A piece of `samples` samples of which nothing is given."""
        latents = np.zeros((-(-samples // self.codec.hop), self.codec.k), np.float32)
        return Request.without_given(latents, samples / self.sample_rate)

    def _conditioned(
        self, request: Request, start: float, total: float | None, conditions: Mapping[str, Any]
    ) -> Request:
        """The request with its place in a piece of `total` seconds, and with other conditions."""
        conditioners = self.sampler.conditioners
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

    def _sample(
        self,
        requests: list[Request],
        prompts: list[str],
        seeds: list[int],
        settings: Mapping[str, Any],
        causal: bool | None = None,
        strength: float = 1.0,
    ) -> list[Float[np.ndarray, "frames k"]]:
        for seed in seeds:
            check_seed(seed)
        scale = settings["guidance_scale"]
        negative = settings["negative_prompt"]
        return self.sampler.sample(
            requests,
            embed_prompts(self.text, self.text_params, prompts, negative, guided=scale != 1),
            seeds=seeds,
            steps=settings["steps"],
            guidance_scale=scale,
            causal=causal,
            strength=strength,
            noise=settings["noise"],
            progress=partial(self.progress, "sampling"),
        )

    def _decode(
        self,
        latents: Float[np.ndarray, "frames k"],
        around: tuple[Float[np.ndarray, "known 2"], Bool[np.ndarray, " known"]] | None = None,
    ) -> Audio:
        progress = partial(self.progress, "decoding")
        return self.codec.decode(latents, progress=progress, around=around)

    def _decoded_hole(
        self,
        latents: Float[np.ndarray, "frames k"],
        silenced: Audio,
        inside: Bool[np.ndarray, " samples"],
        left: int,
        right: int,
    ) -> Float[np.ndarray, "span 2"]:
        """The generated samples from `left` to `right`; decodes only the frames that they need."""
        hop, reach = self.codec.hop, self.codec.decoder_reach
        first, last = max(left // hop - reach, 0), -(-right // hop) + reach
        nearby = slice(first * hop, last * hop)
        generated = self._decode(latents[first:last], (silenced[nearby], ~inside[nearby]))
        return master(generated[left - first * hop : right - first * hop], self.sample_rate)
