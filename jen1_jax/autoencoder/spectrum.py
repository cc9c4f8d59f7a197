"""Audio to STFT levels and back, for an autoencoder without phase in its latents.

The levels of four views (left, right, mid, side) hold the stereo image without any phase. On the
way back fast Griffin-Lim (Perraudin et al. 2013), here for stereo, finds phases. It projects in
turn onto the spectra that have these levels and onto the spectra of audio.
"""

from functools import cache, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from jen1_jax.autoencoder.losses import Loss, hann, keep_valid, stft, views

VIEWS = 4
NATS = 4.0  # of magnitude in one unit of a level
QUIETEST = -80.0  # dB re full scale, the level 0; quieter bands become 0
WIDTH = 0.02  # of a band, relative to its frequency: a third of a semitone, and at least one bin
# Added to each level, in units: the weight in `distance`, so that silence counts too.
WEIGHT_OF_SILENCE = 0.3
RANGES = 8  # of frequency, in which the width is compared
MOMENTUM = 0.99  # Perraudin et al.'s alpha
REACH = 3  # frames to each side that share samples with a frame

Levels = Float[Array, "batch frames bands"]
Valid = Float[Array, "batch frames 1"]
Spectra = Complex[Array, "batch 2 frames bins"]


class Around(NamedTuple):
    """Audio that is given, and 1 where it is `known`."""

    audio: Float[Array, "batch samples 2"]
    known: Float[Array, "batch samples 1"]


@cache
def filters(window: int) -> Float[np.ndarray, "bands bins"]:
    """Triangles that add up to 1 in every bin.

    Low bands are one bin wide, and from there on each is wider than the one before.
    """
    centres, bins = [0.0], window // 2 + 1
    while centres[-1] < bins - 1:
        centres.append(centres[-1] + max(1.0, WIDTH * centres[-1]))
    centres[-1] = bins - 1
    return np.stack(
        [np.interp(np.arange(bins), centres, one) for one in np.eye(len(centres))]
    ).astype(np.float32)


def bands(window: int) -> int:
    """The number of levels of a frame: the bands of all views."""
    return VIEWS * len(filters(window))


def loudest(quietest: float = QUIETEST) -> float:
    """A level above those of all audio within full scale, where a mid has at most sqrt(2)."""
    return float(np.log(1.5 / _floor(quietest))) / NATS


def analyse(
    audio: Float[Array, "batch samples 2"], window: int, quietest: float = QUIETEST
) -> Levels:
    """Levels of `audio`: log-magnitudes above `quietest`, so that silence is 0.

    Each `window / 4` samples give one frame, centred on them. The bands are ordered by view, then
    by frequency.
    """
    spectra = views(_spectra(audio, window), axis=1)
    share = (filters(window) / filters(window).sum(1, keepdims=True)).T
    power = jnp.matmul(spectra.real**2 + spectra.imag**2, share, precision="highest")
    power = jnp.moveaxis(power, 1, 2).reshape(len(audio), spectra.shape[2], -1)
    return jnp.log1p(power / _floor(quietest) ** 2) / (2 * NATS)


def distance(
    prediction: Levels,
    target: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
    window: int,
    quietest: float = QUIETEST,
) -> Loss:
    """Mean absolute difference of levels in nats over an example's real frames.

    Louder levels have larger weights.
    """
    t, real = _target(target, valid, window, quietest)
    weight = real * (WEIGHT_OF_SILENCE + t)
    total = NATS * jnp.sum(weight * jnp.abs(prediction - t), (1, 2))
    return total / jnp.maximum(weight.sum((1, 2)), 1) * (valid > 0)


