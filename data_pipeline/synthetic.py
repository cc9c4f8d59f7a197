"""The built-in data set: procedural stereo music with captions and machine-readable truth, deterministic from (seed, index).

A clip draws a style (key, tempo, metre, progression, parts), writes each part as notes, plays them with `instruments`, pans them
and adds a room. It needs no download, so quickstart, tests and benchmarks run on any machine; its truth makes prompts checkable.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, oaconvolve, sosfilt

from data_pipeline.instruments import DRUMS, INSTRUMENTS, SAMPLE_RATE, Instrument

KEYS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {  # scale degrees from 0; one chord a bar
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (5, 3, 0, 4), (0, 2, 3, 4), (1, 4, 0, 0)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 6), (0, 3, 6, 2), (5, 6, 0, 0), (0, 2, 6, 3)),
}
TEXTURES = {  # roles, the leading one first; bass and drums may join
    "solo arpeggio": ("arpeggio",),
    "arpeggio over pads": ("arpeggio", "pads"),
    "melody over chords": ("melody", "chords"),
    "melody over pads": ("melody", "pads"),
    "melody over arpeggio": ("melody", "arpeggio"),
    "chords": ("chords",),
    "chords over pads": ("chords", "pads"),
    "pads": ("pads",),
    "melody over chords and pads": ("melody", "chords", "pads"),
}
FAMILIES = dict(
    arpeggio=("plucked", "struck"),
    chords=("plucked", "struck", "bowed"),
    melody=("plucked", "struck", "bowed"),
)
GAINS = dict(
    melody=1.0, arpeggio=0.8, chords=0.7, pads=0.55, bass=0.75, drums=0.8
)  # of parts at equal loudness
PANS = {
    -0.7: "on the left",
    -0.35: "slightly left",
    0.0: "in the centre",
    0.35: "slightly right",
    0.7: "on the right",
}
BEATS = {  # (sound, beats in the bar, loudness)
    "rock": (
        ("kick", (0, 2, 2.5), 1.0),
        ("snare", (1, 3), 0.8),
        ("hat", np.arange(0, 4, 0.5), 0.3),
    ),
    "four-on-the-floor": (
        ("kick", (0, 1, 2, 3), 1.0),
        ("snare", (1, 3), 0.5),
        ("open_hat", np.arange(0.5, 4), 0.3),
    ),
    "half-time": (("kick", (0, 1.5), 1.0), ("snare", (2,), 0.9), ("hat", np.arange(4), 0.35)),
    "busy": (
        ("kick", (0, 0.75, 2.5), 1.0),
        ("snare", (1, 3), 0.8),
        ("hat", np.arange(0, 4, 0.25), 0.25),
    ),
    "waltz": (("kick", (0,), 1.0), ("snare", (1, 2), 0.45), ("hat", np.arange(3), 0.3)),
}
ROOMS = {
    "dry": (0.25, 0.06),
    "room": (0.7, 0.15),
    "hall": (2.0, 0.28),
}  # reverberation time in s, share of the sound
RHYTHMS = (
    (1, 1, 2),
    (1.5, 0.5, 1, 1),
    (0.5, 0.5, 1, 2),
    (3, 1),
    (2, 1, 0.5, 0.5),
    (0.5, 0.5, 0.5, 0.5, 1, 1),
)  # of a melody's bar


@dataclass(frozen=True)
class Part:
    instrument: Instrument
    role: str
    pan: float  # -1 left ... 1 right; pads are wide and have 0


@dataclass(frozen=True)
class Style:
    """Everything that a caption may speak about."""

    key: int
    scale: str
    tempo: int
    metre: int
    progression: tuple[int, ...]
    texture: str
    parts: tuple[Part, ...]
    drums: str  # "" for none
    room: str

    @property
    def truth(self) -> dict:
        """The style as JSON values; `tonal` clips have no drums."""
        parts = [
            dict(
                instrument=p.instrument.name,
                family=p.instrument.family,
                role=p.role,
                pan=p.pan,
                wide=p.instrument.family == "pads",
            )
            for p in self.parts
        ]
        return dict(
            key=f"{KEYS[self.key]} {self.scale}", tempo=self.tempo, metre=self.metre, texture=self.texture, parts=parts,
            instruments=[p.instrument.name for p in self.parts], drums=self.drums, tonal=not self.drums, room=self.room,
        )  # fmt: skip


@dataclass(frozen=True)
class Clip:
    audio: np.ndarray  # float32 [samples, 2] at 48 kHz, peak 0.5-0.9
    caption: str
    truth: dict


def describe(seed: int, index: int) -> tuple[Style, str]:
    """Style and caption of clip number `index` of the data set `seed`, without playing it."""
    style = draw_style(np.random.default_rng([seed, index, 0]))
    return style, caption(style, np.random.default_rng([seed, index, 1]))


def clip(seed: int, index: int, seconds: float) -> Clip:
    """Clip number `index` of the data set `seed`; style and caption do not depend on `seconds`."""
    style, words = describe(seed, index)
    return Clip(render(style, seconds, np.random.default_rng([seed, index, 2])), words, style.truth)


def _choose(rng: np.random.Generator, items):
    items = list(items)
    return items[rng.integers(len(items))]


def draw_style(rng: np.random.Generator) -> Style:
    scale, texture = _choose(rng, SCALES), _choose(rng, TEXTURES)
    metre = 3 if rng.random() < 0.2 else 4
    pan, parts = float(_choose(rng, PANS)), []
    for role in TEXTURES[texture]:
        families = FAMILIES.get(role, ("pads",))
        taken = {p.instrument.name for p in parts}
        instrument = _choose(
            rng, [i for i in INSTRUMENTS.values() if i.family in families and i.name not in taken]
        )
        parts.append(Part(instrument, role, 0.0 if role == "pads" else pan))
        pan = -pan  # the next one sits across
    if rng.random() < 0.45:
        parts.append(
            Part(_choose(rng, [i for i in INSTRUMENTS.values() if i.family == "bass"]), "bass", 0.0)
        )
    drums = (
        ""
        if rng.random() < 0.5 or texture == "pads"
        else "waltz"
        if metre == 3
        else _choose(rng, [b for b in BEATS if b != "waltz"])
    )
    return Style(
        int(rng.integers(12)), scale, int(rng.integers(60, 161)), metre, _choose(rng, PROGRESSIONS[scale]), texture,
        tuple(parts), drums, _choose(rng, ROOMS),
    )  # fmt: skip


# Writing: a part is a list of notes (start in beats, length in beats, MIDI number, loudness).


def _chord(style: Style, bar: int, centre: float) -> list[int]:
    """The bar's triad, every tone in the octave around `centre`: inversions then follow by themselves."""
    degree = style.progression[bar % len(style.progression)]
    tones = (style.key + SCALES[style.scale][(degree + step) % 7] for step in (0, 2, 4))
    return sorted(int(tone + 12 * np.round((centre - tone) / 12)) for tone in tones)


