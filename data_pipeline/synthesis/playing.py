"""From a style to audio: each part is written as notes, played, panned and mixed in a room."""

import numpy as np
from scipy.signal import butter, oaconvolve, sosfilt

from data_pipeline.synthesis.instruments import DRUMS, SAMPLE_RATE
from data_pipeline.synthesis.styles import BEATS, ROOMS, SCALES, Part, Style, choose

# Of parts at equal loudness.
GAINS = dict(melody=1.0, arpeggio=0.8, chords=0.7, pads=0.55, bass=0.75, drums=0.8)
RHYTHMS = (  # of a melody's bar, in beats
    (1, 1, 2),
    (1.5, 0.5, 1, 1),
    (0.5, 0.5, 1, 2),
    (3, 1),
    (2, 1, 0.5, 0.5),
    (0.5, 0.5, 0.5, 0.5, 1, 1),
)


# Writing: a part is a list of notes (start in beats, length in beats, MIDI number, loudness).


def _chord(style: Style, bar: int, centre: float) -> list[int]:
    """The bar's triad, every tone in the octave around `centre`; it may be inverted."""
    degree = style.progression[bar % len(style.progression)]
    tones = (style.key + SCALES[style.scale][(degree + step) % 7] for step in (0, 2, 4))
    return sorted(int(tone + 12 * np.round((centre - tone) / 12)) for tone in tones)


def _arpeggio(style, instrument, bars, rng):
    centre = (instrument.low + instrument.high) / 2 - 3
    order = choose(
        rng, ((0, 1, 2, 3), (0, 1, 2, 3, 2, 1), (3, 2, 1, 0), (0, 2, 1, 3), (0, 2, 1, 2))
    )
    step = 0.25 if style.tempo < 90 and rng.random() < 0.6 else 0.5
    for bar in range(bars):
        tones = _chord(style, bar, centre)
        tones.append(tones[0] + 12)
        for i in range(int(style.metre / step)):
            yield (
                bar * style.metre + i * step,
                step * 1.5,
                tones[order[i % len(order)]],
                1.0 if i == 0 else rng.uniform(0.65, 0.9),
            )


def _chords(style, instrument, bars, rng):
    hits = choose(rng, ((0,), (0, 2), (0, 1, 2, 3), (0, 1.5, 2.5), (0.5, 1.5, 2.5, 3.5)))
    hits = (0,) if instrument.family == "bowed" else tuple(h for h in hits if h < style.metre)
    strum = 0.03 if instrument.family == "plucked" else 0.0
    for bar in range(bars):
        for hit, end in zip(hits, (*hits[1:], style.metre), strict=True):
            for i, tone in enumerate(_chord(style, bar, (instrument.low + instrument.high) / 2)):
                yield (
                    bar * style.metre + hit + strum * i,
                    (end - hit) * 0.95,
                    tone,
                    rng.uniform(0.75, 1.0),
                )


def _melody(style, instrument, bars, rng):
    """A random walk on the scale, on a chord tone at every bar line; rhythm A A B A."""
    scale = SCALES[style.scale]
    ladder = [
        n for n in range(instrument.low + 7, instrument.high - 2) if (n - style.key) % 12 in scale
    ]
    rhythms = [choose(rng, RHYTHMS) for _ in range(2)]
    at = len(ladder) // 2
    for bar in range(bars):
        start, chord = 0.0, {tone % 12 for tone in _chord(style, bar, 60)}
        for length in rhythms[bar % 4 == 2]:
            if start >= style.metre:
                break
            at = int(np.clip(at + choose(rng, (-2, -1, -1, 0, 1, 1, 2)), 0, len(ladder) - 1))
            if start == 0:
                at = min(
                    (i for i, n in enumerate(ladder) if n % 12 in chord), key=lambda i: abs(i - at)
                )
            length = min(length, style.metre - start)
            yield (
                bar * style.metre + start,
                length * 0.95,
                ladder[at],
                1.0 if start == 0 else rng.uniform(0.7, 0.95),
            )
            start += length


def _pads(style, instrument, bars, rng):
    for bar in range(bars):
        for tone in _chord(style, bar, (instrument.low + instrument.high) / 2):
            yield bar * style.metre, style.metre + 0.4, tone, 1.0


