"""Accompaniments by our own code: keyboard and guitar figures, bass lines, pads and arpeggios."""

from data_pipeline.composing import harmony
from data_pipeline.composing.forms import Bar, Form
from data_pipeline.composing.notes import Note, Part, clamp

# Figures of a bar of four, three and six eighths: (place in quarter notes, chord tone counted from
# the lowest of the voicing). -1 is the bass note.
_FIGURES = {
    4: (
        ((0, -1), (0.5, 2), (1, 1), (1.5, 2), (2, 0), (2.5, 2), (3, 1), (3.5, 2)),
        ((0, -1), (0.5, 0), (1, 1), (1.5, 2), (2, 3), (2.5, 2), (3, 1), (3.5, 0)),
        ((0, -1), (1, 0), (1, 1), (1, 2), (2, -1), (3, 0), (3, 1), (3, 2)),
        ((0, -1), (0.5, 1), (1, 2), (1.5, 0), (2, -1), (2.5, 1), (3, 3), (3.5, 2)),
        ((0, -1), (0, 3), (0.5, 1), (1, 0), (1.5, 2), (2, -1), (2.5, 1), (3, 0), (3.5, 2)),
        ((0, -1), (0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)),
        tuple((i / 4, (-1, 0, 1, 2, 3, 2, 1, 0)[i % 8]) for i in range(16)),
    ),
    3: (
        ((0, -1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)),
        ((0, -1), (0.5, 0), (1, 1), (1.5, 2), (2, 1), (2.5, 0)),
        ((0, -1), (1, 1), (1.5, 2), (2, 3), (2.5, 1)),
        ((0, -1), (0, 0), (0, 1), (0, 2), (2, 1)),
    ),
    6: (
        ((0, -1), (0.5, 0), (1, 1), (1.5, 2), (2, 1), (2.5, 0)),
        ((0, -1), (0.5, 1), (1, 2), (1.5, 3), (2, 2), (2.5, 1)),
        ((0, -1), (1, 1), (1.5, 0), (1.5, 2), (2.5, 1)),
    ),
}
# Bass lines of a bar of four: (place, length, tone): r root, 5 fifth, 8 octave, 3 third, a the step
# that leads to the next root.
_BASS = {
    "straight": ("r0:.5 r.5:.5 r1:.5 r1.5:.5 r2:.5 r2.5:.5 r3:.5 r3.5:.5", "r0:1 r1:1 r2:1 a3:1"),
    "two": ("r0:1.8 52:1.8", "r0:1.5 r1.5:.5 52:1 r3:1", "r0:2 82:1 53:1"),
    "walking": ("r0:1 31:1 52:1 a3:1", "r0:1 51:1 82:1 a3:1", "r0:1 31:1 82:1 a3:1"),
    "syncopated": (
        "r0:.7 r1.5:.5 82:.4 53:.4 r3.5:.5",
        "r0:1.4 r1.5:.9 52.5:.5 83:.5 a3.5:.5",
        "r0:.4 8.5:.3 r1.75:.5 52.5:.5 a3.5:.5",
    ),
    "dub": ("r1:.8 r2:.4 52.5:.4 83:.8", "r0:.8 r1.5:.4 32:.4 52.5:.4 r3:.8"),
    "long": ("r0:4", "r0:3.5 53.5:.5", "r0:2.5 r2.5:1.5"),
}
_HITS = {  # of chords in a bar of four: places and lengths
    "rock": (((0, 0.9), (1, 0.9), (2, 0.9), (3, 0.9)), tuple((i / 2, 0.4) for i in range(8))),
    "off": (((0.5, 0.25), (1.5, 0.25), (2.5, 0.25), (3.5, 0.25)), ((1, 0.3), (3, 0.3))),
    "soft": (((0, 3.8),), ((0, 1.9), (2, 1.9)), ((0, 1.4), (1.5, 2.3))),
    "syncopated": (((0, 0.4), (1.5, 0.4), (2.5, 0.4)), ((0.5, 0.3), (1.5, 0.5), (3.5, 0.4))),
    "swing": (((0, 1.2), (1.67, 0.3)), ((0.67, 0.3), (2.67, 0.8)), ((1, 0.4), (2.67, 0.4))),
}
_STYLES = {  # of drum grooves: the bass line and the hits that go with each
    "reggae": ("dub", "off"),
    "ska": ("walking", "off"),
    "funk": ("syncopated", "syncopated"),
    "hip hop": ("syncopated", "soft"),
    "trip hop": ("long", "soft"),
    "drum and bass": ("long", "soft"),
    "ambient": ("long", "soft"),
    "ballad": ("two", "soft"),
    "slow ballad in six": ("long", "soft"),
    "swing": ("walking", "swing"),
    "blues": ("walking", "swing"),
    "shuffle": ("walking", "swing"),
    "country": ("two", "off"),
    "bossa nova": ("two", "syncopated"),
    "samba": ("two", "syncopated"),
    "latin": ("syncopated", "syncopated"),
    "jazz rock": ("syncopated", "swing"),
    "rhythm and blues": ("syncopated", "soft"),
}


