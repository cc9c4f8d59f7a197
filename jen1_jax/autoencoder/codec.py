"""A trained autoencoder with its whitening: audio of any length to whitened latents and back.

Long inputs are processed in chunks of one shape. Each chunk has so much context on both sides that
the result equals that of the whole file. Short inputs are padded to one of a few lengths. So memory
is bounded and few shapes are compiled.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Bool, Float, Int, PyTree

from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.whitening import Whitening
from jen1_numpy.errors import Refusal

CHUNK_SECONDS = 15.36  # a clip of the default length is one chunk, also with what adjoins it
STEPS = 12  # shorter inputs are padded to twelfths of that, or to a power of two: 10.24 s fit
DISTURBED = 0.05  # standard deviations of a whitened channel

Progress = Callable[[int, int], None]  # called with the frames done and their total


def no_progress(done: int, total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Codec:
    """An autoencoder, its (EMA) parameters `params`, and its whitening.

    `loudest` holds the level of each band that decoding does not exceed. Levels are exponents, so
    that a small error of a high level is a much louder sound. `margin` is the number of latent
    frames at a border that silence on its other side changes by more than `DISTURBED`, too much for
    a generator's context (default, -1: all frames that it changes at all). Both are measured on the
    training data at the end of the autoencoder's training.
    """

    model: Autoencoder
    params: PyTree
    whitening: Whitening
    sample_rate: int
    loudest: Float[np.ndarray, " bands"] | None = None
    margin: int = -1

    def __post_init__(self):
        if self.margin == -1:
            object.__setattr__(self, "margin", self.encoder_reach)

    @property
    def k(self) -> int:
        """Channels of whitened latents."""
        return self.whitening.k

    @property
    def hop(self) -> int:
        return self.model.hop

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop

    @property
    def encoder_reach(self) -> int:
        """Latent frames on each side of a border that depend at all on its other side."""
        return self.model.encoder_reach

    @property
    def decoder_reach(self) -> int:
        """Latent frames on each side of a sample's own that the sample depends on."""
        return self.model.decoder_reach

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.params, self.whitening, sample_rate=self.sample_rate, hop=self.hop)

    def encode(
        self,
        audio: Float[np.ndarray, "*batch samples 2"],
        progress: Progress = no_progress,
        valid_samples: Int[np.ndarray, " batch"] | None = None,
    ) -> Float[np.ndarray, "*batch frames k"]:
        """Whitened latents of `audio`, which is padded with zeros to whole hops.

        `audio` may be a memory map: it is read chunk by chunk. Only the first `valid_samples` of
        each example are audio (default: all); the latents of the others have no meaning.
        """
        if audio.ndim == 2:
            return self.encode(audio[None], progress)[0]
        hop = self.hop
        if valid_samples is None:
            valid_samples = np.full(len(audio), audio.shape[1])

        def read(start, stop):
            part = audio[:, start * hop : stop * hop]
            part = np.pad(part, ((0, 0), (0, (stop - start) * hop - part.shape[1]), (0, 0)))
            return part.reshape(len(part), stop - start, hop * 2)

        return self._chunked(
            read,
            len(audio),
            -(-audio.shape[1] // hop),
            self._encode,
            self.k,
            self.encoder_reach,
            progress,
            -(-valid_samples // hop),
        )

    def decode(
        self,
        latents: Float[np.ndarray, "*batch frames k"],
        samples: int | None = None,
        progress: Progress = no_progress,
        around: tuple[Float[np.ndarray, "*batch known 2"], Bool[np.ndarray, " known"]]
        | None = None,
    ) -> Float[np.ndarray, "*batch samples 2"]:
        """Audio, `hop` samples per frame, cut to `samples`; it may exceed [-1, 1].

        `around` is audio and a mask of its known samples. With a model that decodes levels, the
        unknown phases continue those of the known samples.
        """
        if latents.ndim == 2:
            around = (around[0][None], around[1]) if around else None
            return self.decode(latents[None], samples, progress, around)[0]
        if latents.shape[-1] != self.k:
            raise Refusal(
                f"These latents have {latents.shape[-1]} channels and this autoencoder's have"
                f" {self.k}: they belong to another one, so encode the audio again with this one."
            )
        if around and self.model.window:  # folded to latent frames and appended as channels
            audio, known = around
            known = np.broadcast_to(known[:, None], (*audio.shape[:2], 1))
            rest = np.pad(
                np.concatenate([audio, known], -1),
                ((0, 0), (0, latents.shape[1] * self.hop - audio.shape[1]), (0, 0)),
            )
            latents = np.concatenate(
                [latents, rest.reshape(*latents.shape[:2], -1)], -1, dtype=np.float32
            )
        read = lambda start, stop: latents[:, start:stop]
        audio = self._chunked(
            read,
            len(latents),
            latents.shape[1],
            self._decode,
            self.hop * 2,
            self.decoder_reach,
            progress,
            np.full(len(latents), latents.shape[1]),
        )
        return audio.reshape(len(latents), -1, 2)[:, :samples]

    def _chunked(
        self,
        read: Callable,
        batch: int,
        frames: int,
        function: Callable,
        width: int,
        margin: int,
        progress: Progress,
        valid_frames: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, "batch frames {width}"]:
        """`function` of the array [batch, frames, _] that `read(start, stop)` reads, in chunks."""
        keep = self._chunk(frames)
        size = keep + 2 * margin
        result = np.empty((batch, frames, width), np.float32)
        for start in range(0, frames, keep):
            progress(start, frames)
            first, last = max(start - margin, 0), min(start - margin + size, frames)
            before = first - (start - margin)
            within = ((0, 0), (before, size - before - (last - first)), (0, 0))
            part = np.pad(read(first, last), within)
            valid = (np.arange(first, last) < valid_frames[:, None]).astype(np.float32)
            valid = np.pad(valid[..., None], within)
            done = np.asarray(function(part, valid))[:, margin : margin + keep]
            result[:, start : start + keep] = done[:, : frames - start]
        progress(frames, frames)
        return result

    def _chunk(self, frames: int) -> int:
        """The frames of a chunk of an input of `frames`, without its context."""
        most = round(CHUNK_SECONDS * self.frame_rate)
        if frames >= most:
            return most
        step = -(-most // STEPS)
        return min(1 << (frames - 1).bit_length(), -(-frames // step) * step)

    @cached_property
    def _encode(self):
        def encode(folded, valid):
            audio = folded.reshape(folded.shape[0], -1, 2)
            return self.whitening.apply(
                self.model.apply({"params": self.params}, audio, valid, method="encode")
            )

        return jax.jit(encode)

    @cached_property
    def _decode(self):
        def decode(part, valid):
            whitened, rest = part[..., : self.k], part[..., self.k :]
            rest = rest.reshape(len(part), -1, 3)
            around = spectrum.Around(rest[..., :2], rest[..., 2:]) if rest.size else None
            latents = self.whitening.invert(whitened)
            audio = self.model.apply(
                {"params": self.params}, latents, valid, around, self.loudest, method="decode"
            )
            return audio.reshape(*whitened.shape[:2], -1)

        return jax.jit(decode)


def measure_margin(codec: Codec, clips: Iterable[Float[np.ndarray, "samples 2"]]) -> int:
    """The `margin` of `codec`, measured with a border in the middle of each clip.

    Frames further than that from the border change by at most `DISTURBED` in every whitened channel
    when the audio on its other side is silenced: root mean square over the clips, the larger of
    both sides. Distances for which every clip is too short belong to the margin.
    """
    hop, reach = codec.hop, codec.encoder_reach
    squares, counts = np.zeros((2, reach, codec.k)), np.zeros(reach, int)
    for clip in clips:
        middle = len(clip) // hop // 2
        if middle == 0:
            continue
        clip = clip[: 2 * middle * hop]
        silenced = np.stack([clip, clip, clip])
        silenced[1, middle * hop :] = 0
        silenced[2, : middle * hop] = 0
        whole, before, after = codec.encode(silenced)
        near = min(reach, middle)
        counts[:near] += 1
        squares[0, :near] += np.square(before - whole)[middle - near : middle][::-1]
        squares[1, :near] += np.square(after - whole)[middle : middle + near]
    means = squares.max((0, 2)) / np.maximum(counts, 1)
    disturbed = (np.sqrt(means) > DISTURBED) | (counts == 0)
    return int(reach - np.argmax(disturbed[::-1])) if disturbed.any() else 0


def fingerprint(params: PyTree, whitening: Whitening, *, sample_rate: int, hop: int) -> str:
    """SHA-256 of what latents depend on: encoder parameters, whitening, sample rate and hop."""
    digest = hashlib.sha256(f"{sample_rate} {hop}".encode())
    encoder = flatten_dict(params["encoder"], sep="/")
    for name, array in [*sorted(encoder.items()), *whitening.arrays().items()]:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()
