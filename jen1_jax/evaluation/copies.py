"""Finds clips that are copies of training clips, by their latents.

The similarity of two clips is the largest cosine of their latents over all alignments that overlap
by at least half. So a clip from elsewhere in the same recording is recognised, and its level hardly
counts. The latents are whitened: each of their channels counts as much as the others. They are
averaged over pairs of frames first. An overlap with less than a quarter of the energy of a clip
counts as if it had a quarter.

A clip is a copy if it is more similar to some training clip than 99 % of the training clips are to
the most similar clip of another piece.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.fft
from jaxtyping import Float

POOL = 2  # frames of latents that are averaged
CLOSEST = 0.01  # share of the training clips that would be called copies of another piece
CHUNK = 64  # training clips compared at once


def similarity(
    a: Float[np.ndarray, "n frames k"], b: Float[np.ndarray, "m frames k"]
) -> Float[np.ndarray, "n m"]:
    """The largest cosine of all pairs over the alignments that overlap by at least half."""
    frames = a.shape[1]
    spectrum = lambda x: scipy.fft.rfft(x, 2 * frames, axis=1).transpose(1, 0, 2)
    products = spectrum(a) @ spectrum(b).conj().transpose(0, 2, 1)
    # At `lag`, frame t + lag of `a` meets frame t of `b`.
    correlation = scipy.fft.irfft(products, 2 * frames, axis=0)
    before_a, before_b = (np.pad(np.square(x).sum(2).cumsum(1), ((0, 0), (1, 0))) for x in (a, b))
    # Padding, or silence, in an overlap must not make the rest of it similar to everything.
    least_a, least_b = (np.maximum(before[:, -1] / 4, 1e-9) for before in (before_a, before_b))
    best = np.full((len(a), len(b)), -1.0, np.float32)
    for lag in range(-(frames // 2), frames // 2 + 1):
        energy_a = before_a[:, min(frames, frames + lag)] - before_a[:, max(0, lag)]
        energy_b = before_b[:, min(frames, frames - lag)] - before_b[:, max(0, -lag)]
        norm = np.sqrt(np.outer(np.maximum(energy_a, least_a), np.maximum(energy_b, least_b)))
        np.maximum(best, correlation[lag] / norm, out=best)
    return best


def pooled(latents: Float[np.ndarray, "frames k"], frames: int) -> Float[np.ndarray, "half k"]:
    """Means of pairs of the first `frames` frames; what is missing at the end is zero."""
    kept = np.zeros((frames // POOL * POOL, latents.shape[1]), np.float32)
    kept[: len(latents)] = latents[: len(kept)]
    return kept.reshape(-1, POOL, kept.shape[1]).mean(1)


def nearest(
    clips: Float[np.ndarray, "n frames k"],
    pieces: Sequence[str],
    training: Iterable[tuple[str, Float[np.ndarray, "frames k"]]],
) -> Float[np.ndarray, " n"]:
    """The similarity of each clip with the most similar training clip of another piece.

    `pieces` are those of the clips, and "" for generated ones; `training` yields pieces and
    latents, which are read once.
    """
    best = np.full(len(clips), -1.0, np.float32)
    own = np.array(pieces)
    chunk: list[tuple[str, np.ndarray]] = []

    def compare() -> None:
        found = similarity(clips, np.stack([latents for _, latents in chunk]))
        found[own[:, None] == np.array([piece for piece, _ in chunk])] = -1
        np.maximum(best, found.max(1), out=best)
        chunk.clear()

    for each in training:
        chunk.append(each)
        if len(chunk) == CHUNK:
            compare()
    if chunk:
        compare()
    return best
