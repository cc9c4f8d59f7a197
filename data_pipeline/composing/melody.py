"""Melodies: phrases of motifs over chords.

A theme is made of phrases of two bars. Each phrase takes its rhythm and its contour from one of
two motifs, so that they return over other chords. Notes on strong beats, long notes and last notes
are chord tones. The notes between them lead from one chord tone to the next: as passing tones by
step, as neighbours, or as broken chords. Every phrase ends with a longer note and a rest.
"""

import itertools
from dataclasses import dataclass

from data_pipeline.composing import harmony
from data_pipeline.composing.forms import Bar, Key, Section
from data_pipeline.composing.notes import Note, clamp

# Rhythms of one bar in quarter notes, by how dense they are: calm, moving, busy.
_FOUR = (
    ((2, 2), (3, 1), (4,), (2, 1, 1), (1.5, 0.5, 2), (1, 1, 2)),
    (
        (1, 1, 1, 1),
        (1.5, 0.5, 1, 1),
        (1, 0.5, 0.5, 2),
        (0.5, 0.5, 1, 2),
        (1, 1.5, 0.5, 1),
        (1.5, 1.5, 1),
    ),
    (
        (0.5, 0.5, 0.5, 0.5, 1, 1),
        (1, 0.5, 0.5, 0.5, 0.5, 1),
        (0.5,) * 6 + (1,),
        (0.5, 1, 0.5, 1, 0.5, 0.5),
        (1.5, 0.5, 0.5, 0.5, 1),
    ),
)
_THREE = (
    ((3,), (2, 1), (1, 2)),
    ((1, 1, 1), (1.5, 0.5, 1), (2, 0.5, 0.5), (1, 1.5, 0.5)),
    ((0.5,) * 4 + (1,), (1, 0.5, 0.5, 1), (1, 0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 1, 0.5, 0.5)),
)
_SIX = (
    ((3,), (1.5, 1.5), (2, 1)),
    ((1, 0.5, 1.5), (1.5, 1, 0.5), (1, 0.5, 1, 0.5), (2, 0.5, 0.5)),
    ((0.5,) * 6, (1, 0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 1, 0.5), (0.5, 0.5, 0.5, 1.5)),
)
_CONTOURS = (  # of a phrase, in chord tones above its centre at the start, the middle and the end
    (0, 2, 0),
    (-1, 0, 1),
    (1, 0, -1),
    (0, -2, 0),
    (0, 1, 2),
    (2, 1, 0),
    (-1, 2, 1),
    (1, 2, -1),
)
_ANSWERS = ("abac", "aaba", "abab", "aabc", "aaab")  # motifs of four phrases


@dataclass(frozen=True)
class Voice:
    """An instrument that plays a melody: its program and the range where it sounds well."""

    program: int
    low: int
    high: int


@dataclass(frozen=True)
class Manner:
    """How a theme is played. `swing` moves off-beat eighths to the third triplet."""

    density: int  # 0 calm, 1 moving, 2 busy
    lift: int = 0  # semitones above the middle of the range
    swing: bool = False
    compound: bool = False  # 6/8 and 12/8


@dataclass(frozen=True)
class Motif:
    """The rhythm of two bars, as lengths, and a contour."""

    rhythm: tuple[tuple[float, ...], tuple[float, ...]]
    contour: tuple[int, int, int]


def rhythm(length: float, density: int, compound: bool, rng) -> tuple[float, ...]:
    """Lengths in quarter notes that fill one bar."""
    near = clamp(density + rng.choice((-1, 0, 0, 0, 0, 1)), 0, 2)
    if compound:
        table = _SIX
    elif length == 3:
        table = _THREE
    elif length == 5:
        return rng.choice(_THREE[near]) + rng.choice(((2,), (1, 1)))
    else:
        table = _FOUR
    cells: tuple[float, ...] = ()
    while sum(cells) < length:  # 12/8 takes two halves
        cells += rng.choice(table[near])
    return cells


def _strong(offset: float, length: float, compound: bool) -> bool:
    """Whether a place in the bar, in quarter notes after the bar line, is a strong beat."""
    if compound:
        return offset % 1.5 == 0
    return offset % (2 if length == 4 else 3) == 0


def _nearest(pitch: float, classes, low: int, high: int) -> int:
    """The note of some pitch classes that is nearest to `pitch` within the range."""
    options = [note for note in range(low, high + 1) if note % 12 in classes]
    return min(options, key=lambda note: (abs(note - pitch), note))


def _stable(chord: harmony.Chord) -> list[int]:
    """The tones on which a melody rests: root, third and fifth."""
    return chord.tones[:3]


def _between(before: int, after: int, count: int, classes, low: int, high: int, rng) -> list[int]:
    """`count` notes that lead from one note to the next, from the pitch classes of the scale."""
    ladder = [note for note in range(low, high + 1) if note % 12 in classes]
    nearest = lambda pitch: min(range(len(ladder)), key=lambda i: abs(ladder[i] - pitch))
    first, last = nearest(before), nearest(after)
    if count == 1 and abs(last - first) != 2 and rng.random() < 0.6:
        steps = [last + rng.choice((-1, 1))]  # the neighbour of the note that follows
    elif abs(last - first) > count + 1:
        steps = [round(first + (last - first) * (i + 1) / (count + 1)) for i in range(count)]
    else:  # turn round first, so that the last notes arrive by step
        direction = rng.choice((-1, 1)) if last == first else (1 if last > first else -1)
        steps = [last - direction * (count - i) for i in range(count)]
    return [ladder[clamp(step, 0, len(ladder) - 1)] for step in steps]


