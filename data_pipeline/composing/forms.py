"""Forms: the sections of a piece, their bars and their chords."""

from dataclasses import dataclass, field

from data_pipeline.composing import harmony, progressions

FORMS = {  # by the weight with which each is chosen; a piece takes as many sections as fit
    "verse chorus verse chorus": 4,
    "chorus verse chorus": 2,
    "verse bridge chorus": 2,
    "verse break chorus": 2,
    "chorus break chorus": 1,
    "theme bridge theme": 3,
    "bridge theme solo": 1,
    "theme solo theme": 2,
}
JAZZ_FORMS = {
    "theme theme bridge theme solo solo bridge theme": 3,
    "theme solo solo theme": 2,
    "theme theme solo bridge theme": 1,
}


@dataclass(frozen=True)
class Bar:
    """One bar: where it starts, in quarter notes, and its chords with their starts."""

    start: float
    length: float
    chords: tuple[tuple[float, harmony.Chord], ...]

    def chord_at(self, time: float) -> harmony.Chord:
        return [
            chord for start, chord in self.chords if start <= time + 1e-6 or start == self.start
        ][-1]


@dataclass
class Section:
    name: str
    bars: list[Bar]
    muted: set[str] = field(default_factory=set)  # roles that rest

    @property
    def start(self) -> float:
        return self.bars[0].start

    @property
    def stop(self) -> float:
        return self.bars[-1].start + self.bars[-1].length


@dataclass
class Form:
    """A piece's plan. `used` names the progressions."""

    sections: list[Section]
    used: list[str]

    @property
    def bars(self) -> list[Bar]:
        return [bar for section in self.sections for bar in section.bars]

    @property
    def names(self) -> list[str]:
        """The names of the sections, each once, in order."""
        return list(dict.fromkeys(section.name for section in self.sections))

    @property
    def stop(self) -> float:
        return self.sections[-1].stop

    def chords(self) -> list[tuple[float, harmony.Chord]]:
        """Every chord where it begins, without repeats side by side."""
        found: list[tuple[float, harmony.Chord]] = []
        for bar in self.bars:
            for start, chord in bar.chords:
                if not found or found[-1][1] != chord:
                    found.append((start, chord))
        return found


@dataclass(frozen=True)
class Key:
    tonic: int
    mode: str

    @property
    def flats(self) -> bool:
        return harmony.uses_flats(self.tonic, self.mode)


def mode_of(kind: str) -> str:
    """The mode of a kind of progressions."""
    return kind if kind in harmony.MODES else "minor" if "minor" in kind else "major"


def plan(
    *, kind: str, key: Key, flavour: str, bar: float, compound: bool, bars: int, held_out: bool, rng
) -> Form:
    """A form of about `bars` bars of `bar` quarter notes each.

    Args:
        kind: of the progressions, like "minor" or "jazz".
        held_out: take the verse's progression from those that training never has; all others come
            from the rest.

    Raises:
        ValueError: no progression of the kind is held out.
    """
    options = progressions.progressions(kind)
    known = [option for option in options if not progressions.is_new(option)]
    new = [option for option in options if progressions.is_new(option)]
    if held_out and not new:
        raise ValueError(f"no progression of the kind {kind} is held out")
    table = JAZZ_FORMS if flavour == "jazz" else FORMS
    form = rng.choices(list(table), list(table.values()))[0].split()
    chosen = {name: rng.choice(known) for name in dict.fromkeys(form)}
    if held_out:
        chosen[form[0]] = rng.choice(new)
    if "theme" in chosen:  # a solo follows the theme's chords
        chosen["solo"] = chosen["theme"]
    elif "solo" in chosen:
        chosen["solo"] = chosen["verse"]
    if "break" in chosen:
        chosen["break"] = chosen["chorus"]
    colours: dict[str, harmony.Chord] = {}

    def coloured(numeral: str) -> harmony.Chord:
        if numeral not in colours:
            colours[numeral] = harmony.colour(numeral, key.tonic, key.mode, flavour, rng)
        return colours[numeral]

    sections: list[Section] = []
    now = 0.0

    def add(name: str, numerals: list[list[str]]) -> None:
        nonlocal now
        made = []
        for numerals_of_bar in numerals:
            step = bar / len(numerals_of_bar)
            if bar == 3 and not compound and len(numerals_of_bar) == 2:
                step = 2  # of three beats, the first chord has two
            chords = tuple(
                (now + i * step, coloured(numeral)) for i, numeral in enumerate(numerals_of_bar)
            )
            made.append(Bar(now, bar, chords))
            now += bar
        sections.append(Section(name, made))

    tonic = "i" if key.mode in ("minor", "dorian", "phrygian") else "I"
    tonic = {"jazz": f"{tonic}6", "blues": f"{tonic}7"}.get(flavour, tonic)
    close = {"dorian": "IV", "mixolydian": "bVII", "lydian": "II", "phrygian": "bII"}
    intro = progressions.bars(chosen[form[0]])
    intro = intro[:4] if rng.random() < 0.6 else [[intro[0][0]]] * 4
    if rng.random() < 0.85 or bars < 20:
        add("intro", intro if bars >= 24 else intro[:2])
    ending = [[close.get(key.mode, "V7")], [tonic]]
    if bars >= 24:
        fourth = "iv" if tonic[0] == "i" else "IV"
        ending = [[tonic], [fourth if key.mode != "phrygian" else "i"], *ending]
    unit = 4 if bars < 20 else 8
    while True:
        for name in form:
            numerals = progressions.bars(chosen[name])
            numerals = numerals * max(1, unit // len(numerals))
            laid = sum(len(section.bars) for section in sections)
            if sections and laid + len(numerals) / 2 > bars - len(ending):
                break
            add(name, numerals)
        else:
            continue
        break
    add("ending", ending)
    return Form(sections, [chosen[section.name] for section in sections if section.name in chosen])
