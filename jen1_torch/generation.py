"""The methods that a person calls: `generate`, `vary`, `inpaint` and `extend`."""

from collections.abc import Sequence
from numbers import Real
from typing import Unpack

import numpy as np

from jen1_numpy.audio import crossfade, master
from jen1_numpy.errors import Refusal
from jen1_numpy.options import AudioOptions, SamplingOptions, place_of
from jen1_numpy.spans import check_longest, frames_around, merged_spans
from jen1_numpy.windows import Request
from jen1_torch.parts import Parts

EXTEND_FADE = 0.05  # seconds of the original's end that fade into their own reconstruction
INPAINT_FADE = 0.02  # seconds at each end of a span over which original and new audio are mixed


class Generation(Parts):
    """The methods of a trained model; a class that inherits from it sets the attributes of `Parts`.

    Audio is float32 [samples, 2] in [-1, 1] at `codec.sample_rate`. All four methods take the
    keywords of `SamplingOptions`, and those that are given audio `AudioOptions`. The same seed
    gives the same music on the same machine.
    """

    def generate(
        self,
        prompt: str | Sequence[str] | np.ndarray,
        seconds: float | Sequence[float] | np.ndarray,
        seed: int | Sequence[int] | np.ndarray = 0,
        **options: Unpack[SamplingOptions],
    ) -> np.ndarray | list[np.ndarray]:
        """`seconds` of music for `prompt`; with an empty prompt it is unconditional.

        Where prompt, seconds, seed, start, total or conditions are sequences or arrays, the result
        is a list of pieces. A single value then counts for all of them. Each piece is what it would
        be alone.
        """
        settings = self._settings(options)
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
            master(self._decode(piece)[:number], self.codec.sample_rate)
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
    ) -> np.ndarray:
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
        request = Request.without_given(self._encode(audio), len(audio) / self.codec.sample_rate)
        request = self._conditioned(request, **place_of(settings))
        [latents] = self._sample([request], [prompt], [seed], settings, strength=strength)
        return master(self._decode(latents)[: len(audio)], self.codec.sample_rate)

    def inpaint(
        self,
        audio: np.ndarray,
        spans: Sequence[tuple[float, float]] | np.ndarray,
        prompt: str = "",
        seed: int = 0,
        **options: Unpack[AudioOptions],
    ) -> np.ndarray:
        """`audio` with new music in the `spans` (start, end in seconds).

        Outside the spans the result is the original, sample for sample. Spans that touch or overlap
        are one span. `audio` is [samples] or [samples, channels]; audio that is not stereo at the
        model's rate is converted, which is logged.
        """
        settings, codec = self._settings(options, AudioOptions), self.codec
        audio = self._stereo(audio, settings)
        holes = merged_spans(spans, len(audio), codec.sample_rate)
        inside = np.zeros(len(audio), bool)
        for left, right in holes:
            inside[left:right] = True
        # The encoder reads across a span's border. Silence in the span keeps the audio that is to
        # be replaced out of the context.
        silenced = np.where(inside[:, None], np.float32(0), audio)
        latents = self._encode(silenced)
        context, given = frames_around(inside, len(latents), codec.hop, codec.margin)
        longest = int(self.config["tasks"]["max_generated"] * self._sampler().window)
        check_longest(context, longest, codec.margin, codec.frame_rate)
        request = Request(latents, context, given, 0.0, len(audio) / codec.sample_rate)
        request = self._conditioned(request, **place_of(settings))
        [latents] = self._sample([request], [prompt], [seed], settings, causal=False)
        result = audio.copy()
        for left, right in holes:
            generated = self._decoded_hole(latents, silenced, inside, left, right)
            fade = min(int(INPAINT_FADE * codec.sample_rate), (right - left) // 2)
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
    ) -> np.ndarray:
        """`audio` and `seconds` more of it.

        All but the last 50 ms of the original stay as they are, sample for sample; those fade into
        their own reconstruction.
        """
        settings, codec = self._settings(options, AudioOptions), self.codec
        audio = self._stereo(audio, settings)
        added = self._samples(seconds)
        hop, margin, sample_rate = codec.hop, codec.margin, codec.sample_rate
        # The sampler reads at most a window of context; the margin before it is what the encoder
        # needs. Frames are counted back from the end, so that the border lies between two of them.
        encoded = min(len(audio) // hop, self._sampler().window + 2 * margin)
        tail = audio[len(audio) - encoded * hop :]
        if encoded <= margin:
            raise Refusal(
                f"The audio of {len(audio) / sample_rate:.2f} s is too short to go on from; "
                f"give at least {(margin + 1) * hop / sample_rate:.2f} s."
            )
        position = np.arange(-(-(len(tail) + added) // hop))
        latents = np.zeros((len(position), codec.k), np.float32)
        latents[:encoded] = self._encode(tail)[:encoded]
        request = Request(
            latents,
            context=position < encoded - margin,
            given=position < encoded,
            start=(len(audio) - len(tail)) / sample_rate,
            total=(len(audio) + added) / sample_rate,
        )
        request = self._conditioned(request, **place_of(settings))
        [latents] = self._sample([request], [prompt], [seed], settings, causal=True)
        fade = min(int(EXTEND_FADE * sample_rate), len(tail))
        # The last samples count as unknown. Otherwise the decoder's free phases would continue the
        # original up to its end and jump there, behind the cross-fade.
        generated = self._decode(latents, (tail, np.arange(len(tail)) < len(tail) - fade))
        generated = master(generated[len(tail) - fade : len(tail) + added], sample_rate)
        kept = len(audio) - fade
        faded = crossfade(audio[kept:], generated[:fade])
        return np.concatenate([audio[:kept], faded, generated[fade:]])