def _arpeggio(style, instrument, bars, rng):
    centre = (instrument.low + instrument.high) / 2 - 3
    order = _choose(
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
    hits = _choose(rng, ((0,), (0, 2), (0, 1, 2, 3), (0, 1.5, 2.5), (0.5, 1.5, 2.5, 3.5)))
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
    """A walk on the scale that meets the chord at every bar line; the rhythm repeats as A A B A."""
    scale = SCALES[style.scale]
    ladder = [
        n for n in range(instrument.low + 7, instrument.high - 2) if (n - style.key) % 12 in scale
    ]
    rhythms = [_choose(rng, RHYTHMS) for _ in range(2)]
    at = len(ladder) // 2
    for bar in range(bars):
        start, chord = 0.0, {tone % 12 for tone in _chord(style, bar, 60)}
        for length in rhythms[bar % 4 == 2]:
            if start >= style.metre:
                break
            at = int(np.clip(at + _choose(rng, (-2, -1, -1, 0, 1, 1, 2)), 0, len(ladder) - 1))
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
    steps = _choose(
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
    played: dict[tuple, np.ndarray] = {}  # a note that comes again sounds the same
    for start, length, midi, loudness in ROLES[part.role](style, part.instrument, bars, rng):
        start = max(0.0, start * beat + rng.normal(0, 0.004))  # nobody plays exactly on time
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
                _add(mix, _choose(rng, sounds[name]), start, loudness * rng.uniform(0.8, 1.0))
    return mix


def _reverberate(dry: np.ndarray, room: str, rng: np.random.Generator) -> np.ndarray:
    """`dry` plus its echo from a room whose two ears hear different reflections: decaying, darkened noise."""
    seconds, share = ROOMS[room]
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal((len(t), 2)) * np.exp(-6.9 * t / seconds)[:, None]
    response = sosfilt(butter(1, 3500, fs=SAMPLE_RATE, output="sos"), response, axis=0)
    response = np.pad(
        response / np.sqrt((response**2).sum(0)), ((SAMPLE_RATE // 80, 0), (0, 0))
    ).astype(np.float32)
    return (1 - share) * dry + share * oaconvolve(dry, response, axes=0)[: len(dry)]


def render(style: Style, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """`style` played for `seconds`: float32 [samples, 2]."""
    samples = round(seconds * SAMPLE_RATE)
    parts = [(p.role, _play(style, p, samples, rng)) for p in style.parts]
    if style.drums:
        parts.append(("drums", _play_drums(style, samples, rng)))
    mix = sum(
        GAINS[role] / max(float(np.sqrt((audio**2).mean())), 1e-9) * audio for role, audio in parts
    )
    mix = _reverberate(mix, style.room, rng)
    return (mix * (rng.uniform(0.5, 0.9) / np.abs(mix).max())).astype(np.float32)


# Describing


def _describe(part: Part, rng: np.random.Generator) -> str:
    name = part.instrument.name
    where = "" if part.role in ("pads", "bass") else PANS[part.pan]
    if part.role == "pads":
        what = _choose(rng, (name, f"wide {name}"))
        what = what if name.endswith("pads") else f"a {what}"
    elif part.role == "bass":
        what = f"a {name}"
    else:
        family = (
            {"plucked": "plucked ", "bowed": "bowed "}.get(part.instrument.family, "")
            if rng.random() < 0.5
            else ""
        )
        figure = "chords" if part.role == "chords" else part.role
        what = f"{family}{name} {figure}" if part.role == "chords" else f"a {family}{name} {figure}"
        if where == PANS[0.0] and rng.random() < 0.5:
            where = ""
    what = what.replace("a airy", "an airy")
    return f"{what} {where}".strip()


def caption(style: Style, rng: np.random.Generator) -> str:
    """A sentence that says what is in the clip, in varied words; every statement in it is true of `style`."""
    lead, *others = (_describe(p, rng) for p in style.parts)
    drums = (
        _choose(rng, (f"{style.drums} drums", f"a {style.drums} drum beat")) if style.drums else ""
    )
    others += [drums] if drums else []
    text = lead
    if others:
        joined = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
        text += f" {_choose(rng, ('over', 'with'))} {joined}"
    pace = "slow" if style.tempo < 85 else "fast" if style.tempo > 125 else "moderate"
    details = [
        f"in {KEYS[style.key]} {style.scale}",
        _choose(
            rng,
            (
                f"{style.tempo} bpm",
                f"{style.tempo} beats per minute",
                f"{pace} tempo, {style.tempo} bpm",
            ),
        ),
    ]
    if style.metre == 3:
        details.append(_choose(rng, ("in three", "in 3/4 time")))
    if style.room != "room" and rng.random() < 0.5:
        details.append({"dry": "dry sound", "hall": "in a large hall"}[style.room])
    if not style.drums and rng.random() < 0.4:
        details.append("no drums")
    if rng.random() < 0.3:
        return f"{', '.join(details[:2])}: {text}".removeprefix("in ") + "".join(
            f", {d}" for d in details[2:]
        )
    return ", ".join((text, *details))
