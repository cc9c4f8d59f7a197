"""A trained autoencoder with its whitening: audio of any length to whitened latents and back, in bounded memory.

Long inputs go through in chunks of one shape, each with enough of its surroundings on both sides that every kept frame or sample
is what the whole file would give; short ones are padded to a power of two. A few compilations serve every length.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float, PyTree

from jen1_jax.autoencoder.model import Autoencoder
from jen1_jax.autoencoder.whitening import Whitening
from jen1_jax.errors import Refusal

CHUNK_SECONDS = 10


@dataclass(frozen=True)
class Codec:
    """`params` are the autoencoder's (EMA) parameters."""

    model: Autoencoder
    params: PyTree
    whitening: Whitening
    sample_rate: int

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
    def margin(self) -> int:
        """Latent frames on each side of a border that know what is on the other side."""
        return self.model.margin

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.params, self.whitening, sample_rate=self.sample_rate, hop=self.hop)

    def encode(self, audio: Float[np.ndarray, "*batch samples 2"]) -> Float[np.ndarray, "*batch frames k"]:
        """Whitened latents; a last part of a hop is padded with zeros."""
        if audio.ndim == 2:
            return self.encode(audio[None])[0]
        frames = -(-audio.shape[1] // self.hop)
        audio = np.pad(audio, ((0, 0), (0, frames * self.hop - audio.shape[1]), (0, 0)))
        return self._chunked(audio.reshape(len(audio), frames, self.hop * 2), self._encode, self.k)

    def decode(
        self, latents: Float[np.ndarray, "*batch frames k"], samples: int | None = None
    ) -> Float[np.ndarray, "*batch samples 2"]:
        """Audio, `hop` samples per frame, cut to `samples`; it may exceed [-1, 1]."""
        if latents.ndim == 2:
            return self.decode(latents[None], samples)[0]
        if latents.shape[-1] != self.k:
            raise Refusal(
                f"These latents have {latents.shape[-1]} channels and this autoencoder's have {self.k}: "
                "another one made them, so encode the audio again with this one."
            )
        audio = self._chunked(latents, self._decode, self.hop * 2)
        return audio.reshape(len(latents), -1, 2)[:, :samples]

    def _chunked(self, x: np.ndarray, function: Callable, width: int) -> np.ndarray:
        """`function` over [batch, frames, _], chunk by chunk."""
        frames = x.shape[1]
        keep = min(round(CHUNK_SECONDS * self.frame_rate), 1 << (frames - 1).bit_length())
        size = keep + 2 * self.margin
        result = np.empty((len(x), frames, width), np.float32)
        for start in range(0, frames, keep):
            first = start - self.margin
            part = x[:, max(first, 0) : first + size]
            before = max(-first, 0)
            part = np.pad(part, ((0, 0), (before, size - before - part.shape[1]), (0, 0)))
            valid = np.zeros((len(x), size, 1), np.float32)
            valid[:, before : before + min(frames - max(first, 0), size - before)] = 1
            done = np.asarray(function(part, valid))[:, self.margin : self.margin + keep]
            result[:, start : start + keep] = done[:, : frames - start]
        return result

    @cached_property
    def _encode(self):
        def encode(folded, valid):
            audio = folded.reshape(folded.shape[0], -1, 2)
            return self.whitening.apply(self.model.apply({"params": self.params}, audio, valid, method="encode"))

        return jax.jit(encode)

    @cached_property
    def _decode(self):
        def decode(whitened, valid):
            audio = self.model.apply({"params": self.params}, self.whitening.invert(whitened), valid, method="decode")
            return audio.reshape(*whitened.shape[:2], -1)

        return jax.jit(decode)


def fingerprint(params: PyTree, whitening: Whitening, *, sample_rate: int, hop: int) -> str:
    """What latents depend on, as SHA-256: encoder parameters, whitening, sample rate and hop; the decoder is left out."""
    digest = hashlib.sha256(f"{sample_rate} {hop}".encode())
    encoder = flatten_dict(params["encoder"], sep="/")
    for name, array in [*sorted(encoder.items()), *whitening.arrays().items()]:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, "<f4"))
    return digest.hexdigest()
