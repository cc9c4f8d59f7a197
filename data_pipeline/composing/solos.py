"""Pieces without a groove: solo instruments, chorales, arpeggios, pads and percussion."""

from dataclasses import dataclass

from data_pipeline.composing import arranging, chorale, drums, textures, themes
from data_pipeline.composing.forms import Form, Key
from data_pipeline.composing.melody import Manner
from data_pipeline.composing.notes import Note, Part
from data_pipeline.composing.styles import Style

_MODES = "major minor dorian mixolydian"


@dataclass(frozen=True)
class Solo:
    """A kind of piece by our own code.

    `tonal` says that it has a key, `chordal` that its chords can be heard, and `wide` that its
    parts are panned far out.
    """

    style: Style
    tonal: bool = True
    chordal: bool = True
    wide: bool = False


def _style(name: str, tempo, flavour: str, kinds: str, leads=(), weight: float = 1) -> Style:
    return Style(name, tempo, flavour, kinds, tuple(leads), weight=weight)


SOLOS = {
    solo.style.name: solo
    for solo in (
        Solo(_style("solo piano", (60, 116), "pop", "major minor dorian", (0, 1), 5)),
        Solo(_style("solo guitar", (66, 112), "plain", _MODES, (24, 25), 3)),
        Solo(_style("electric piano", (60, 96), "jazz", "jazz jazz-minor minor", (4, 5), 1.5)),
        Solo(_style("harpsichord piece", (80, 120), "plain", "major minor", (6,), 1)),
        Solo(_style("string quartet", (56, 100), "plain", "major minor", (40,), 2)),
        Solo(_style("choir chorale", (54, 84), "plain", "major minor", (52,), 1.5)),
        Solo(_style("brass chorale", (60, 92), "plain", "major minor", (56,), 1)),
        Solo(_style("organ chorale", (56, 84), "plain", "major minor dorian", (19,), 1)),
        Solo(_style("woodwind quartet", (60, 104), "plain", "major minor", (73, 68), 1)),
        Solo(_style("harp arpeggios", (66, 112), "pop", _MODES, (73, 40, 71, 42), 1.5)),
        Solo(
            _style("synth arpeggios", (90, 134), "pop", "minor dorian", (81, 80, 88), 1.5),
            wide=True,
        ),
        Solo(_style("mallets", (84, 132), "pop", "major dorian minor", (12, 11, 13, 73), 1.5)),
        Solo(
            _style("ambient pads", (56, 80), "pop", "lydian dorian minor", (11, 73, 88, 10), 2),
            wide=True,
        ),
        Solo(
            _style(
                "drone", (54, 76), "plain", "phrygian dorian mixolydian", (75, 42, 68, 104), 1.5
            ),
            wide=True,
        ),
        Solo(_style("drum solo", (88, 150), "plain", "major", (), 1.5), tonal=False, chordal=False),
        Solo(
            _style("hand percussion", (84, 132), "plain", "major", (), 1.5),
            tonal=False,
            chordal=False,
        ),
        Solo(
            _style("bass and drums", (84, 140), "blues", "dorian minor mixolydian", (), 1.5),
            chordal=False,
        ),
    )
}
_ENSEMBLES = {  # soprano, alto, tenor, bass
    "string quartet": (40, 40, 41, 42),
    "choir chorale": (52, 52, 52, 52),
    "brass chorale": (56, 56, 57, 58),
    "organ chorale": (19, 19, 19, 19),
    "woodwind quartet": (73, 68, 71, 70),
}