def _target(
    audio: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
    window: int,
    quietest: float,
) -> tuple[Levels, Valid]:
    """The levels of an example's real samples, and which of its frames are real."""
    levels = analyse(keep_valid(audio, valid), window, quietest)
    real = jnp.arange(levels.shape[1]) * (window // 4) < valid[:, None]
    return levels, real[..., None].astype(jnp.float32)


@cache
def _ranges(window: int) -> Float[np.ndarray, "bands ranges"]:
    """The number of bins that each band has in each of the `RANGES` of an octave or more."""
    shares, bins = filters(window), window // 2 + 1
    edges = [0, *(bins * 2.0 ** np.arange(1 - RANGES, 0)), bins]
    which = np.clip(np.searchsorted(edges, np.arange(bins), "right") - 1, 0, RANGES - 1)
    return (shares @ np.eye(RANGES)[which]).astype(np.float32)


def width_error(
    prediction: Levels,
    target: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
    window: int,
    quietest: float = QUIETEST,
) -> Loss:
    """Mean absolute difference of the side's share of the energy in nats, over ranges of frequency.

    The energy is that of all of an example's real frames. Shares have a floor of -30 dB, and ranges
    with less than -60 dB of the energy do not count. `distance` alone makes wide music narrower:
    its levels lie between those of wide and of narrow music.
    """

    def shares(levels: Levels) -> tuple[Array, Array]:
        split = levels.reshape(*levels.shape[:2], VIEWS, -1)[:, :, 2:]
        power = jnp.expm1(2 * NATS * jnp.maximum(split, 0)) * real[..., None]
        energy = jnp.matmul(power.sum(1), _ranges(window), precision="highest")
        total = energy.sum(1)
        counts = total > 1e-6 * total.sum(1, keepdims=True)
        return jnp.log(energy[:, 1] / jnp.maximum(total, 1e-6) + 1e-3), counts

    t, real = _target(target, valid, window, quietest)
    (ours, _), (theirs, counts) = shares(prediction), shares(t)
    return jnp.sum(counts * jnp.abs(ours - theirs), 1) / jnp.maximum(counts.sum(1), 1)


def synthesise(
    levels: Levels,
    valid: Valid,
    window: int,
    iterations: int,
    around: Around | None = None,
    quietest: float = QUIETEST,
) -> Float[Array, "batch samples 2"]:
    """Audio with about these levels, `window / 4` samples a frame, and silence in padding.

    A sample depends on the frames within `REACH * (iterations + 1)` of its own. The phases continue
    those of the known audio `around`, which is part of the result.
    """
    levels = jnp.moveaxis(jnp.maximum(levels, 0).reshape(*levels.shape[:2], VIEWS, -1), 2, 1)
    levels = jnp.matmul(levels, filters(window), precision="highest")
    power = jnp.expm1(2 * NATS * levels)
    heard = power > 1e-6  # the gradient of a square root is not finite at 0
    sizes = jnp.where(heard, jnp.sqrt(jnp.where(heard, power, 1)), 0)
    sizes = _floor(quietest) * sizes * valid[:, None]
    real = jnp.repeat(valid, window // 4, axis=1)

    def audio(spectra):
        audio = _overlap(spectra, valid[..., 0], window) * real
        return audio if around is None else jnp.where(around.known, around.audio, audio)

    fixed = jax.lax.stop_gradient(sizes)  # see _resize

    def step(carry, _):
        spectra, before = carry
        now = _spectra(audio(_resize(spectra, fixed)), window) * valid[:, None]
        return (now + MOMENTUM * (now - before), now), None

    # The search starts from random phases. All frames have the same ones, so that a shifted piece
    # gives shifted audio. Equal phases in all bins would put a frame's energy into one instant, and
    # leave peaks up to 3.7 times too high (docs/decisions.md). Mid and side have phases of their
    # own: if left and right started with equal ones, a side without a mid would stay silent.
    phases = np.random.default_rng(0).uniform(-np.pi, np.pi, (2, 1, sizes.shape[-1]))
    start = views(fixed[:, 2:] * np.exp(1j * phases).astype(np.complex64), axis=1)[:, 2:]
    (spectra, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), length=iterations)
    return audio(_resize(spectra, sizes))


def _floor(quietest: float) -> float:
    """The magnitude at `quietest` dB."""
    return 10 ** (quietest / 20)


def _spectra(audio: Float[Array, "batch samples 2"], window: int) -> Spectra:
    """Spectra of `audio`, one for each quarter of a window and centred on it."""
    frames = audio.shape[1] // (window // 4)
    return stft(jnp.pad(audio, ((0, 0), (window * 3 // 8, 0), (0, 0))), window)[:, :, :frames]


def _overlap(
    spectra: Spectra, valid: Float[Array, "batch frames"], window: int
) -> Float[Array, "batch samples 2"]:
    """The audio whose spectra are closest to these (Griffin & Lim 1984, equation 6)."""
    frames = spectra.shape[2]
    parts = jnp.fft.irfft(spectra, window) * (hann(window) * hann(window).sum())
    weights = hann(window) ** 2 * valid[..., None]

    def add(x):  # the four quarters of a frame go to four places
        quarters = x.reshape(*x.shape[:-1], 4, window // 4)
        pad = lambda i: [(0, 0)] * (x.ndim - 2) + [(i, REACH - i), (0, 0)]
        total = reduce(jnp.add, [jnp.pad(quarters[..., i, :], pad(i)) for i in range(4)])
        return total.reshape(*x.shape[:-2], -1)[..., window * 3 // 8 :][..., : frames * window // 4]

    return (add(parts) / jnp.maximum(add(weights)[:, None], 1e-3)).swapaxes(1, 2)


def _resize(spectra: Spectra, sizes: Float[Array, "batch 4 frames bins"]) -> Spectra:
    """The spectra with the magnitudes of mid and side set, then those of left and right.

    The gradient is that of the left and right magnitudes at fixed phases. That of the phases is
    not finite: it divides by magnitudes that may be near 0.
    """
    of = lambda x, size: x * (size * jax.lax.rsqrt(x.real**2 + x.imag**2 + 1e-18))
    swap = lambda x: views(x, axis=1)[:, 2:]  # left and right to mid and side, and the reverse
    phases = jax.lax.stop_gradient(swap(of(swap(spectra), sizes[:, 2:])))
    return of(phases, sizes[:, :2])
