"""One piece from a seed and a number: what it is like, its notes, and its description."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from pretty_midi import INSTRUMENT_MAP

from data_pipeline.composing import (
    accompaniment,
    arranging,
    forms,
    harmony,
    solos,
    textures,
    themes,
)
from data_pipeline.composing.grooves import Family, Groove
from data_pipeline.composing.melody import Manner
from data_pipeline.composing.notes import Note, Part, Score, clamp
from data_pipeline.composing.splits import TEST_SOUNDFONT, TRAINING_SOUNDFONTS, is_held_out
from data_pipeline.composing.styles import Style
from data_pipeline.composing.titles import title
from jen1_numpy.errors import Refusal

SHORTEST, LONGEST = 16.0, 40.0  # seconds
TEST_SHARE, SOLO_SHARE, SILENT_SHARE = 0.08, 0.15, 0.12
LICENCE = "accompaniment by MMA with its GPL-2+ groove library, the rest CC0-1.0"
OWN_LICENCE = "CC0-1.0"
_NOVELTIES = (("groove",), ("progression",), ("soundfont",), ("pair",), ("groove", "progression"))
_ATTEMPTS = 30
_CLUB = (
    "house",
    "techno",
    "trance",
    "dance pop",
    "drum and bass",
    "disco",
    "hip hop",
    "metal",
    "punk",
)
_HALLS = ("choir chorale", "organ chorale", "hymn", "ambient pads", "drone", "string quartet")

# (family, the groove of every bar, form, seed, whether the key has flats) -> parts
Accompany = Callable[[Family, list[Groove], forms.Form, int, bool], list[Part]]


class Unfit(Exception):
    """A draft that cannot be used; another is drawn."""


@dataclass(frozen=True)
class Task:
    """What a number asks for, whatever drafts it takes."""

    test: bool
    new: frozenset[str]  # what training never has: groove, progression, soundfont, pair
    solo: bool


@dataclass(frozen=True)
class Frame:
    """What is decided before any note: a family of grooves, or a kind of solo.

    `bar` is its length in quarter notes; in 2/4 it holds two bars.
    """

    style: Style
    meter: str
    bar: float
    family: Family | None
    solo: solos.Solo | None

    @property
    def compound(self) -> bool:
        return self.meter in ("6/8", "12/8")

    @property
    def tonal(self) -> bool:
        return self.solo is None or self.solo.tonal

    @property
    def chordal(self) -> bool:
        return self.solo is None or self.solo.chordal


@dataclass(frozen=True)
class Piece:
    score: Score
    about: dict  # the sidecar
    progressions: tuple[str, ...]
    leads: tuple[str, ...]  # the names of all instruments that play melody


def task(seed: int, number: int) -> Task:
    rng = random.Random(f"{seed} {number}")
    test = rng.random() < TEST_SHARE
    solo = rng.random() < SOLO_SHARE
    new = rng.choice(_NOVELTIES) if test and rng.random() < 2 / 3 else ()
    return Task(test, frozenset(new), solo and "groove" not in new)


def compose(seed: int, number: int, families: list[Family], accompany: Accompany) -> Piece:
    """The piece of a number; it depends on nothing but the arguments.

    Raises:
        Refusal: no draft is usable.
    """
    wanted, reason = task(seed, number), ""
    for attempt in range(_ATTEMPTS):
        rng = random.Random(f"{seed} {number} {attempt}")
        try:
            return _draft(wanted, families, accompany, rng)
        except (Unfit, accompaniment.AccompanimentError) as error:
            reason = str(error)
    raise Refusal(f"piece {number} of seed {seed} could not be composed: {reason}")


def pair(program: int, style: Style) -> str:
    """The name of a melody instrument with a style."""
    return f"{INSTRUMENT_MAP[program]} in {style.name}"


def _leads(style: Style, new: bool, rng) -> list[int]:
    """Two instruments for the melody; with `new`, the pair of the first and the style is new."""
    known = [program for program in style.leads if not is_held_out("pair", pair(program, style))]
    first = [program for program in style.leads if program not in known] if new else known
    if not first:
        raise Unfit(f"{style.name} has no instrument for this")
    return [rng.choice(first), rng.choice(known or first)]


def _choose_family(wanted: Task, families: list[Family], rng) -> Family:
    new = "groove" in wanted.new
    allowed = [family for family in families if is_held_out("groove", family.file) == new]
    by_style: dict[str, list[Family]] = {}
    for family in allowed:
        by_style.setdefault(family.style.name, []).append(family)
    if not by_style:
        raise Refusal("the groove library has no groove for this; is it complete?")
    weights = [found[0].style.weight for found in by_style.values()]
    return rng.choice(by_style[rng.choices(list(by_style), weights)[0]])


def _frame(wanted: Task, families: list[Family], rng) -> Frame:
    if not wanted.solo:
        family = _choose_family(wanted, families, rng)
        return Frame(family.style, family.meter, family.bar, family, None)
    kinds = list(solos.SOLOS.values())
    solo = rng.choices(kinds, [kind.style.weight for kind in kinds])[0]
    three = "chorale" not in solo.style.name and "drum" not in solo.style.name
    meter = rng.choices(("4/4", "3/4", "6/8"), (6, 3, 1.5) if three else (6, 0, 0))[0]
    return Frame(solo.style, meter, 4.0 if meter == "4/4" else 3.0, None, solo)


def _plan(frame: Frame, wanted: Task, rng) -> tuple[forms.Form, forms.Key, int]:
    """The form, the key and the quarter notes a minute."""
    felt = rng.uniform(*frame.style.tempo)
    if frame.compound and frame.style.name != "march":
        slow = (60, 84) if frame.meter == "6/8" else (64, 96)
        felt = min(felt, rng.uniform(*slow))
    bpm = round(felt * (1.5 if frame.compound else 1))
    kind = rng.choice(frame.style.kinds.split()).replace("-", " ")
    key = forms.Key(rng.randrange(12), forms.mode_of(kind))
    bars = round(rng.uniform(SHORTEST + 4, LONGEST - 12) * bpm / 60 / frame.bar)
    if "progression" in wanted.new and not frame.tonal:
        raise Unfit("percussion has no harmony")
    try:
        form = forms.plan(
            kind=kind,
            key=key,
            flavour=frame.style.flavour,
            bar=frame.bar,
            compound=frame.compound,
            bars=bars,
            held_out="progression" in wanted.new,
            rng=rng,
        )
    except ValueError as error:
        raise Unfit(str(error)) from error
    return form, key, bpm


def _draft(wanted: Task, families: list[Family], accompany: Accompany, rng) -> Piece:
    frame = _frame(wanted, families, rng)
    form, key, bpm = _plan(frame, wanted, rng)
    loudness = rng.choice((60, 70, 76, 82, 90))
    if frame.family is None:
        style = frame.style
        leads = _leads(style, "pair" in wanted.new, rng) if style.leads else []
        parts, lead = solos.compose(
            style.name, form, key, leads, compound=frame.compound, loudness=loudness, rng=rng
        )
    else:
        parts = _accompaniment(frame, form, key, loudness, accompany, rng)
        lead = None
        if rng.random() >= SILENT_SHARE or "pair" in wanted.new:
            melody = _melody(frame, form, key, loudness, wanted, rng)
            parts = melody + parts
            lead = melody[0].program if melody else None
    if "pair" in wanted.new and lead is None:
        raise Unfit("a new pair needs a melody")
    arranging.humanise(parts, rng)
    parts = arranging.join(parts)
    arranging.place(parts, rng, wide=frame.solo is not None and frame.solo.wide)
    score = Score(parts, _tempos(form, bpm, frame.style, rng), frame.meter, title=title(rng))
    if frame.tonal:
        score.key_signature = harmony.key_signature(key.tonic, key.mode)
    check(score)
    playing = {part.program for part in parts if part.role == "melody"} | ({lead} - {None})
    return Piece(
        score,
        _about(score, frame, form, key, lead, wanted, rng),
        tuple(form.used) if frame.tonal else (),
        tuple(INSTRUMENT_MAP[program] for program in sorted(playing)),
    )


def _accompaniment(frame: Frame, form, key, loudness: int, accompany: Accompany, rng) -> list[Part]:
    """The parts of MMA, with bass and chords where it has only drums."""
    family, style = frame.family, frame.style
    grooves = accompaniment.choose_grooves(family, form, rng)
    parts = accompany(family, grooves, form, rng.randrange(1 << 30), key.flats)
    if family.only_drums:
        parts += textures.band(form, style.name, rng)
    without = rng.choices((None, "drums", "bass"), (88, 8, 4))[0]
    parts = [part for part in parts if part.role != without]
    if not any(part.role in ("bass", "chords") and len(part.notes) > 8 for part in parts):
        raise Unfit("the groove has no harmony")
    for section in form.sections:
        if section.name == "break":
            section.muted = rng.choice(({"drums"}, {"chords", "pad"}))
        elif section.name == "intro" and rng.random() < 0.25:
            section.muted = {"drums"}
    for part in parts:
        part.notes = [note for note in part.notes if not _muted(note, part.role, form)]
        if part.role == "drums":
            part.program = style.kits[0] if rng.random() < 0.6 else rng.choice(style.kits)
        scale = rng.uniform(0.97, 1.03) * (0.72 + loudness / 270)
        part.notes = [
            Note(n.start, n.length, n.pitch, clamp(n.velocity * scale, 10, 126)) for n in part.notes
        ]
    arranging.reinstrument(parts, rng)
    if grooves[-1].role != "ending":
        accompaniment.hold_last_bar(parts, form.bars[-1])
    return parts


def _melody(frame: Frame, form, key, loudness: int, wanted: Task, rng) -> list[Part]:
    programs = _leads(frame.style, "pair" in wanted.new, rng)
    swing = frame.style.swing and not frame.compound
    manner = Manner(rng.choice((0, 1, 1, 2)), rng.randint(-4, 4), swing, frame.compound)
    silent = {"intro"}
    if rng.random() < 0.25:
        silent.add(rng.choice(("verse", "bridge", "break")))
    return themes.parts(form, key, programs, manner, loudness=loudness + 8, silent=silent, rng=rng)


def _muted(note: Note, role: str, form: forms.Form) -> bool:
    return any(
        role in section.muted and section.start <= note.start < section.stop - 0.05
        for section in form.sections
    )


def _tempos(form: forms.Form, bpm: int, style: Style, rng) -> list[tuple[float, float]]:
    """One tempo, and in a third of the pieces a slowing down over the last two bars."""
    tempos = [(0.0, float(bpm))]
    if style.name not in _CLUB and rng.random() < 0.33:
        start, length = form.bars[-2].start, form.bars[-2].length
        for i in range(1, 5):
            tempos.append((start + i * length / 4, round(bpm * (1 - 0.05 * i), 2)))
    return tempos


def check(score: Score) -> None:
    """Raises Unfit where a score begins late, pauses, has too few notes or a wrong length."""
    starts = sorted(
        (score.seconds(n.start), score.seconds(n.stop)) for p in score.parts for n in p.notes
    )
    if len(starts) < 40:
        raise Unfit("fewer than 40 notes")
    if starts[0][0] > 0.4:
        raise Unfit("begins late")
    sounding = 0.0
    for start, stop in starts:
        if start - sounding > 1.5:
            raise Unfit("pauses for more than 1.5 s")
        sounding = max(sounding, stop)
    if not SHORTEST <= sounding <= LONGEST:
        raise Unfit(f"is {sounding:.0f} s long")


def _about(score: Score, frame: Frame, form, key, lead, wanted: Task, rng) -> dict:
    at = lambda quarters: round(score.seconds(quarters), 2)
    room = rng.uniform(0.4, 0.8) if frame.style.name in _HALLS else rng.uniform(0.05, 0.45)
    font = TEST_SOUNDFONT if "soundfont" in wanted.new else rng.choice(TRAINING_SOUNDFONTS)
    about = {
        "title": score.title,
        "style": frame.style.name,
        "licence": OWN_LICENCE if frame.family is None else LICENCE,
        "soundfont": font,
        "split": "test" if wanted.test else "train",
        "seconds": at(score.stop),
        "meter": score.meter,
        "sections": [[at(section.start), section.name] for section in form.sections],
        "melody": None if lead is None else INSTRUMENT_MAP[lead],
        "room": round(room, 2),
    }
    if frame.family is not None:
        about["groove"] = frame.family.file
    if frame.tonal:
        about |= {"key": harmony.key_name(key.tonic, key.mode), "mode": key.mode}
    if frame.chordal:
        about["chords"] = [[at(start), chord.name(key.flats)] for start, chord in form.chords()]
    if wanted.new:
        about["held_out"] = sorted(wanted.new)
    return about
