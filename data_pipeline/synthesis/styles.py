"""Styles: what is drawn for a clip before a note is written, and the caption that describes it."""

from dataclasses import dataclass

import numpy as np

from data_pipeline.synthesis.instruments import INSTRUMENTS, Instrument

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
# Reverberation time in s, and its share of the sound.
ROOMS = {"dry": (0.25, 0.06), "room": (0.7, 0.15), "hall": (2.0, 0.28)}


@dataclass(frozen=True)
class Part:
    instrument: Instrument
    role: str
    pan: float  # -1 left ... 1 right; pads are wide and have 0


@dataclass(frozen=True)
class Style:
    """Everything that a caption may describe."""

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
            key=f"{KEYS[self.key]} {self.scale}",
            tempo=self.tempo,
            metre=self.metre,
            texture=self.texture,
            parts=parts,
            instruments=[p.instrument.name for p in self.parts],
            drums=self.drums,
            tonal=not self.drums,
            room=self.room,
        )


def choose(rng: np.random.Generator, items):
    items = list(items)
    return items[rng.integers(len(items))]


def draw_style(rng: np.random.Generator) -> Style:
    scale, texture = choose(rng, SCALES), choose(rng, TEXTURES)
    metre = 3 if rng.random() < 0.2 else 4
    pan, parts = float(choose(rng, PANS)), []
    for role in TEXTURES[texture]:
        families = FAMILIES.get(role, ("pads",))
        taken = {p.instrument.name for p in parts}
        instrument = choose(
            rng, [i for i in INSTRUMENTS.values() if i.family in families and i.name not in taken]
        )
        parts.append(Part(instrument, role, 0.0 if role == "pads" else pan))
        pan = -pan  # the next part is on the other side
    if rng.random() < 0.45:
        parts.append(
            Part(choose(rng, [i for i in INSTRUMENTS.values() if i.family == "bass"]), "bass", 0.0)
        )
    drums = (
        ""
        if rng.random() < 0.5 or texture == "pads"
        else "waltz"
        if metre == 3
        else choose(rng, [b for b in BEATS if b != "waltz"])
    )
    return Style(
        key=int(rng.integers(12)),
        scale=scale,
        tempo=int(rng.integers(60, 161)),
        metre=metre,
        progression=choose(rng, PROGRESSIONS[scale]),
        texture=texture,
        parts=tuple(parts),
        drums=drums,
        room=choose(rng, ROOMS),
    )


def _describe_part(part: Part, rng: np.random.Generator) -> str:
    name = part.instrument.name
    where = "" if part.role in ("pads", "bass") else PANS[part.pan]
    if part.role == "pads":
        what = choose(rng, (name, f"wide {name}"))
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
    """A sentence in varied words that describes `style`; all its statements are true."""
    lead, *others = (_describe_part(p, rng) for p in style.parts)
    drums = (
        choose(rng, (f"{style.drums} drums", f"a {style.drums} drum beat")) if style.drums else ""
    )
    others += [drums] if drums else []
    text = lead
    if others:
        joined = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
        text += f" {choose(rng, ('over', 'with'))} {joined}"
    pace = "slow" if style.tempo < 85 else "fast" if style.tempo > 125 else "moderate"
    details = [
        f"in {KEYS[style.key]} {style.scale}",
        choose(
            rng,
            (
                f"{style.tempo} bpm",
                f"{style.tempo} beats per minute",
                f"{pace} tempo, {style.tempo} bpm",
            ),
        ),
    ]
    if style.metre == 3:
        details.append(choose(rng, ("in three", "in 3/4 time")))
    if style.room != "room" and rng.random() < 0.5:
        details.append({"dry": "dry sound", "hall": "in a large hall"}[style.room])
    if not style.drums and rng.random() < 0.4:
        details.append("no drums")
    if rng.random() < 0.3:
        return f"{', '.join(details[:2])}: {text}".removeprefix("in ") + "".join(
            f", {d}" for d in details[2:]
        )
    return ", ".join((text, *details))