def _bass(style, instrument, bars, rng):
    steps = choose(
        rng,
        (
            ((0, 0),),
            ((0, 0), (2, 4)),
            tuple((i / 2, 0) for i in range(8)),
            ((0, 0), (1.5, 0), (2, 4)),
        ),
    )
    steps = [s for s in steps if s[0] < style.metre]
    for bar in range(bars):
        degree = style.progression[bar % len(style.progression)]
        for (start, interval), end in zip(
            steps, [s[0] for s in steps[1:]] + [style.metre], strict=True
        ):
            tone = style.key + SCALES[style.scale][(degree + interval) % 7]
            yield (
                bar * style.metre + start,
                (end - start) * 0.9,
                tone + 12 * int(np.ceil((instrument.low - tone) / 12)),
                1.0,
            )


ROLES = dict(arpeggio=_arpeggio, chords=_chords, melody=_melody, pads=_pads, bass=_bass)


# Playing: notes to audio [samples, 2].


def _pan(mono: np.ndarray, pan: float) -> np.ndarray:
    """Equal-power panning."""
    angle = (pan + 1) * np.pi / 4
    return mono[:, None] * np.array([np.cos(angle), np.sin(angle)], np.float32)


def _add(mix: np.ndarray, note: np.ndarray, start: float, gain: float) -> None:
    at = max(0, int(start * SAMPLE_RATE))
    span = mix[at : at + len(note)]
    span += np.float32(gain) * note[: len(span)]


def _play(style: Style, part: Part, samples: int, rng: np.random.Generator) -> np.ndarray:
    beat, seconds = 60 / style.tempo, samples / SAMPLE_RATE
    bars = int(np.ceil(seconds / (beat * style.metre)))
    mix = np.zeros((samples, 2) if part.instrument.family == "pads" else samples, np.float32)
    played: dict[tuple, np.ndarray] = {}  # a repeated note sounds the same
    for start, length, midi, loudness in ROLES[part.role](style, part.instrument, bars, rng):
        start = max(0.0, start * beat + rng.normal(0, 0.004))  # players are never exactly on time
        if start >= seconds:
            continue
        length = min(
            length * beat + (1.2 if part.instrument.rings else 0.05), seconds - start + 0.1
        )
        note = (midi, round(length, 2))
        if note not in played:
            played[note] = part.instrument.voice(440 * 2 ** ((midi - 69) / 12), length, rng)
        _add(mix, played[note], start, loudness)
    return mix if mix.ndim == 2 else _pan(mix, part.pan)


def _play_drums(style: Style, samples: int, rng: np.random.Generator) -> np.ndarray:
    beat, mix = 60 / style.tempo, np.zeros((samples, 2), np.float32)
    places = dict(kick=0.0, snare=0.1, hat=-0.3, open_hat=-0.3)
    sounds = {
        name: [_pan(make(rng), places[name]) for _ in range(3)] for name, make in DRUMS.items()
    }
    for bar in range(int(np.ceil(samples / SAMPLE_RATE / (beat * style.metre)))):
        for name, hits, loudness in BEATS[style.drums]:
            for hit in hits:
                start = (bar * style.metre + hit) * beat + rng.normal(0, 0.002)
                _add(mix, choose(rng, sounds[name]), start, loudness * rng.uniform(0.8, 1.0))
    return mix


def _reverberate(dry: np.ndarray, room: str, rng: np.random.Generator) -> np.ndarray:
    """`dry` with reverberation: convolved with decaying low-passed noise, another a channel."""
    seconds, share = ROOMS[room]
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal((len(t), 2)) * np.exp(-6.9 * t / seconds)[:, None]
    response = sosfilt(butter(1, 3500, fs=SAMPLE_RATE, output="sos"), response, axis=0)
    response = np.pad(
        response / np.sqrt((response**2).sum(0)), ((SAMPLE_RATE // 80, 0), (0, 0))
    ).astype(np.float32)
    return (1 - share) * dry + share * oaconvolve(dry, response, axes=0)[: len(dry)]


def render(style: Style, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The audio of `style`, float32 [samples, 2], peak 0.5 to 0.9."""
    samples = round(seconds * SAMPLE_RATE)
    parts = [(p.role, _play(style, p, samples, rng)) for p in style.parts]
    if style.drums:
        parts.append(("drums", _play_drums(style, samples, rng)))
    mix = sum(
        GAINS[role] / max(float(np.sqrt((audio**2).mean())), 1e-9) * audio for role, audio in parts
    )
    mix = _reverberate(mix, style.room, rng)
    return (mix * (rng.uniform(0.5, 0.9) / np.abs(mix).max())).astype(np.float32)
