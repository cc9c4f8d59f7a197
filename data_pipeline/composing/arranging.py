"""Instruments, places and levels of the parts, and how many of them fit into one file."""

from data_pipeline.composing.melody import Voice
from data_pipeline.composing.notes import MELODIC_CHANNELS, Note, Part, clamp

# Where an instrument sounds well as a melody; the others take _RANGE.
_RANGES = {
    (24, 25, 26, 27, 28): (52, 79),
    (29, 30): (52, 81),
    (40, 110): (60, 88),
    (41,): (55, 79),
    (42,): (45, 69),
    (56, 59): (58, 80),
    (57,): (46, 69),
    (58,): (34, 55),
    (60,): (48, 70),
    (64,): (60, 82),
    (65,): (54, 77),
    (66,): (48, 71),
    (67,): (40, 64),
    (68, 69): (60, 82),
    (70,): (40, 65),
    (71,): (54, 81),
    (72,): (74, 98),
    (73, 74, 75): (62, 88),
    (9, 10, 13, 14): (72, 96),
    (105, 104, 106, 107): (52, 76),
    (38, 87): (45, 69),
    (52, 53, 85): (57, 76),
    (22,): (60, 84),
}
_RANGE = (57, 81)
# Programs that may stand for one another in an accompaniment.
_FAMILIES = (
    (0, 1, 0, 0, 2),
    (4, 5, 4),
    (16, 17, 18),
    (24, 25),
    (26, 27),
    (29, 30),
    (33, 34, 35),
    (36, 37),
    (38, 39),
    (48, 49, 50, 51),
    (52, 53, 54, 91),
    (56, 59, 61),
    (61, 62, 63),
    (64, 65, 66),
    (68, 71, 73),
    (88, 89, 90, 91, 94, 95),
    (11, 12),
    (21, 23),
)
_LEVELS = {"melody": 108, "bass": 98, "chords": 82, "pad": 70, "drums": 94}
_MAX_PARTS = len(MELODIC_CHANNELS)


def voice(program: int) -> Voice:
    """An instrument with the range for its melodies."""
    for programs, (low, high) in _RANGES.items():
        if program in programs:
            return Voice(program, low, high)
    return Voice(program, *_RANGE)


def reinstrument(parts: list[Part], rng) -> None:
    """Replaces instruments by relatives, one choice for each instrument of the piece."""
    chosen: dict[int, int] = {}
    for part in parts:
        if part.role in ("drums", "melody"):
            continue
        if part.program not in chosen:
            relatives = [family for family in _FAMILIES if part.program in family]
            keep = not relatives or rng.random() < 0.45
            chosen[part.program] = part.program if keep else rng.choice(rng.choice(relatives))
        part.program = chosen[part.program]


def join(parts: list[Part]) -> list[Part]:
    """Parts that fit into one file: without empty ones, with one drum part and at most 15 others.

    Where there are too many, parts of the same role and instrument become one; then those with the
    fewest notes are left out.
    """
    drums = [part for part in parts if part.role == "drums" and part.notes]
    others = [part for part in parts if part.role != "drums" and part.notes]
    if len(others) > 8:
        merged: dict[tuple[str, int], Part] = {}
        for part in others:
            if (part.role, part.program) in merged and part.role != "melody":
                merged[part.role, part.program].notes += part.notes
            else:
                merged[part.role, part.program] = part
        others = list(merged.values())
    others.sort(key=lambda part: (part.role != "melody", -len(part.notes)))
    others = others[:_MAX_PARTS]
    if drums:
        notes = [note for part in drums for note in part.notes]
        others.append(Part("drums", drums[0].program, notes))
    return others


def place(parts: list[Part], rng, *, wide: bool = False) -> None:
    """Sets panning and levels: bass and drums in the middle, melody near it, chords to both sides.

    Args:
        wide: puts pads and chords far out.
    """
    side = rng.choice((-1, 1))
    for part in parts:
        middle = part.role in ("bass", "drums")
        if middle:
            pan = 64 + rng.gauss(0, 3)
        elif part.role == "melody":
            pan = 64 + side * rng.uniform(0, 24)
            side = -side
        else:
            pan = 64 + side * rng.uniform(40 if wide else 26, 62 if wide else 56)
            side = -side
        part.pan = clamp(pan, 0, 127)
        part.level = clamp(_LEVELS[part.role] + rng.gauss(0, 7), 40, 127)
    alone = [part for part in parts if part.role != "drums"]
    if len(alone) == 1 and not wide:
        alone[0].pan = 64


def humanise(parts: list[Part], rng) -> None:
    """Small differences in velocity, over those that the parts have.

    Accompaniments that lie very high come down an octave.
    """
    for part in parts:
        shift = rng.gauss(0, 4)
        pitches = [note.pitch for note in part.notes]
        high = part.role in ("chords", "pad") and sum(pitches) > 82 * len(pitches)
        octave = -12 if high else 0
        part.notes = [
            Note(
                n.start,
                n.length,
                n.pitch + octave,
                clamp(n.velocity + shift + rng.gauss(0, 2), 12, 126),
            )
            for n in part.notes
            if 12 <= n.pitch <= 115
        ]
