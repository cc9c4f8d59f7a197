"""Synthesised instruments: a voice is a function (frequency in Hz, seconds, rng) -> note.

Notes are float32 at 48 kHz, mono `[samples]`, those of pads stereo `[samples, 2]`. Their level is
arbitrary; the mixer sets it. Two methods make all pitched sounds: `_damped` partials (plucked,
struck, bass) and a `_sustained` wavetable (bowed, pads).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.signal import butter, sosfilt

SAMPLE_RATE = 48_000


@dataclass(frozen=True)
class Instrument:
    """A voice with its family and its register, `low` to `high` in MIDI note numbers."""

    name: str
    family: str
    low: int
    high: int
    voice: Callable[[float, float, np.random.Generator], np.ndarray]
    rings: bool = False  # notes decay by themselves and do not stop at their written end


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _fade(note: np.ndarray, attack: float, release: float) -> np.ndarray:
    """`note` with raised-cosine ends of `attack` and `release` seconds, at most half of it."""
    for seconds, end in ((attack, slice(None)), (release, slice(None, None, -1))):
        n = min(int(seconds * SAMPLE_RATE), len(note) // 2)
        ramp = (0.5 - 0.5 * np.cos(np.pi * np.arange(n) / max(n, 1))).astype(np.float32)
        view = note[end][:n]
        view *= ramp if note.ndim == 1 else ramp[:, None]
    return note


def _damped(frequency, seconds, rng, *, ratios, amplitudes, decays, attack=0.002, knock=0.0):
    """Partials at `ratios * frequency` that decay at rates `decays` in 1/s.

    `knock` is the level of a short noise at the start. A damped partial is z**n. With
    n = i * block + j the sum of all partials is the product of the matrices z**(i * block) and
    z**j.
    """
    ratios, amplitudes, decays = (
        np.broadcast_to(a, np.shape(ratios)) for a in (ratios, amplitudes, decays)
    )
    audible = ratios * frequency < 18_000
    log_z = (2j * np.pi * ratios * frequency - decays)[audible] / SAMPLE_RATE
    samples = int(seconds * SAMPLE_RATE)
    block = int(np.sqrt(samples)) + 1
    start = amplitudes[audible] * np.exp(2j * np.pi * rng.random(audible.sum()))
    coarse = (start * np.exp(np.outer(np.arange(block) * block, log_z))).astype(np.complex64)
    fine = np.exp(np.outer(log_z, np.arange(block))).astype(np.complex64)
    note = (coarse.real @ fine.real - coarse.imag @ fine.imag).ravel()[:samples]
    if knock:
        n = min(samples, SAMPLE_RATE // 50)
        note[:n] += (
            knock
            * np.abs(note).max(initial=0)
            * rng.standard_normal(n).astype(np.float32)
            * np.exp(-np.arange(n) / 200)
        )
    return _fade(note, attack, 0.06)


def _string(
    frequency,
    seconds,
    rng,
    *,
    position=0.2,
    tilt=1.0,
    decay=1.2,
    damping=0.06,
    stiffness=1e-4,
    partials=24,
    **keywords,
):
    """A string plucked or struck at `position` of its length.

    Its stiffness makes high partials slightly sharp; high partials and high notes decay faster.
    """
    k = np.arange(1, partials + 1)
    amplitudes = np.abs(np.sin(np.pi * k * position)) / k**tilt
    decays = np.sqrt(frequency / 220) * decay * (1 + damping * k**2)
    ratios = k * np.sqrt(1 + stiffness * k**2)
    return _damped(
        frequency, seconds, rng, ratios=ratios, amplitudes=amplitudes, decays=decays, **keywords
    )


def _wavetable(harmonics: np.ndarray, phases: np.ndarray, size: int = 8192) -> np.ndarray:
    spectrum = np.zeros(size // 2 + 1, complex)
    spectrum[1 : len(harmonics) + 1] = harmonics * np.exp(1j * phases)
    return np.fft.irfft(spectrum, size).astype(np.float32) * size


def _sustained(
    frequency,
    seconds,
    rng,
    *,
    tilt=1.1,
    cutoff=4000.0,
    attack=0.12,
    release=0.2,
    vibrato=0.004,
    breath=0.0,
):
    """A sawtooth-like tone that becomes brighter in its attack and whose vibrato begins later."""
    t = _time(seconds)
    k = np.arange(1, max(2, int(min(60, 18_000 / frequency))))
    harmonics, phases = (
        k**-tilt / np.sqrt(1 + (k * frequency / cutoff) ** 4),
        2 * np.pi * rng.random(len(k)),
    )
    dark, bright = (_wavetable(h, phases) for h in (harmonics * np.exp(-k / 3), harmonics))
    rate = rng.uniform(4.8, 6.0)
    depth = vibrato * np.minimum(t / 0.5, 1.0)
    phase = rng.random() + frequency * (
        t - depth * np.cos(2 * np.pi * rate * t) / (2 * np.pi * rate)
    )
    at = (phase * len(dark)).astype(np.int64) & (len(dark) - 1)
    opening = (np.minimum(t / (2 * attack), 1.0) * (1 - 0.3 * np.minimum(t / 4, 1.0))).astype(
        np.float32
    )
    note = dark[at] * (1 - opening) + bright[at] * opening
    if breath:
        note += breath * note.std() * sosfilt(_HISS, rng.standard_normal(len(t))).astype(np.float32)
    return _fade(note, attack, release)


def _pad(frequency, seconds, rng, *, detune=0.004, **keywords):
    """Detuned sustained voices, different ones in each channel."""
    sides = [
        sum(
            _sustained(frequency * (1 + detune * d), seconds, rng, **keywords)
            for d in rng.uniform(-1, 1, 2)
        )
        for _ in range(2)
    ]
    return np.stack(sides, axis=-1)


def _kick(rng, seconds=0.35):
    t = _time(seconds)
    sweep = np.cumsum(48 + 130 * np.exp(-t * 45)) / SAMPLE_RATE
    click = rng.standard_normal(len(t)) * np.exp(-t * 900) * 0.3
    return _fade(
        (np.sin(2 * np.pi * sweep) * np.exp(-t * 11) + click).astype(np.float32), 0.001, 0.05
    )


def _snare(rng, seconds=0.3):
    t = _time(seconds)
    body = (np.sin(2 * np.pi * 185 * t) + 0.6 * np.sin(2 * np.pi * 331 * t)) * np.exp(-t * 28)
    rattle = sosfilt(_RATTLE, rng.standard_normal(len(t))) * np.exp(-t * 17)
    return _fade((0.5 * body + rattle).astype(np.float32), 0.001, 0.05)


def _hat(rng, seconds=0.12):
    t = _time(seconds)
    return _fade(
        (0.7 * sosfilt(_HISS, rng.standard_normal(len(t))) * np.exp(-t * 6 / seconds)).astype(
            np.float32
        ),
        0.001,
        0.02,
    )


_HISS = butter(2, 7000, "highpass", fs=SAMPLE_RATE, output="sos")
_RATTLE = butter(2, (900, 9000), "bandpass", fs=SAMPLE_RATE, output="sos")
_BELL_RATIOS = np.array([0.5, 1, 1.183, 1.506, 2, 2.514, 2.662, 3.011, 4.166])
_BARS = {  # the modes of tuned bars and of a church bell
    "marimba": dict(
        ratios=np.array([1, 3.93, 9.24]),
        amplitudes=np.array([1, 0.3, 0.12]),
        decays=np.array([5, 14, 30]),
        knock=0.2,
    ),
    "vibraphone": dict(
        ratios=np.array([1, 4, 10.1]),
        amplitudes=np.array([1, 0.25, 0.06]),
        decays=np.array([1.4, 3, 8]),
        knock=0.05,
    ),
    "bell": dict(
        ratios=_BELL_RATIOS,
        amplitudes=np.array([0.5, 1, 0.7, 0.45, 0.8, 0.3, 0.3, 0.25, 0.2]),
        decays=0.6 + 0.5 * _BELL_RATIOS,
    ),
}

DRUMS = dict(kick=_kick, snare=_snare, hat=_hat, open_hat=partial(_hat, seconds=0.35))

INSTRUMENTS = {
    i.name: i
    for i in (
        Instrument(
            "guitar", "plucked", 45, 76, partial(_string, position=0.18, decay=1.3, knock=0.15)
        ),
        Instrument(
            "harp",
            "plucked",
            48,
            88,
            partial(_string, position=0.4, tilt=1.4, decay=0.9, stiffness=3e-5),
            rings=True,
        ),
        Instrument(
            "lute",
            "plucked",
            50,
            79,
            partial(_string, position=0.1, tilt=0.8, decay=2.2, knock=0.25),
        ),
        Instrument(
            "piano",
            "struck",
            45,
            84,
            partial(_string, position=0.13, tilt=1.5, decay=0.8, damping=0.03, knock=0.1),
        ),
        Instrument("marimba", "struck", 52, 84, partial(_damped, **_BARS["marimba"]), rings=True),
        Instrument(
            "vibraphone", "struck", 55, 86, partial(_damped, **_BARS["vibraphone"]), rings=True
        ),
        Instrument("bell", "struck", 60, 90, partial(_damped, **_BARS["bell"]), rings=True),
        Instrument(
            "violin", "bowed", 57, 88, partial(_sustained, attack=0.07, vibrato=0.005, breath=0.05)
        ),
        Instrument(
            "cello",
            "bowed",
            40,
            67,
            partial(_sustained, cutoff=2200, attack=0.1, vibrato=0.004, breath=0.04),
        ),
        Instrument(
            "viola",
            "bowed",
            50,
            78,
            partial(_sustained, cutoff=2800, attack=0.09, vibrato=0.0045, breath=0.04),
        ),
        Instrument(
            "bass guitar",
            "bass",
            28,
            50,
            partial(_string, position=0.25, tilt=1.2, decay=2.0, damping=0.03, knock=0.1),
        ),
        Instrument(
            "synth bass",
            "bass",
            28,
            50,
            partial(_sustained, cutoff=500, attack=0.01, release=0.06, vibrato=0.0),
        ),
        Instrument(
            "warm pads",
            "pads",
            48,
            72,
            partial(_pad, cutoff=1300, attack=0.5, release=0.5, vibrato=0.0015),
        ),
        Instrument(
            "airy pads",
            "pads",
            55,
            79,
            partial(
                _pad, cutoff=5000, tilt=1.5, attack=0.7, release=0.6, vibrato=0.0015, breath=0.15
            ),
        ),
        Instrument(
            "string section",
            "pads",
            48,
            76,
            partial(_pad, cutoff=3200, attack=0.25, release=0.35, vibrato=0.004, breath=0.03),
        ),
    )
}
