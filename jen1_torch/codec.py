"""An autoencoder with its whitening: audio of any length to whitened latents and back.

Long inputs are processed in chunks of one shape. Each chunk has so much context on both sides that
the result equals that of the whole file. Short inputs are padded to one of a few lengths. So memory
is bounded, and a compiled autoencoder sees few shapes.
"""

import hashlib
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jen1_numpy.errors import Refusal
from jen1_torch.autoencoder import Autoencoder

CHUNK_SECONDS = 15.36  # a clip of the default length is one chunk, also with what adjoins it
STEPS = 12  # shorter inputs are padded to twelfths of that, or to a power of two: 10.24 s fit


class Whitening(nn.Module):
    """Normalises latents along their principal directions (JEN-1, section 3.1), c to k channels.

    `basis` [c, k] has orthonormal columns, and `scale` [k] is the standard deviation along each of
    them. The arithmetic is float64 on the CPU, whatever the model's type and device: directions
    whose standard deviations differ by a factor of 300 need more digits than bfloat16 and TF32
    have, and MPS has no float64.
    """

    def __init__(self, channels: int, k: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("basis", torch.eye(channels, k, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(k, dtype=torch.float64))

    def _apply(self, fn: Callable, recurse: bool = True) -> Self:
        """Keeps the buffers as they are in `to`, `half` and their like."""
        return self

    @property
    def k(self) -> int:
        return len(self.scale)

    def forward(self, latents: Tensor) -> Tensor:
        """Whitened latents [..., k], float32, of latents [..., c]."""
        whitened = (latents.cpu().double() - self.mean) @ (self.basis / self.scale)
        return whitened.float().to(latents.device)

    def invert(self, whitened: Tensor) -> Tensor:
        """Latents [..., c], float32, of whitened latents [..., k].

        The inverse of `forward` if all directions were kept, else its least-squares inverse.
        """
        latents = whitened.cpu().double() @ (self.basis * self.scale).T + self.mean
        return latents.float().to(whitened.device)


class Codec:
    """An autoencoder and its whitening.

    `loudest` [bands] holds the level of each band that decoding does not exceed. `margin` is the
    number of latent frames at a border that silence on its other side changes too much for a
    generator's context (default, -1: all frames that it changes at all). Both were measured on the
    training data.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        whitening: Whitening,
        sample_rate: int,
        loudest: Tensor | None = None,
        margin: int = -1,
    ) -> None:
        self.autoencoder, self.whitening = autoencoder, whitening
        self.sample_rate, self.loudest = sample_rate, loudest
        self.margin = self.encoder_reach if margin == -1 else margin

    @property
    def k(self) -> int:
        """Channels of whitened latents."""
        return self.whitening.k

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return self.autoencoder.hop

    @property
    def frame_rate(self) -> float:
        """Latent frames per second."""
        return self.sample_rate / self.hop

    @property
    def encoder_reach(self) -> int:
        """Latent frames on each side of a border that depend at all on its other side."""
        return self.autoencoder.encoder_reach

    @property
    def decoder_reach(self) -> int:
        """Latent frames on each side of a sample's own that the sample depends on."""
        return self.autoencoder.decoder_reach

    @torch.no_grad()
    def encode(self, audio: np.ndarray | Tensor) -> Tensor:
        """Whitened latents [frames, k], float32 on the CPU, of audio [samples, 2].

        The audio is padded with zeros to whole hops.
        """
        hops = self._hops(audio, -(-len(audio) // self.hop))

        def encode(valid: Tensor, hops: Tensor) -> Tensor:
            return self.autoencoder.encode(hops.flatten(1, 2), valid)

        return self.whitening(self._chunked(encode, self.encoder_reach, hops))

    @torch.no_grad()
    def decode(
        self,
        latents: np.ndarray | Tensor,
        around: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Audio [frames * hop, 2], float32, of whitened latents [frames, k].

        It may exceed [-1, 1]. `around` is audio [n, 2] and a mask [n] of its known samples. With an
        autoencoder that decodes levels, the unknown phases continue those of the known samples.
        Raises `Refusal` if the latents do not have k channels.
        """
        latents = torch.as_tensor(latents).cpu()
        if latents.shape[-1] != self.k:
            raise Refusal(
                f"These latents have {latents.shape[-1]} channels and this autoencoder's have"
                f" {self.k}: they belong to another one, so encode the audio again with this one."
            )
        given = []
        if around:
            audio, known = around
            given = [self._hops(audio, len(latents)), self._hops(known[:, None], len(latents))]

        def decode(valid: Tensor, latents: Tensor, *given: Tensor) -> Tensor:
            around = tuple(x.flatten(1, 2) for x in given) or None
            loudest = None if self.loudest is None else self.loudest.to(latents.device)
            audio = self.autoencoder.decode(latents, valid, around, loudest)
            return audio.unflatten(1, (-1, self.hop))

        latents = self.whitening.invert(latents)
        return self._chunked(decode, self.decoder_reach, latents, *given).flatten(0, 1).numpy()

    def _hops(self, x: np.ndarray | Tensor, frames: int) -> Tensor:
        """[samples, channels] as [frames, hop, channels], with zeros behind."""
        x = torch.as_tensor(x).cpu()
        return F.pad(x, (0, 0, 0, frames * self.hop - len(x))).unflatten(0, (frames, self.hop))

    def _chunked(self, function: Callable[..., Tensor], reach: int, *inputs: Tensor) -> Tensor:
        """`function` of the inputs [frames, ...], called with chunks [1, size, ...] of them.

        Its first argument is 1 in the frames of a chunk that the inputs have, and 0 in padding.
        """
        frames, device = len(inputs[0]), next(self.autoencoder.parameters()).device
        keep = self._chunk(frames)
        sides = (reach, reach + -frames % keep)
        padded = [
            torch.cat([x.new_zeros(sides[0], *x.shape[1:]), x, x.new_zeros(sides[1], *x.shape[1:])])
            for x in (torch.ones(frames, 1), *inputs)
        ]
        done = []
        for start in range(0, frames, keep):
            chunk = [x[None, start : start + keep + 2 * reach].to(device) for x in padded]
            done.append(function(*chunk)[0, reach : reach + keep].cpu())
        return torch.cat(done)[:frames]

    def _chunk(self, frames: int) -> int:
        """The frames of a chunk of an input of `frames`, without its context."""
        most = round(CHUNK_SECONDS * self.frame_rate)
        if frames >= most:
            return most
        step = -(-most // STEPS)
        return min(1 << (frames - 1).bit_length(), -(-frames // step) * step)


def fingerprint(autoencoder: Autoencoder, whitening: Whitening, sample_rate: int, hop: int) -> str:
    """SHA-256 of what latents depend on: encoder parameters, whitening, sample rate and hop.

    It equals that of the JAX model, and so takes names and layouts from there: a weight
    [out, in, taps] is a kernel [taps, in, out]. The parameters must be the float32 ones.
    """
    arrays = {}
    for name, tensor in autoencoder.encoder.state_dict().items():
        if name.endswith("weight"):
            name = name.removesuffix("weight") + "kernel"
            tensor = tensor.permute(*reversed(range(tensor.ndim)))
        arrays[name.replace(".", "/")] = tensor
    digest = hashlib.sha256(f"{sample_rate} {hop}".encode())
    for name, tensor in [*sorted(arrays.items()), *whitening.state_dict().items()]:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().double().numpy(), "<f4").tobytes())
    return digest.hexdigest()
