"""Chords and keys: Roman numerals to chords, their names, and the scales that fit them."""

import re
from dataclasses import dataclass

SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
# How far the tonic of the major scale with the same notes lies above the mode's tonic.
RELATIVE_MAJOR = {
    "major": 0,
    "minor": 3,
    "dorian": 10,
    "mixolydian": 5,
    "lydian": 7,
    "phrygian": 8,
}
# The quality of a chord as it is written after the root: intervals over the root, and MMA's word.
QUALITIES = {
    "": ((0, 4, 7), ""),
    "m": ((0, 3, 7), "m"),
    "5": ((0, 7), "5"),
    "dim": ((0, 3, 6), "mb5"),
    "aug": ((0, 4, 8), "aug"),
    "sus2": ((0, 2, 7), "sus2"),
    "sus4": ((0, 5, 7), "sus4"),
    "6": ((0, 4, 7, 9), "6"),
    "m6": ((0, 3, 7, 9), "m6"),
    "7": ((0, 4, 7, 10), "7"),
    "m7": ((0, 3, 7, 10), "m7"),
    "maj7": ((0, 4, 7, 11), "M7"),
    "mMaj7": ((0, 3, 7, 11), "mM7"),
    "m7b5": ((0, 3, 6, 10), "m7b5"),
    "dim7": ((0, 3, 6, 9), "dim7"),
    "7sus4": ((0, 5, 7, 10), "7sus"),
    "add9": ((0, 4, 7, 2), "add9"),
    "9": ((0, 4, 7, 10, 2), "9"),
    "m9": ((0, 3, 7, 10, 2), "m9"),
    "maj9": ((0, 4, 7, 11, 2), "M9"),
    "13": ((0, 4, 7, 10, 9), "13"),
    "7b9": ((0, 4, 7, 10, 1), "7b9"),
}
NUMERALS = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}
SUFFIXES = {  # of a numeral: the quality after a large and after a small numeral
    "": ("", "m"),
    "5": ("5", "5"),
    "o": ("dim", "dim"),
    "o7": ("dim7", "dim7"),
    "ø": ("m7b5", "m7b5"),
    "+": ("aug", "aug"),
    "sus": ("sus4", "sus4"),
    "sus2": ("sus2", "sus2"),
    "6": ("6", "m6"),
    "7": ("7", "m7"),
    "7sus": ("7sus4", "7sus4"),
    "maj7": ("maj7", "mMaj7"),
    "9": ("9", "m9"),
    "maj9": ("maj9", "m9"),
    "b9": ("7b9", "7b9"),
    "13": ("13", "m9"),
}


@dataclass(frozen=True)
class Chord:
    """A chord as pitch classes: 0 is C. `bass` is the lowest note."""

    root: int
    quality: str
    bass: int

    @property
    def tones(self) -> list[int]:
        """The pitch classes, the root first."""
        return [(self.root + interval) % 12 for interval in QUALITIES[self.quality][0]]

    def name(self, flats: bool, mma: bool = False) -> str:
        """Like "Am7/G"; with `mma` as MMA spells it."""
        names = FLATS if flats else SHARPS
        quality = QUALITIES[self.quality][1] if mma else self.quality
        bass = "" if self.bass == self.root else f"/{names[self.bass]}"
        return names[self.root] + quality + bass


def uses_flats(tonic: int, mode: str) -> bool:
    """Whether the key's signature has flats: F# major has sharps, and Eb minor has flats."""
    major = (tonic + RELATIVE_MAJOR[mode]) % 12
    return major in (1, 3, 5, 8, 10) or (major == 6 and mode != "major")


def key_name(tonic: int, mode: str) -> str:
    return (FLATS if uses_flats(tonic, mode) else SHARPS)[tonic]


