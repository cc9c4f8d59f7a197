"""Audio to STFT levels and back, for an autoencoder without phase in its latents.

The levels of four views (left, right, mid, side) hold the stereo image without any phase. On the
way back fast Griffin-Lim (Perraudin et al. 2013), here for stereo, finds phases. It projects in
turn onto the spectra that have these levels and onto the spectra of audio.

A long window separates low semitones, and a short one keeps attacks sharp. A layout may have both:
the long one below, and the short one from the frequency on at which a band is one of its bins wide.
The search for phases then makes one signal that has the levels of both.
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
TURN = 10.0  # radians by which a phase starts further for each nat of its magnitude
MOMENTUM = 0.99  # Perraudin et al.'s alpha
REACH = 3  # frames to each side that share samples with a frame

Levels = Float[Array, "batch frames bands"]
Valid = Float[Array, "batch frames 1"]
Spectra = Complex[Array, "batch 2 frames bins"]


class Part(NamedTuple):
    """One window of a layout, and the bins that it describes: those from `low` to before `high`.

    A frame of the layout has `frames` spectra of this window.
    """

    window: int
    low: int
    high: int
    frames: int

    @property
    def hop(self) -> int:
        """Samples from one spectrum to the next."""
        return self.window // 4

    @property
    def bands(self) -> int:
        """Levels of all views in a frame of the layout."""
        return self.frames * VIEWS * len(filters(self))


class Layout(NamedTuple):
    """What the levels are of: the fields of `config.autoencoder` of the same names.

    A frame is a quarter of `window` long. Its levels are ordered by part, then by spectrum, by
    view, and by frequency. Without a window there are no levels, and the layout is false.
    """

    window: int
    short_window: int = 0
    quietest: float = QUIETEST

    def __bool__(self) -> bool:
        return self.window > 0

    @property
    def parts(self) -> tuple[Part, ...]:
        if not self:
            return ()
        whole = lambda window: window // 2 + 1
        if not self.short_window:
            return (Part(self.window, 0, whole(self.window), 1),)
        ratio, first = self.window // self.short_window, round(1 / WIDTH)
        return (
            Part(self.window, 0, ratio * first, 1),
            Part(self.short_window, first, whole(self.short_window), ratio),
        )

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return self.window // 4

    @property
    def bands(self) -> int:
        """The number of levels of a frame."""
        return sum(part.bands for part in self.parts)

    @property
    def floor(self) -> float:
        """The magnitude at `quietest`."""
        return 10 ** (self.quietest / 20)

    @property
    def loudest(self) -> float:
        """A level above those of all audio within full scale, where a mid has at most sqrt(2)."""
        return float(np.log(1.5 / self.floor)) / NATS

    @property
    def shares(self) -> Float[np.ndarray, " bands"]:
        """The time that each level describes, as a share of a frame."""
        return np.concatenate(
            [np.full(part.bands, 1 / part.frames, np.float32) for part in self.parts]
        )

    @property
    def reach(self) -> int:
        """Samples on each side that a step of the search for phases reads."""
        return sum(REACH * part.hop for part in self.parts)


class Around(NamedTuple):
    """Audio that is given, and 1 where it is `known`."""

    audio: Float[Array, "batch samples 2"]
    known: Float[Array, "batch samples 1"]


@cache
def filters(part: Part) -> Float[np.ndarray, "bands bins"]:
    """Triangles that add up to 1 in every bin of the part.

    Low bands are one bin wide, and from there on each is wider than the one before.
    """
    centres, last = [float(part.low)], part.high - 1
    while centres[-1] < last:
        centres.append(centres[-1] + max(1.0, WIDTH * centres[-1]))
    centres[-1] = last
    return np.stack(
        [np.interp(np.arange(part.low, part.high), centres, one) for one in np.eye(len(centres))]
    ).astype(np.float32)


def analyse(audio: Float[Array, "batch samples 2"], layout: Layout) -> Levels:
    """Levels of `audio`: log-magnitudes above `quietest`, so that silence is 0.

    Each spectrum is centred on the samples of its hop.
    """
    frames = audio.shape[1] // layout.hop
    levels = []
    for part in layout.parts:
        spectra = views(_spectra(audio, part)[..., part.low : part.high], axis=1)
        share = (filters(part) / filters(part).sum(1, keepdims=True)).T
        power = jnp.matmul(spectra.real**2 + spectra.imag**2, share, precision="highest")
        power = power[:, :, : frames * part.frames].swapaxes(1, 2).reshape(len(audio), frames, -1)
        levels.append(jnp.log1p(power / layout.floor**2) / (2 * NATS))
    return jnp.concatenate(levels, axis=-1)


def distance(
    prediction: Levels,
    target: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
    layout: Layout,
) -> Loss:
    """Mean absolute difference of levels in nats over an example's real frames.

    Louder levels have larger weights, and so have those that describe more time.
    """
    t, real = _target(target, valid, layout)
    weight = real * layout.shares * (WEIGHT_OF_SILENCE + t)
    total = NATS * jnp.sum(weight * jnp.abs(prediction - t), (1, 2))
    return total / jnp.maximum(weight.sum((1, 2)), 1) * (valid > 0)


def _target(
    audio: Float[Array, "batch samples 2"], valid: Int[Array, " batch"], layout: Layout
) -> tuple[Levels, Valid]:
    """The levels of an example's real samples, and which of its frames are real."""
    levels = analyse(keep_valid(audio, valid), layout)
    real = jnp.arange(levels.shape[1]) * layout.hop < valid[:, None]
    return levels, real[..., None].astype(jnp.float32)


