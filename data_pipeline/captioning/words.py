"""Words for each field of the truth: several ways to say it, of which one of each kind is drawn."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


class Dice:
    """Random choices that are the same for a key on every machine and Python version."""

    def __init__(self, key: str):
        # Of `Random`, Python promises the same results in later versions for `random()` alone.
        seed = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
        self._random = Random(seed).random

    def below(self, n: int) -> int:
        return int(self._random() * n)

    def pick(self, items: Sequence):
        return items[self.below(len(items))]

    def chance(self, p: float) -> bool:
        return self._random() < p

    def shuffled(self, items: Sequence) -> list:
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in items]


@dataclass(frozen=True)
class Words:
    """One field in words. `tag` and `says` always exist."""

    tag: str  # an entry of a list: "96 bpm"
    says: str  # a clause: "the tempo is slow"
    before: str = ""  # an adjective for before the noun and after "something": "slow"
    after: str = ""  # for after the noun: "at a slow tempo"


# Adjectives that overlap, and from which BPM to which they are used.
TEMPO = (
    ("very slow", 0, 60),
    ("slow", 0, 84),
    ("unhurried", 54, 92),
    ("leisurely", 58, 92),
    ("relaxed", 60, 98),
    ("downtempo", 58, 98),
    ("laid-back", 66, 100),
    ("moderate", 86, 122),
    ("mid-tempo", 88, 122),
    ("medium-tempo", 90, 120),
    ("moderately fast", 110, 132),
    ("upbeat", 112, 150),
    ("lively", 114, 172),
    ("uptempo", 122, 1e9),
    ("fast", 128, 1e9),
    ("quick", 126, 1e9),
    ("rapid", 150, 1e9),
    ("very fast", 164, 1e9),
)
ITALIAN = (
    ("largo", 0, 58),
    ("lento", 44, 64),
    ("adagio", 56, 78),
    ("andante", 74, 106),
    ("moderato", 96, 120),
    ("allegretto", 106, 124),
    ("allegro", 120, 166),
    ("vivace", 150, 178),
    ("presto", 168, 1e9),
)
MOODS = (  # one adjective for dynamics and tempo: the dynamics, and from which BPM to which
    ("calm", "soft", 0, 90),
    ("peaceful", "soft", 0, 84),
    ("tranquil", "soft", 0, 80),
    ("energetic", "loud", 122, 1e9),
    ("high-energy", "loud", 128, 1e9),
)
DYNAMICS = {
    "soft": ("soft", "quiet", "gentle", "delicate"),
    "medium": ("moderately loud",),
    "loud": ("loud", "powerful", "forceful"),
}
_PLAYED = {
    "soft": ("played softly", "played quietly", "at a low volume", "played with a light touch"),
    "medium": ("at a medium volume", "neither soft nor loud", "played mezzo-forte"),
    "loud": ("played loudly", "at a high volume", "played with force", "played forte"),
}
SPARSE, BUSY = 4.0, 16.0  # notes per second: sparse below the one, busy above the other
_DENSITY = {
    "sparse": (
        ("sparse", "spacious", "uncluttered"),
        ("with few notes", "with plenty of space", "with a sparse texture"),
        ("there are few notes", "the texture is sparse", "there is much space between the notes"),
    ),
    "busy": (
        ("busy", "dense"),
        ("with many notes", "with a dense texture", "with a busy texture"),
        ("there are many notes", "the texture is dense", "the parts are busy"),
    ),
}
_REGISTER = {
    "low": (("low-pitched",), ("in a low register", "in the low register")),
    "middle": (("",), ("in the middle register", "in a middle register")),
    "high": (("high-pitched",), ("in a high register", "in the high register")),
}
_COUNTS = dict(
    zip(
        ("2", "3", "4", "5", "6", "7", "9", "12"),
        ("two", "three", "four", "five", "six", "seven", "nine", "twelve"),
        strict=True,
    )
)
_SAME = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
_SAME |= {flat: sharp for sharp, flat in _SAME.items()}
# How the black keys are usually named as tonics: of major keys, and of minor keys and other modes.
_USUAL = {"major": ("C#", "Db", "Eb", "F#", "Gb", "Ab", "Bb"), "": ("C#", "Eb", "F#", "G#", "Bb")}
_PITCHES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_DEGREES = {
    "major": {0: "I", 2: "II", 4: "III", 5: "IV", 7: "V", 9: "VI", 11: "VII"},
    "minor": {0: "I", 2: "II", 3: "III", 5: "IV", 7: "V", 8: "VI", 10: "VII"},
}


def a(phrase: str) -> str:
    """The phrase with the article that its sound needs."""
    word = re.split(r"[\s,-]", phrase)[0]
    spelled = len(word) == 1 or (len(word) < 5 and re.fullmatch("[A-Z&]+", word))  # "A", "R&B"
    if word[:1].isdigit():
        vowel = word[0] == "8" or re.fullmatch(r"1[18]\D.*|1[18]", word)
    elif spelled:
        vowel = word[0] in "AEFHILMNORSX"
    else:
        vowel = re.match(r"(?!eu|uk|un[io]|us|one|once)[aeiou]|hour|honest", word.lower())
    return f"{'an' if vowel else 'a'} {phrase}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """The items with commas and a word before the last one, as in "a, b and c"."""
    return f" {last} ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def fitting(table, bpm: float) -> list[str]:
    return [word for word, low, high in table if low <= bpm < high]


def tempo(truth: dict, dice: Dice) -> Words:
    bpm = truth["tempo"]
    exact, near = round(bpm), 5 * round(bpm / 5)
    number = dice.pick(
        (
            f"{exact} bpm",
            f"{exact} BPM",
            f"{exact} beats per minute",
            f"{exact} beats a minute",
            f"about {near} bpm",
            f"around {near} bpm",
            f"about {near} beats per minute",
            f"around {near} beats a minute",
        )
    )
    adjective = dice.pick([w for w in fitting(TEMPO, bpm) if w != "moderate"])
    pace = dice.pick([w for w in fitting(TEMPO, bpm) if "tempo" not in w])
    italian = dice.pick(fitting(ITALIAN, bpm))
    return Words(
        before=adjective,
        after=dice.pick(
            (
                f"at {number}",
                f"at {number}",
                f"at {a(pace)} tempo",
                f"at {a(pace)} pace",
                f"marked {italian}",
            )
        ),
        tag=dice.pick(
            (
                number,
                number,
                adjective,
                adjective,
                f"{pace} tempo",
                f"{pace} ({exact} bpm)",
                italian,
            )
        ),
        says=dice.pick((f"the tempo is {number}", f"the tempo is {pace}", f"the pace is {pace}")),
    )


def meter(truth: dict, dice: Dice) -> Words:
    signature = truth["meter"]
    counted = _COUNTS.get(signature.split("/")[0])
    ways = [signature, f"{signature} time", *([counted] if counted else [])]
    if signature == "3/4":
        ways.append("waltz time")
    way = dice.pick(ways)
    return Words(
        after=f"in {way}",
        tag=f"in {way}" if way == counted else way,
        says=dice.pick((f"it is in {way}", f"the meter is {signature}")),
    )


def tonic(truth: dict, dice: Dice) -> str:
    """The key's note with a sign or in words ("Bb", "B flat"), sometimes by its other name."""
    note, mode = truth["key"], truth.get("mode", "major")
    usual = _USUAL.get(mode, _USUAL[""])
    other = _SAME.get(note)
    if other in usual and (dice.chance(0.15) or note not in usual):
        note = other
    if len(note) == 2 and dice.chance(0.6):
        sign = {"b": "flat", "#": "sharp"}.get(note[1], note[1])
        return note[0] + dice.pick((" ", "-")) + sign
    return note