def compose(
    name: str, form: Form, key: Key, leads: list[int], *, compound: bool, loudness: int, rng
):
    """The parts of a piece of one kind.

    Args:
        leads: the instruments of the melody, the leading one first; empty where it has none.

    Returns:
        (parts, the program of the melody or None).
    """
    density = rng.choice((0, 1, 1, 2))
    manner = Manner(density, rng.randint(-4, 4), compound=compound)
    silent = {"intro"} if rng.random() < 0.7 else {"intro", "break"}

    def tune(programs, voice_loudness=loudness + 8) -> list[Part]:
        return themes.parts(
            form, key, programs, manner, loudness=voice_loudness, silent=silent, rng=rng
        )

    if name in ("solo piano", "solo guitar", "electric piano", "harpsichord piece"):
        program = leads[0]
        hand = textures.keyboard(form, program, compound=compound, loudness=loudness - 8, rng=rng)
        if name == "solo guitar" and rng.random() < 0.4:
            return [hand], None
        melody = tune([program, program])
        notes = hand.notes + [note for part in melody for note in part.notes]
        return [Part("chords", program, notes)], program
    if name in _ENSEMBLES:
        return _ensemble(name, form, key, leads[0], loudness=loudness, rng=rng), leads[0]
    if name in ("harp arpeggios", "synth arpeggios", "mallets"):
        programs = {
            "harp arpeggios": (46, 46, 24),
            "synth arpeggios": (81, 90, 80),
            "mallets": (12, 11, 108),
        }
        step = 0.5 if compound else rng.choice((0.25, 0.5, 0.5))
        parts = [
            textures.arpeggio(
                form, rng.choice(programs[name]), step=step, loudness=loudness, rng=rng
            )
        ]
        if rng.random() < 0.6:
            parts.append(
                textures.pad(form, rng.choice((48, 89, 91, 42)), centre=57, loudness=loudness - 16)
            )
        if name == "synth arpeggios":
            parts.append(textures.bass(form, 38, "straight", loudness=loudness, rng=rng))
        return (parts + tune(leads), leads[0]) if rng.random() < 0.7 else (parts, None)
    if name == "ambient pads":
        programs = rng.sample((88, 89, 91, 94, 95, 50, 52, 48), 2)
        parts = [
            textures.pad(form, program, centre=centre, loudness=loudness - 6, size=size)
            for program, centre, size in zip(programs, (52, 66), (4, 3), strict=True)
        ]
        return [*parts, _bells(form, leads[0], loudness, rng)], leads[0]
    if name == "drone":
        low = 36 + key.tonic if key.tonic < 8 else 24 + key.tonic
        held = textures.drone(
            form, rng.choice((89, 42, 104, 48)), [low, low + 7, low + 12], loudness - 8
        )
        pad = textures.pad(form, rng.choice((95, 91, 20, 52)), centre=62, loudness=loudness - 14)
        return [held, pad, *tune(leads)], leads[0]
    if name == "drum solo":
        return [drums.kit(form, beat=None, loudness=loudness + 12, rng=rng)], None
    if name == "hand percussion":
        return [drums.hand_percussion(form, loudness=loudness + 12, rng=rng)], None
    line = rng.choice(("syncopated", "straight", "walking"))
    bass = textures.bass(form, rng.choice((33, 34, 35, 36)), line, loudness=loudness + 10, rng=rng)
    return [bass, drums.kit(form, beat=None, loudness=loudness, rng=rng)], None


def _ensemble(name: str, form: Form, key: Key, lead: int, *, loudness: int, rng) -> list[Part]:
    voices = chorale.voices(form, key, moving=rng.random() < 0.7, loudness=loudness, rng=rng)
    programs = (lead, *_ENSEMBLES[name][1:])
    roles = ("melody", "chords", "chords", "chords")
    parts = [
        Part(role, program, notes)
        for role, program, notes in zip(roles, programs, voices, strict=True)
    ]
    if name == "string quartet" and rng.random() < 0.35:  # the inner voices pulse
        for part in parts[1:3]:
            part.notes = [
                Note(note.start + i * 0.5, 0.45, note.pitch, note.velocity - (i % 2) * 8)
                for note in part.notes
                for i in range(max(1, round(note.length * 2)))
            ]
    return parts


def _bells(form: Form, program: int, loudness: int, rng) -> Part:
    """Single high chord tones, far apart."""
    voice, notes = arranging.voice(program), []
    time = form.bars[1].start if len(form.bars) > 1 else 0.0
    while time < form.stop - 4:
        bar = [bar for bar in form.bars if bar.start <= time][-1]
        pitch = textures.low(rng.choice(bar.chord_at(time).tones), voice.low + rng.choice((0, 7)))
        notes.append(Note(time, rng.choice((2, 3, 4)), pitch, loudness + rng.randint(-8, 8)))
        time += rng.choice((1, 1.5, 2, 3, 8))
    return Part("melody", program, notes)