def _split(levels: Levels, layout: Layout) -> list[Float[Array, "batch views _ _"]]:
    """The levels of each part, in its own frames."""
    ends = np.cumsum([part.bands for part in layout.parts])[:-1]
    return [
        some.reshape(len(levels), levels.shape[1] * part.frames, VIEWS, -1).swapaxes(1, 2)
        for part, some in zip(layout.parts, jnp.split(levels, ends, axis=-1), strict=True)
    ]


@cache
def _ranges(part: Part) -> Float[np.ndarray, "bands ranges"]:
    """How much of the energy of each band lies in each of the `RANGES` of an octave or more."""
    bins = part.window // 2 + 1
    edges = [0, *(bins * 2.0 ** np.arange(1 - RANGES, 0)), bins]
    numbers = np.arange(part.low, part.high)
    which = np.clip(np.searchsorted(edges, numbers, "right") - 1, 0, RANGES - 1)
    # By Parseval's theorem the energy of a spectrum is its squares times the length of its window.
    return (filters(part) @ np.eye(RANGES)[which] * part.window).astype(np.float32)


def width_error(
    prediction: Levels,
    target: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
    layout: Layout,
) -> Loss:
    """Mean absolute difference of the side's share of the energy in nats, over ranges of frequency.

    The energy is that of all of an example's real frames. Shares have a floor of -30 dB, and ranges
    with less than -60 dB of the energy do not count. `distance` alone makes wide music narrower:
    its levels lie between those of wide and of narrow music.
    """

    def shares(levels: Levels) -> tuple[Array, Array]:
        energy = jnp.zeros((len(levels), 2, RANGES))
        for part, split in zip(layout.parts, _split(levels * real, layout), strict=True):
            power = jnp.expm1(2 * NATS * jnp.maximum(split[:, 2:], 0)).sum(2)
            energy += jnp.matmul(power, _ranges(part) / layout.window, precision="highest")
        total = energy.sum(1)
        counts = total > 1e-6 * total.sum(1, keepdims=True)
        return jnp.log(energy[:, 1] / jnp.maximum(total, 1e-6) + 1e-3), counts

    t, real = _target(target, valid, layout)
    (ours, _), (theirs, counts) = shares(prediction), shares(t)
    return jnp.sum(counts * jnp.abs(ours - theirs), 1) / jnp.maximum(counts.sum(1), 1)


