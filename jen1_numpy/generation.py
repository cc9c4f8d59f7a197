"""The methods that a person calls: `generate`, `vary`, `inpaint` and `extend`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Unpack

import numpy as np
from jaxtyping import Bool, Float

from jen1_numpy.audio import MAX_SECONDS, Audio, as_stereo, crossfade, master
from jen1_numpy.errors import Refusal
from jen1_numpy.options import (
    AudioOptions,
    SamplingOptions,
    check_place,
    check_seed,
    condition_values,
    resolve,
)
from jen1_numpy.prompts import Encoder, embed_prompts
from jen1_numpy.spans import check_longest, frames_around, merged_spans
from jen1_numpy.windows import Request

EXTEND_FADE = 0.05  # seconds of the original's end that fade into their own reconstruction
INPAINT_FADE = 0.02  # seconds at each end of a span over which original and new audio are mixed

Latents = Float[np.ndarray, "frames k"]


class Generation:
    """Generates with the parts of a trained model.

    Audio is float32 [samples, 2] in [-1, 1] at `sample_rate`. All four methods take the keywords of
    `SamplingOptions`, and those that are given audio `AudioOptions`. The same seed gives the same
    music on the same machine.

    A class for a framework inherits from this one. It has the attributes below and defines
    `_encode`, `_decode` and `_sampling`.

    Attributes:
        config: the configuration; `config[section][field]` is a value.
        codec: encodes and decodes audio.
        prompts: embeds prompts.
        sampler: samples latents; it knows the number of frames in a window, and the conditioners.
    """

    config: Any
    codec: Any
    prompts: Encoder
    sampler: Any

    def _encode(self, audio: Audio) -> Latents:
        raise NotImplementedError

    def _decode(
        self,
        latents: Latents,
        around: tuple[Float[np.ndarray, "known 2"], Bool[np.ndarray, " known"]] | None = None,
    ) -> Audio:
        """The audio of latents; `around` are samples and which of them are known."""
        raise NotImplementedError

    def _sampling(self, done: int, total: int) -> None:
        """Called before every step of sampling with the frames done and in all."""
        raise NotImplementedError

    @property
    def sample_rate(self) -> int:
        """Of all audio, in Hz."""
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
        settings = self._settings(options)
        values = [prompt, seconds, seed, *_place(settings).values()]
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
        settings = self._settings(options, AudioOptions)
        if not (isinstance(strength, Real) and 0 < strength <= 1):
            raise Refusal(
                f"A strength of {strength} gives no variation; give more than 0 and at most 1."
            )
        audio = self._stereo(audio, settings)
        latents = self._encode(audio)
        request = Request.without_given(latents, len(audio) / self.sample_rate)
        request = self._conditioned(request, **_place(settings))
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
        settings = self._settings(options, AudioOptions)
        audio = self._stereo(audio, settings)
        holes = merged_spans(spans, len(audio), self.sample_rate)
        inside = np.zeros(len(audio), bool)
        for left, right in holes:
            inside[left:right] = True
        # The encoder reads across a span's border. Silence in the span keeps the audio that is to
        # be replaced out of the context.
        silenced = np.where(inside[:, None], np.float32(0), audio)
        latents = self._encode(silenced)
        context, given = frames_around(inside, len(latents), self.codec.hop, self.codec.margin)
        longest = int(self.config["tasks"]["max_generated"] * self.sampler.window)
        check_longest(context, longest, self.codec.margin, self.codec.frame_rate)
        request = Request(latents, context, given, 0.0, len(audio) / self.sample_rate)
        request = self._conditioned(request, **_place(settings))
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
        settings = self._settings(options, AudioOptions)
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
        latents[:encoded] = self._encode(tail)[:encoded]
        request = Request(
            latents,
            context=position < encoded - margin,
            given=position < encoded,
            start=(len(audio) - len(tail)) / self.sample_rate,
            total=(len(audio) + added) / self.sample_rate,
        )
        request = self._conditioned(request, **_place(settings))
        [latents] = self._sample([request], [prompt], [seed], settings, causal=True)
        fade = min(int(EXTEND_FADE * self.sample_rate), len(tail))
        # The last samples count as unknown. Otherwise the decoder's free phases would continue the
        # original up to its end and jump there, behind the cross-fade.
        generated = self._decode(latents, (tail, np.arange(len(tail)) < len(tail) - fade))
        generated = master(generated[len(tail) - fade : len(tail) + added], self.sample_rate)
        kept = len(audio) - fade
        faded = crossfade(audio[kept:], generated[:fade])
        return np.concatenate([audio[:kept], faded, generated[fade:]])

    def _settings(self, options: Mapping[str, Any], kind: type = SamplingOptions) -> dict[str, Any]:
        return resolve(options, dict(self.config["diffusion"]), kind)

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
    ) -> list[Latents]:
        for seed in seeds:
            check_seed(seed)
        scale = settings["guidance_scale"]
        negative = settings["negative_prompt"]
        return self.sampler.sample(
            requests,
            embed_prompts(self.prompts, prompts, negative, guided=scale != 1),
            seeds=seeds,
            steps=settings["steps"],
            guidance_scale=scale,
            causal=causal,
            strength=strength,
            noise=settings["noise"],
            progress=self._sampling,
        )

    def _decoded_hole(
        self,
        latents: Latents,
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


def _place(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say where in its piece the music lies, and what else is known of it."""
    return {name: settings[name] for name in ("start", "total", "conditions")}
