"""Drum parts by our own code: beats with fills, and layered hand percussion."""

from data_pipeline.composing.forms import Form
from data_pipeline.composing.notes import Note, Part, clamp

KICK, SNARE, RIM, CLOSED, OPEN, CRASH, RIDE = 36, 38, 37, 42, 46, 49, 51
TOMS = (50, 48, 47, 45, 43, 41)
# A line has one character a step of a bar: . rests, x is soft, X loud.
_BEATS = {  # of sixteen steps
    "rock": ((KICK, "X.......X.x....."), (SNARE, "....X.......X..."), (CLOSED, "X.x.X.x.X.x.X.x.")),
    "funk": ((KICK, "X..x..X...x..X.."), (SNARE, "....X..x.x..X..x"), (CLOSED, "XxxxXxxxXxxxXxXx")),
    "four": ((KICK, "X...X...X...X..."), (SNARE, "....X.......X..."), (OPEN, "..X...X...X...X.")),
    "half": ((KICK, "X.....x........."), (SNARE, "........X......."), (CLOSED, "X.x.x.x.X.x.x.xx")),
    "break": ((KICK, "X.X.......XX...."), (SNARE, "....X..x.x..X..x"), (RIDE, "X.X.X.X.X.X.X.X.")),
    "latin": ((KICK, "X..x..X.X..x..X."), (RIM, "X..X..X...X.X..."), (CLOSED, "x.xxx.xxx.xxx.xx")),
    "toms": ((KICK, "X...x...X...x..."), (41, "X..X..X...X....."), (45, "......x.X...X.X.")),
}
_HAND = (  # instruments of hand percussion and lines that suit each
    ((64, 63, 62), ("X..x..X.X..x..X.", "..X...XX..X...XX", "X.x.X.xxX.x.X.xx")),
    ((61, 60), ("x.xXx.x.x.xXx.xx", "..XX..X...XX..X.")),
    ((70, 82), ("x.X.x.X.x.X.x.X.", "xxXxxxXxxxXxxxXx")),
    ((75, 76), ("X..X..X...X.X...", "..X.X...X..X..X.")),
    ((56, 54), ("X...X...X...X...", "..x...X...x...X.")),
    ((66, 65), ("X.....X.x...X...", "....X..x....X...")),
    ((69, 73), ("X...x.x.X...x.x.",)),
)


def _line(pitch: int, line: str, start: float, step: float, loudness: int, rng) -> list[Note]:
    notes = []
    for i, letter in enumerate(line):
        if letter != ".":
            velocity = loudness + (10 if letter == "X" else -18) + rng.gauss(0, 4)
            time = max(0.0, start + i * step + rng.gauss(0, 0.008))
            notes.append(Note(time, 0.2, pitch, clamp(velocity, 15, 125)))
    return notes


def _fill(start: float, length: float, loudness: int, rng) -> list[Note]:
    """Toms from high to low over the end of a bar."""
    count = round(length / 0.25)
    return [
        Note(
            start + i * 0.25,
            0.2,
            rng.choice((SNARE, TOMS[i * len(TOMS) // count])),
            clamp(loudness + 20 * i / count + rng.gauss(0, 5), 20, 125),
        )
        for i in range(count)
        if i % 2 == 0 or rng.random() < 0.75
    ]


def kit(form: Form, *, beat: str | None, loudness: int, rng) -> Part:
    """A drum kit; each section name has its beat, and every eighth bar ends with a fill."""
    beats = {name: beat or rng.choice(sorted(_BEATS)) for name in form.names}
    notes = []
    for section in form.sections:
        for number, bar in enumerate(section.bars):
            fill = (number % 4 == 3 and rng.random() < 0.6) or number == len(section.bars) - 1
            if section.name == "ending" and number == len(section.bars) - 1:
                notes += [Note(bar.start, 1, pitch, loudness) for pitch in (CRASH, KICK)]
                continue
            found = []
            for pitch, line in _BEATS[beats[section.name]]:
                steps = round(bar.length * 4)
                line = (line * 2)[:steps]
                found += _line(pitch, line, bar.start, 0.25, loudness, rng)
            if fill:
                size = rng.choice((1, 2))
                found = [n for n in found if n.start < bar.start + bar.length - size - 0.05]
                found += _fill(bar.start + bar.length - size, size, loudness, rng)
            if number == 0:
                found.append(Note(bar.start, 1, CRASH, loudness))
            notes += found
    return Part("drums", 0, notes)


def hand_percussion(form: Form, *, loudness: int, rng) -> Part:
    """Layers of hand percussion that enter one after the other, with a different set a section."""
    notes = []
    chosen = {}
    for section in form.sections:
        if section.name not in chosen:
            layers = rng.sample(_HAND, rng.randint(2, 5))
            chosen[section.name] = [
                (rng.choice(pitches), rng.choice(lines)) for pitches, lines in layers
            ]
        for number, bar in enumerate(section.bars):
            if section.name == "ending" and number == len(section.bars) - 1:
                notes += [Note(bar.start, 1, pitch, loudness + 10) for pitch, _ in chosen["ending"]]
                continue
            layers = chosen[section.name]
            if section.name == "intro":
                layers = layers[: 1 + number // 2]
            for pitch, line in layers:
                line = (line * 2)[: round(bar.length * 4)]
                if number % 4 == 3 and rng.random() < 0.5:  # a small change at the end of a phrase
                    line = line[:-4] + rng.choice(("XxXx", "X.XX", "XXXX", ".X.X"))
                notes += _line(pitch, line, bar.start, 0.25, loudness, rng)
    return Part("drums", 0, notes)