def key(truth: dict, dice: Dice) -> Words:
    name = tonic(truth, dice)
    if truth.get("mode"):
        name = f"{name} {truth['mode']}"
        after = dice.pick((f"in {name}", f"in {name}", f"in the key of {name}"))
    else:
        after = f"in the key of {name}"
    tags = (name, after, f"key of {name}") if truth.get("mode") else (f"key of {name}",)
    says = (f"the key is {name}", f"it is {after}")
    return Words(after=after, tag=dice.pick(tags), says=dice.pick(says))


def mode(truth: dict, dice: Dice) -> Words:
    name = truth["mode"]
    if name in ("major", "minor"):
        return Words(
            after=f"in a {name} key",
            tag=dice.pick((f"{name} key", name, f"in a {name} key")),
            says=f"it is in a {name} key",
        )
    return Words(
        after=f"in the {name} mode",
        tag=dice.pick((name, f"{name} mode")),
        says=f"the mode is {name}",
    )


def dynamics(truth: dict, dice: Dice) -> Words:
    word, played = dice.pick(DYNAMICS[truth["dynamics"]]), dice.pick(_PLAYED[truth["dynamics"]])
    return Words(
        before=word,
        after=played,
        tag=dice.pick((word, word, played)),
        says=dice.pick((f"the playing is {word}", f"it is {played}")),
    )