def _phrase(
    bars: list[Bar], motif: Motif, key: Key, voice: Voice, manner: Manner, last, closes, rng
):
    """The notes of one phrase: (start, length, pitch). `last` is the pitch before it, or None."""
    centre = (voice.low + voice.high) / 2 + manner.lift
    start = bars[0].start
    length = sum(bar.length for bar in bars)
    places = []
    for bar, lengths in zip(bars, motif.rhythm, strict=False):
        offset = 0.0
        for step in lengths:
            places.append((bar, offset, step))
            offset += step
    # The last bar of a phrase ends with a long note and a rest.
    closing = max(1, round(bars[-1].length * 0.4))
    kept = [
        place
        for place in places
        if place[0].start + place[1] <= start + length - 2 * closing + 1e-6
    ]
    bar, offset, _ = kept[-1]
    final = max(closing, start + length - (bar.start + offset) - closing)
    kept[-1] = (bar, offset, min(final, 4))
    anchors = {}
    for i, (bar, offset, step) in enumerate(kept):
        time = bar.start + offset
        chord = bar.chord_at(time)
        ending = i == len(kept) - 1
        strong = _strong(offset, bar.length, manner.compound)
        if not (strong or ending or i == 0 or step >= 1.5):
            continue
        share = (time - start) / length * 2
        low, middle, high = motif.contour
        height = low + (middle - low) * min(share, 1) + (high - middle) * max(share - 1, 0)
        target = centre + 3.8 * height
        if last is not None:
            target = 0.7 * target + 0.3 * last
        classes = chord.tones
        if ending:
            classes = _stable(chord)
            if closes and chord.root == key.tonic:
                classes = [chord.root] if rng.random() < 0.7 else _stable(chord)[:2]
        pitch = _nearest(target, classes, voice.low, voice.high)
        if pitch == last and not ending and rng.random() < 0.5:
            others = [
                note for note in (pitch + d for d in (-5, -4, -3, 3, 4, 5)) if note % 12 in classes
            ]
            others = [note for note in others if voice.low <= note <= voice.high]
            pitch = min(others, key=lambda note: abs(note - target)) if others else pitch
        anchors[i] = last = pitch
    pitches = dict(anchors)
    for (i, before), (j, after) in itertools.pairwise(anchors.items()):
        if j - i > 1:
            bar, offset, _ = kept[i]
            chord = bar.chord_at(bar.start + offset)
            classes = harmony.scale(chord, key.tonic, key.mode)
            found = _between(before, after, j - i - 1, classes, voice.low, voice.high, rng)
            for k, pitch in enumerate(found):
                bar, offset, _ = kept[i + 1 + k]
                # A chord that has changed meanwhile has its own scale.
                scale = harmony.scale(bar.chord_at(bar.start + offset), key.tonic, key.mode)
                pitches[i + 1 + k] = _nearest(pitch, scale, voice.low, voice.high)
    return [
        (bar.start + offset, step, pitches[i]) for i, (bar, offset, step) in enumerate(kept)
    ], last


def motifs(bar: float, manner: Manner, rng) -> dict[str, Motif]:
    """Three motifs, by their letters."""
    made = {}
    for letter in "abc":
        first = rhythm(bar, manner.density, manner.compound, rng)
        second = rhythm(bar, max(0, manner.density - 1), manner.compound, rng)
        if rng.random() < 0.35:
            second = first
        made[letter] = Motif((first, second), rng.choice(_CONTOURS))
    return made


def theme(section: Section, key: Key, voice: Voice, manner: Manner, rng) -> list[list[Note]]:
    """A melody for a section, as one list of notes a phrase."""
    made, last, phrases = motifs(section.bars[0].length, manner, rng), None, []
    order = rng.choice(_ANSWERS)
    groups = [section.bars[i : i + 2] for i in range(0, len(section.bars), 2)]
    for number, bars in enumerate(groups):
        motif = made[order[number % len(order)]]
        closes = number % 2 == 1 or number == len(groups) - 1
        found, last = _phrase(bars, motif, key, voice, manner, last, closes, rng)
        phrases.append([Note(start, length, pitch, 80) for start, length, pitch in found])
    return phrases


def perform(notes: list[Note], manner: Manner, loudness: int, rng) -> list[Note]:
    """Gives notes their velocities, a little looseness in time, and swing."""
    played = []
    if not notes:
        return played
    peak = max(note.pitch for note in notes)
    for note in notes:
        start, length = note.start, note.length
        if manner.swing and start % 1 == 0.5:
            start, length = start + 1 / 6, max(length - 1 / 6, 0.25)
        elif manner.swing and length == 0.5:
            length += 1 / 6
        accent = 6 if start % 1 == 0 else 0
        height = 6 - min(peak - note.pitch, 12) / 2
        velocity = clamp(loudness + accent + height + rng.gauss(0, 4), 25, 124)
        start = max(0.0, start + rng.gauss(0, 0.012))
        played.append(Note(start, length * rng.uniform(0.86, 0.98), note.pitch, velocity))
    return played


def in_thirds(notes: list[Note], section_chords, key: Key, low: int) -> list[Note]:
    """The melody a third lower, in the scale of each chord; `section_chords` maps a time to one."""
    doubled = []
    for note in notes:
        classes = harmony.scale(section_chords(note.start), key.tonic, key.mode)
        below = [pitch for pitch in range(note.pitch - 5, note.pitch - 2) if pitch % 12 in classes]
        if below and below[-1] >= low:
            doubled.append(Note(note.start, note.length, below[-1], max(1, note.velocity - 10)))
    return doubled