def key_signature(tonic: int, mode: str) -> str:
    """The key signature's name in MIDI files, which know major and minor keys alone."""
    if mode == "minor":
        return key_name(tonic, "minor") + "m"
    names = FLATS if uses_flats(tonic, mode) else SHARPS
    return names[(tonic + RELATIVE_MAJOR[mode]) % 12]


def chord(numeral: str, tonic: int, quality: str | None = None) -> Chord:
    """The chord of a numeral like "bVII", "ii7", "V/3" or "I/t".

    After the slash stands the chord tone in the bass (3, 5, 7), or t for the key's tonic. `quality`
    replaces the numeral's own.
    """
    match = re.fullmatch(r"([b#]?)([iv]+|[IV]+)([^/]*)(?:/([357t]))?", numeral)
    if match is None or match[3] not in SUFFIXES:
        raise ValueError(f"{numeral!r} is not a chord numeral")
    accidental, letters, suffix, slash = match.groups()
    root = (tonic + NUMERALS[letters.lower()] + {"": 0, "b": -1, "#": 1}[accidental]) % 12
    if quality is None:
        quality = SUFFIXES[suffix][letters.islower()]
    intervals = QUALITIES[quality][0]
    if slash == "t":
        bass = tonic
    elif slash and int(slash) // 2 < len(intervals):
        bass = (root + intervals[int(slash) // 2]) % 12
    else:
        bass = root
    return Chord(root, quality, bass)


def scale(chord: Chord, tonic: int, mode: str) -> list[int]:
    """The pitch classes that a melody may use over a chord.

    They are the key's scale with the chord's own tones in place of those they alter.
    """
    tones = set(chord.tones)
    of_key = {(tonic + step) % 12 for step in MODES[mode]}
    altered = tones - of_key
    kept = {
        pitch
        for pitch in of_key - tones
        if not any((pitch - tone) % 12 in (1, 11) for tone in altered)
    }
    return sorted(kept | tones)


def plainly(numeral: str, tonic: int, mode: str) -> bool:
    """Whether a numeral's chord consists of the key's own notes."""
    return set(chord(numeral, tonic).tones) <= {(tonic + step) % 12 for step in MODES[mode]}


def colour(numeral: str, tonic: int, mode: str, flavour: str, rng) -> Chord:
    """A chord with the extensions that a style likes.

    `flavour` is plain, pop, jazz, blues or power. A numeral that names its own extension keeps it.
    """
    plain = chord(numeral, tonic)
    if plain.quality not in ("", "m", "dim"):
        return plain
    degree = (plain.root - tonic) % 12
    # A major seventh fits where it belongs to the key; elsewhere the chord takes a minor one.
    fits = (plain.root + 11 - tonic) % 12 in MODES[mode]
    dominant = plain.quality == "" and (degree == 7 or not plainly(numeral, tonic, mode))
    dominant = dominant and degree in (7, 2, 4, 9, 11, 0)
    quality = plain.quality
    if flavour == "power" and quality != "dim" and plain.bass == plain.root and rng.random() < 0.5:
        quality = "5"
    elif flavour == "blues" and quality != "dim":
        quality = {"": rng.choice(("7", "7", "9")), "m": "m7"}[quality]
    elif flavour == "jazz":
        if dominant:
            quality = rng.choice(("7b9", "7")) if mode == "minor" else rng.choice(("7", "9", "13"))
        elif quality == "":
            quality = rng.choice(("maj7", "maj7", "maj9", "6") if fits else ("7", "9", "6"))
        else:
            quality = {"m": rng.choice(("m7", "m7", "m9")), "dim": "m7b5"}[quality]
    elif flavour == "pop" and rng.random() < 0.4:
        if dominant:
            quality = rng.choice(("7", "7sus4", "sus4"))
        elif quality == "m":
            quality = "m7"
        elif quality == "":
            quality = rng.choice(("maj7", "add9", "sus2") if fits else ("add9", ""))
    elif dominant and degree == 7 and rng.random() < 0.5:
        quality = "7"
    return chord(numeral, tonic, quality)