def voicing(
    chord: harmony.Chord, before: list[int] | None, centre: int, size: int = 4
) -> list[int]:
    """A close position of a chord, rising, that moves least from the one before."""
    tones = chord.tones if len(chord.tones) <= size else chord.tones[1:]  # the bass has the root
    options = []
    for lowest in range(centre - 12, centre + 1):
        if lowest % 12 in tones:
            notes, pitch = [lowest], lowest
            while len(notes) < min(size, len(tones)):
                pitch += 1
                if pitch % 12 in tones:
                    notes.append(pitch)
            options.append(notes)

    def cost(notes: list[int]) -> float:
        off = abs(sum(notes) / len(notes) - centre)
        if before is None:
            return off
        return 0.3 * off + sum(min(abs(note - other) for other in before) for note in notes)

    return min(options, key=cost)


def low(pitch_class: int, floor: int) -> int:
    """The lowest note of a pitch class from `floor` upwards."""
    return floor + (pitch_class - floor) % 12


def _figure(bars: list[Bar], figures, *, centre: int, floor: int, ring: float, loudness: int, rng):
    """The notes of a broken-chord figure; its notes ring on for `ring` quarter notes at least."""
    notes, before = [], None
    size = 6 if bars[0].length == 6 else bars[0].length
    for bar in bars:
        figure = figures[int(size)]
        steps = [(place, tone) for place, tone in figure]
        if size == 6:
            steps += [(place + 3, tone) for place, tone in figure]
        voiced = {}
        for place, tone in steps:
            chord = bar.chord_at(bar.start + place)
            if chord not in voiced:
                voiced[chord] = before = voicing(chord, before, centre)
                if place and tone != -1:  # the new bass note where the chord changes
                    bass = low(chord.bass, floor)
                    notes.append(Note(bar.start + place, ring + 0.5, bass, loudness + 4))
            tones = voiced[chord]
            pitch = low(chord.bass, floor) if tone == -1 else tones[tone % len(tones)]
            pitch += 12 if tone >= len(tones) else 0
            accent = 8 if place == 0 else 0
            velocity = clamp(loudness + accent + rng.gauss(0, 4), 20, 120)
            length = max(ring, 1.5 if tone == -1 else 0)
            notes.append(Note(bar.start + place + abs(rng.gauss(0, 0.01)), length, pitch, velocity))
    return notes


def figures_of(bar: float, compound: bool, rng) -> dict[int, tuple]:
    """One figure for the piece, by the size of its bars."""
    size = 3 if bar == 3 and not compound else 6 if compound else 4
    figure = rng.choice(_FIGURES[size])
    if bar == 5:
        figure = tuple(_FIGURES[3][0]) + tuple(
            (place + 3, tone) for place, tone in _FIGURES[4][5][-3:]
        )
        figure = tuple(step for step in figure if step[0] < 5)
    return {int(bar): figure}


def keyboard(form: Form, program: int, *, compound: bool, loudness: int, rng) -> Part:
    """A left hand, or a guitar, that plays broken or struck chords all through."""
    notes = []
    bar = form.bars[0].length
    figures = {name: figures_of(bar, compound, rng) for name in form.names}
    guitar = 24 <= program < 32
    for section in form.sections:
        notes += _figure(
            section.bars,
            figures[section.name],
            centre=57 if guitar else 56,
            floor=40 if guitar else 36,
            ring=rng.choice((0.9, 1.4)),
            loudness=loudness + (5 if section.name == "chorus" else 0),
            rng=rng,
        )
    return Part("chords", program, notes)