def synthesise(
    levels: Levels,
    valid: Valid,
    layout: Layout,
    iterations: int,
    around: Around | None = None,
) -> Float[Array, "batch samples 2"]:
    """Audio with about these levels, and silence in padding.

    A sample depends on the frames within `layout.reach * (iterations + 2)` samples of its own. The
    phases continue those of the known audio `around`, which is part of the result.
    """
    real = jnp.repeat(valid, layout.hop, axis=1)
    valids = [jnp.repeat(valid[..., 0], part.frames, axis=1) for part in layout.parts]
    sizes = [
        _magnitudes(some, part, layout) * valid[:, None, :, None]
        for some, part, valid in zip(_split(levels, layout), layout.parts, valids, strict=True)
    ]

    def keep(audio):
        return audio if around is None else jnp.where(around.known, around.audio, audio)

    def project(audio, sizes):
        """Gives the audio the magnitudes of each part."""
        for part, size, valid in zip(layout.parts, sizes, valids, strict=True):
            spectra = _spectra(audio, part) * valid[:, None, :, None]
            inside = _resize(spectra[..., part.low : part.high], size)
            spectra = jnp.concatenate(
                [spectra[..., : part.low], inside, spectra[..., part.high :]], axis=-1
            )
            audio = keep(_overlap(spectra, valid, part) * real)
        return audio

    # The search starts from random phases. All frames have the same ones, so that a shifted piece
    # gives shifted audio. Equal phases in all bins would put a frame's energy into one instant, and
    # leave peaks up to 3.7 times too high (docs/decisions.md). Mid and side have phases of their
    # own: if left and right started with equal ones, a side without a mid would stay silent. Where
    # the magnitude changes from frame to frame, as in noise, so does the phase: otherwise the same
    # bins cancel in all frames, and noise gets lines of up to 8 dB.
    fixed, start = jax.lax.stop_gradient(sizes), 0  # see _resize
    for part, size, some in zip(layout.parts, fixed, valids, strict=True):
        phases = np.random.default_rng(0).uniform(-np.pi, np.pi, (2, 1, size.shape[-1]))
        turned = phases.astype(np.float32) + TURN * jnp.log(size[:, 2:] + layout.floor)
        begin = views(size[:, 2:] * jnp.exp(1j * turned), axis=1)[:, 2:]
        bins = part.window // 2 + 1
        begin = jnp.pad(begin, ((0, 0), (0, 0), (0, 0), (part.low, bins - part.high)))
        start += _overlap(begin, some, part)
    start = keep(start * real)

    def step(carry, _):
        audio, before = carry
        now = project(audio, fixed)
        return (now + MOMENTUM * (now - before), now), None

    (audio, _), _ = jax.lax.scan(step, (start, start), length=iterations)
    return project(audio, sizes)


def _magnitudes(
    levels: Float[Array, "batch views frames bands"], part: Part, layout: Layout
) -> Float[Array, "batch views frames bins"]:
    levels = jnp.matmul(jnp.maximum(levels, 0), filters(part), precision="highest")
    power = jnp.expm1(2 * NATS * levels)
    heard = power > 1e-6  # the gradient of a square root is not finite at 0
    return layout.floor * jnp.where(heard, jnp.sqrt(jnp.where(heard, power, 1)), 0)


def _spectra(audio: Float[Array, "batch samples 2"], part: Part) -> Spectra:
    """Spectra of `audio`, one for each hop and centred on it."""
    frames = audio.shape[1] // part.hop
    before = part.window * 3 // 8
    return stft(jnp.pad(audio, ((0, 0), (before, 0), (0, 0))), part.window)[:, :, :frames]


def _overlap(
    spectra: Spectra, valid: Float[Array, "batch frames"], part: Part
) -> Float[Array, "batch samples 2"]:
    """The audio whose spectra are closest to these (Griffin & Lim 1984, equation 6)."""
    frames, window, hop = spectra.shape[2], part.window, part.hop
    parts = jnp.fft.irfft(spectra, window) * (hann(window) * hann(window).sum())
    weights = hann(window) ** 2 * valid[..., None]

    def add(x):  # the four quarters of a frame go to four places
        quarters = x.reshape(*x.shape[:-1], 4, hop)
        pad = lambda i: [(0, 0)] * (x.ndim - 2) + [(i, REACH - i), (0, 0)]
        total = reduce(jnp.add, [jnp.pad(quarters[..., i, :], pad(i)) for i in range(4)])
        return total.reshape(*x.shape[:-2], -1)[..., window * 3 // 8 :][..., : frames * hop]

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