def texture(truth: dict) -> str:
    """How dense the notes are: "sparse" or "busy", or "" for neither."""
    return "sparse" if truth["density"] < SPARSE else "busy" if truth["density"] > BUSY else ""


def density(truth: dict, dice: Dice) -> Words:
    before, after, says = (dice.pick(words) for words in _DENSITY[texture(truth)])
    return Words(
        before=before, after=after, tag=dice.pick((before, f"{before} texture")), says=says
    )


def register(truth: dict, dice: Dice) -> Words:
    before, after = (dice.pick(words) for words in _REGISTER[truth["register"]])
    return Words(
        before=before,
        after=after,
        tag=dice.pick((before or after, f"{truth['register']} register")),
        says=f"it is played {after}",
    )


def loop(names: Sequence[str]) -> list[str]:
    """The shortest series of chords whose repetition gives all of `names`, the last one perhaps
    incomplete."""
    length = next(
        n for n in range(1, len(names) + 1) if all(c == names[i % n] for i, c in enumerate(names))
    )
    return list(names[:length])


def numerals(names: Sequence[str], truth: dict) -> str:
    """The chords as Roman numerals, or "" where the key is not certain or a chord is no triad or
    seventh chord on a degree of the scale."""
    degrees = _DEGREES.get(truth.get("mode", ""))
    if not degrees or "key" not in truth or truth.get("key_from") == "estimated":
        return ""
    found = []
    for name in names:
        parts = re.fullmatch(r"([A-G][#b]?)(m?)(?:maj|M)?(?:7|9)?", name)
        if not parts:
            return ""
        root, tonic = (
            _PITCHES[note[0]] + note.count("#") - note.count("b")
            for note in (parts[1], truth["key"])
        )
        numeral = degrees.get((root - tonic) % 12)
        if not numeral:
            return ""
        found.append(numeral.lower() if parts[2] else numeral)
    return "-".join(found)


def chords(truth: dict, dice: Dice) -> Words:
    series = loop(truth["chords"])
    if len(series) == 1:
        return Words(
            tag=f"single {series[0]} chord",
            after=f"over a single {series[0]} chord",
            says=f"the only chord is {series[0]}",
        )
    if len(series) > 4:
        series = series[:4]
        return Words(
            tag=f"first chords {' '.join(series)}",
            after=f"beginning with the chords {listed(series)}",
            says=f"the first chords are {listed(series)}",
        )
    roman = numerals(series, truth)
    if roman and len(series) > 2 and dice.chance(0.4):
        return Words(
            tag=dice.pick((f"{roman} progression", roman)),
            after=f"over a {roman}{'' if roman == 'ii-V-I' else ' progression'}",
            says=f"the chord progression is {roman}",
        )
    return Words(
        tag=dice.pick((f"chords {', '.join(series)}", "-".join(series), " ".join(series))),
        after=dice.pick(("over the chords ", "on the chords ", "over ")) + listed(series),
        says=f"the chords are {listed(series)}",
    )


def one_line(text: str) -> str:
    return " ".join(text.split())


def style(truth: dict, dice: Dice) -> Words:
    name = one_line(truth["style"])
    return Words(
        tag=dice.pick((name, name, f"{name} style")),
        after=f"in {a(name)} style",
        says=f"the style is {name}",
    )


def section_name(truth: dict) -> str:
    """The section without its number; a letter becomes "A section"."""
    name = re.sub(r"[\s_-]*\d+$", "", one_line(truth["section"]))
    return f"{name.upper()} section" if len(name) == 1 else name.lower()


def section(truth: dict, dice: Dice) -> Words:
    name = section_name(truth)
    return Words(tag=name, after=f"from the {name}", says=f"this is the {name}")


def title(truth: dict, dice: Dice) -> Words:
    name = '"' + one_line(truth["title"]).replace('"', "'") + '"'
    return Words(
        tag=name,
        after=dice.pick((f"called {name}", f"titled {name}")),
        says=dice.pick((f"the title is {name}", f"it is called {name}")),
    )
