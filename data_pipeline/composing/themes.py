"""Lays melodies over a form: which sections have one, who plays it, and how it is doubled."""

from dataclasses import replace

from data_pipeline.composing import arranging, melody
from data_pipeline.composing.forms import Form, Key
from data_pipeline.composing.notes import Note, Part

_LIFTS = {"verse": -2, "chorus": 3, "solo": 2, "bridge": 1}
_WAYS = {"one": 9, "call": 3, "thirds": 2, "octaves": 2}


def _shift(notes: list[Note], by: float) -> list[Note]:
    return [replace(note, start=note.start + by) for note in notes]


def parts(
    form: Form,
    key: Key,
    programs: list[int],
    manner: melody.Manner,
    *,
    loudness: int,
    silent: set[str],
    rng,
) -> list[Part]:
    """The melody of a piece as parts, the leading instrument first.

    Sections of one name share their theme. Where it returns, a phrase of it may be new.

    Args:
        programs: the leading instrument and one that may answer or double it.
        silent: the names of sections without a melody.
    """
    way = rng.choices(list(_WAYS), list(_WAYS.values()))[0]
    lead, second = (arranging.voice(program) for program in programs)
    if way == "octaves":
        lead = replace(lead, low=min(lead.low + 7, lead.high - 16))
    themes: dict[str, tuple[float, list[list[Note]]]] = {}
    first, other = [], []
    for section in form.sections:
        if section.name in silent:
            continue
        busier = {"solo": 1, "ending": -2}.get(section.name, 0)
        lift = manner.lift + _LIFTS.get(section.name, 0)
        own = replace(manner, density=min(2, max(0, manner.density + busier)), lift=lift)
        if section.name not in themes:
            themes[section.name] = section.start, melody.theme(section, key, lead, own, rng)
            phrases = themes[section.name][1]
        else:
            start, phrases = themes[section.name]
            if rng.random() < 0.5:
                fresh = melody.theme(section, key, lead, own, rng)
                at = rng.randrange(len(phrases))
                phrases = [_shift(phrase, section.start - start) for phrase in phrases]
                phrases = phrases[:at] + fresh[at : at + 1] + phrases[at + 1 :]
            else:
                phrases = [_shift(phrase, section.start - start) for phrase in phrases]
        for number, phrase in enumerate(phrases):
            played = melody.perform(phrase, own, loudness, rng)
            if way == "call" and number % 2:
                octave = 0
                while played and max(n.pitch for n in played) + octave > second.high:
                    octave -= 12
                while played and min(n.pitch for n in played) + octave < second.low:
                    octave += 12
                other += [replace(note, pitch=note.pitch + octave) for note in played]
                continue
            first += played
            if way == "octaves":
                other += [replace(note, pitch=note.pitch - 12) for note in played]
            elif way == "thirds" and section.name in ("chorus", "theme", "verse"):
                other += _thirds(played, form, key, lead.low)
    result = [Part("melody", lead.program, first)]
    if other:
        same = way == "thirds" and rng.random() < 0.5
        result.append(Part("melody", lead.program if same else second.program, other))
    return [part for part in result if part.notes]


def _thirds(notes: list[Note], form: Form, key: Key, low: int) -> list[Note]:
    bars = form.bars

    def chord_at(time: float):
        bar = [bar for bar in bars if bar.start <= time + 0.1][-1]
        return bar.chord_at(time + 0.1)

    return melody.in_thirds(notes, chord_at, key, low)