def arpeggio(form: Form, program: int, *, step: float, loudness: int, rng) -> Part:
    """Even notes up and down over two octaves of each chord."""
    notes, before = [], None
    order = rng.choice(("up", "down", "both", "skip"))
    for bar in form.bars:
        for i in range(round(bar.length / step)):
            time = bar.start + i * step
            before = voicing(bar.chord_at(time), before, 64, 3)
            ladder = before + [note + 12 for note in before]
            if order == "down":
                ladder = ladder[::-1]
            elif order == "both":
                ladder = ladder + ladder[-2:0:-1]
            elif order == "skip":
                ladder = ladder[::2] + ladder[1::2]
            velocity = clamp(loudness + (8 if i == 0 else 0) + rng.gauss(0, 3), 20, 120)
            notes.append(Note(time, step * 1.8, ladder[i % len(ladder)], velocity))
    return Part("chords", program, notes)


def pad(form: Form, program: int, *, centre: int, loudness: int, size: int = 3) -> Part:
    """Each chord held for as long as it lasts."""
    notes, before = [], None
    chords = form.chords()
    for (start, chord), stop in zip(chords, [s for s, _ in chords[1:]] + [form.stop], strict=True):
        before = voicing(chord, before, centre, size)
        notes += [Note(start, (stop - start) * 1.01, pitch, loudness) for pitch in before]
    return Part("pad", program, notes)


def drone(form: Form, program: int, pitches: list[int], loudness: int) -> Part:
    """Notes that sound all through, struck again every eight bars."""
    starts = [bar.start for bar in form.bars[::8]]
    return Part(
        "pad",
        program,
        [
            Note(start, min(form.bars[0].length * 8, form.stop - start), pitch, loudness)
            for start in starts
            for pitch in pitches
        ],
    )


def bass(form: Form, program: int, line: str, *, loudness: int, rng) -> Part:
    """A bass line; `line` is a name of `_BASS`."""
    notes: list[Note] = []
    chosen = {name: rng.choice(_BASS[line]) for name in form.names}
    bars = form.bars
    following = [*bars[1:], bars[-1]]
    names = [section.name for section in form.sections for _ in section.bars]
    for bar, after, name in zip(bars, following, names, strict=True):
        scale = bar.length / 4 if bar.length in (3, 6) and line in ("two", "long") else 1
        for word in chosen[name].split():
            place, length = (float(number) * scale for number in word[1:].split(":"))
            if place >= bar.length:
                continue
            chord = bar.chord_at(bar.start + place)
            root = low(chord.bass, 33)
            pitch = root
            if word[0] == "8":
                pitch = root + 12
            elif word[0] in "35" and chord.bass == chord.root and len(chord.tones) > 2:
                pitch = low(chord.tones["35".index(word[0]) + 1], root)
            elif word[0] == "a":
                target = low(after.chord_at(after.start).bass, 33)
                pitch = target + (1 if root > target else -1)
            velocity = clamp(loudness + (6 if place == 0 else 0) + rng.gauss(0, 4), 30, 120)
            notes.append(Note(bar.start + place, length * 0.92, pitch, velocity))
        for start, chord in bar.chords[1:]:  # where the chord changes within the bar
            notes = [note for note in notes if not start - 0.2 < note.start < start + 0.2]
            notes.append(Note(start, 0.9, low(chord.bass, 33), loudness))
    return Part("bass", program, notes)


def hits(form: Form, program: int, kind: str, *, loudness: int, rng) -> Part:
    """Chords struck in a rhythm; `kind` is a name of `_HITS`."""
    notes, before = [], None
    chosen = {name: rng.choice(_HITS[kind]) for name in form.names}
    for section in form.sections:
        for bar in section.bars:
            for place, length in chosen[section.name]:
                if place >= bar.length:
                    continue
                chord = bar.chord_at(bar.start + place)
                before = voicing(chord, before, 60)
                length = min(length, bar.length - place)
                for pitch in before:
                    velocity = clamp(loudness + rng.gauss(0, 5), 20, 115)
                    notes.append(Note(bar.start + place, length, pitch, velocity))
    return Part("chords", program, notes)


def band(form: Form, style: str, rng) -> list[Part]:
    """Bass and chords that go with a drum groove of a style."""
    line, kind = _STYLES.get(style, ("straight", "rock"))
    heavy = style in ("rock", "metal", "punk")
    guitars = (29, 30) if heavy else (24, 25, 26, 27, 0, 4, 5, 16)
    electric = (33, 34, 36, 38, 39) if line in ("syncopated", "long", "dub") else (33, 34, 35)
    basses = (32,) if kind == "swing" else electric
    played = [bass(form, rng.choice(basses), line, loudness=84, rng=rng)]
    played.append(hits(form, rng.choice(guitars), kind, loudness=70, rng=rng))
    if not heavy and rng.random() < 0.4:
        played.append(pad(form, rng.choice((48, 89, 91, 50, 16)), centre=60, loudness=58))
    return played
