"""Whitening: normalises latents along their principal directions (JEN-1, section 3.1).

Latents z are rotated to their principal directions and scaled to unit variance, and the directions
of largest variance are kept: z' = (z - mean) U_k diag(s_k)^-1/2, where U diag(s) U^T is the
covariance. Mean and covariance are float64 and accumulated batch by batch by Chan's formula;
E[x^2] - E[x]^2 would lose digits by cancellation.

The matrix products use full float32 precision ("highest"). By default an accelerator rounds their
operands to bfloat16 or TF32: where the standard deviations of two directions differ by a factor of
316, the weaker one would have an error of a quarter of its standard deviation.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64

from jen1_jax.files import AnyPath, whole_file
from jen1_numpy.errors import Refusal


@dataclass(frozen=True)
class Moments:
    """Number, mean and covariance of vectors; the covariance is divided by their number."""

    count: int
    mean: Float64[np.ndarray, " c"]
    covariance: Float64[np.ndarray, "c c"]

    @classmethod
    def empty(cls, channels: int) -> "Moments":
        return cls(0, np.zeros(channels), np.zeros((channels, channels)))

    @classmethod
    def of(cls, x: Float[np.ndarray, "n c"]) -> "Moments":
        """The moments of the rows of `x`."""
        if len(x) == 0:
            return cls.empty(x.shape[1])
        x = np.asarray(x, np.float64)
        mean = x.mean(axis=0)
        return cls(len(x), mean, (x - mean).T @ (x - mean) / len(x))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of vectors together (Chan et al. 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        share, gap = other.count / count, other.mean - self.mean
        covariance = (
            (1 - share) * self.covariance
            + share * other.covariance
            + share * (1 - share) * np.outer(gap, gap)
        )
        return Moments(count, self.mean + share * gap, covariance)


@dataclass(frozen=True)
class Whitening:
    """A fitted whitening from c to k channels.

    `basis` has orthonormal columns, and `scale` is the standard deviation along each of them.
    """

    mean: Float64[np.ndarray, " c"]
    basis: Float64[np.ndarray, "c k"]
    scale: Float64[np.ndarray, " k"]

    @property
    def k(self) -> int:
        return len(self.scale)

    def apply(self, latents):
        """Whitened latents [..., k] of latents [..., c], float32."""
        forward = (self.basis / self.scale).astype(np.float32)
        return jnp.matmul(latents - self.mean.astype(np.float32), forward, precision="highest")

    def invert(self, whitened):
        """Latents [..., c] of whitened latents [..., k].

        The inverse of `apply` if all directions were kept, else its least-squares inverse.
        """
        back = (self.basis * self.scale).T.astype(np.float32)
        return jnp.matmul(whitened, back, precision="highest") + self.mean.astype(np.float32)

    def arrays(self) -> Mapping[str, np.ndarray]:
        return {"mean": self.mean, "basis": self.basis, "scale": self.scale}

    def save(self, path: AnyPath) -> None:
        """Writes an .npz file, which appears under its final name only when it is complete."""
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, mean=self.mean, basis=self.basis, scale=self.scale)

    @classmethod
    def load(cls, path: AnyPath) -> "Whitening":
        """Reads the file of `save`.

        Raises `Refusal` if it is missing, holds pickles, or its arrays do not fit together.
        """
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = [np.asarray(file[name], np.float64) for name in ("mean", "basis", "scale")]
            mean, basis, scale = arrays
            if basis.shape != (len(mean), len(scale)) or not (scale > 0).all():
                raise ValueError("its arrays do not fit together")
        except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError) as error:
            raise Refusal(
                f"{path} is not a whitening ({error}); run `jen1 train autoencoder` again to fit "
                "it."
            ) from None
        return cls(mean, basis, scale)


def check_whitening(keep: float, floor: float) -> None:
    """Raises `Refusal` for settings that `fit_whitening` cannot use."""
    if not 0 < keep <= 1 or not 0 < floor < 1:
        raise Refusal(
            "whitening.keep must be a share of the channels in (0, 1] and whitening.floor must be "
            f"in (0, 1), got {keep} and {floor}."
        )


def fit_whitening(moments: Moments, keep: float, floor: float) -> Whitening:
    """The whitening of latents with these moments.

    The floor(keep * c) directions of largest variance are kept. Variances below `floor` times the
    largest are raised to that value: otherwise directions of almost no variance would be amplified.
    Raises `Refusal` if there are no latents, or if they do not vary or are not finite.
    """
    check_whitening(keep, floor)
    if moments.count == 0:
        raise Refusal(
            "There is no audio to fit the whitening on; prepare more with `jen1 data prepare`."
        )
    if not 0 < np.trace(moments.covariance) < np.inf:
        raise Refusal(
            "The latents of the training split do not vary, or are not finite; look for silence "
            "with `jen1 data validate`."
        )
    k = max(1, math.floor(keep * len(moments.mean) + 1e-9))
    basis, variance, _ = np.linalg.svd(moments.covariance, hermitian=True)
    variance = np.maximum(variance, max(floor * variance[0], np.finfo(np.float64).tiny))
    return Whitening(moments.mean, np.ascontiguousarray(basis[:, :k]), np.sqrt(variance[:k]))
