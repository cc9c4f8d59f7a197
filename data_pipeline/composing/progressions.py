"""Chord progressions: common loops and phrases from a grammar of functional harmony.

A progression is a string: bars are separated by spaces, two chords of one bar by a comma. It names
itself: two progressions are the same where the strings are.
"""

import functools
import random

from data_pipeline.composing.splits import is_held_out

LOOPS = {
    "major": """
        I V vi IV | I vi IV V | vi IV I V | I IV vi V | IV I V vi | I iii IV V | I IV I V
        I IV V IV | I V/3 vi IV | I I/3 IV V | I ii IV I | I V ii IV | vi V IV V | IV V iii vi
        IV V vi I | I iii vi IV | I IV ii V | I vi ii V | iii vi ii V | I V IV V | I I IV V
        I I V V | I IV I/5 V | vi iii IV V | vi ii V I | IV iv I I | I III7 vi IV | I III7 IV iv
        I bVII IV I | I bVII IV V | I bIII IV I | I II7 IV I | I V/7 vi IV/3 | IV I/3 ii I
        I V vi iii IV I IV V | I V/3 vi I/5 IV I/3 ii V | I I7 IV iv I VI7 II7 V7
        I I vi vi IV IV V V | IV V I vi IV V I I | vi IV I V vi IV V V | I IV/t V/t I
        I iii IV iv | I vi iii IV | I V IV IV | vi I/5 IV I/3 | IV IV I I | IV V I I/3
    """,
    "minor": """
        i bVI bIII bVII | i bVII bVI V | i iv bVII bIII | i bVI iv V | i iv i V | i bVII bVI bVII
        i v bVI bVII | i bIII bVII bVI | i bVI bVII i | bVI bVII i i | i iv v i | i i iv V
        i bVII iv i | i iio V i | i bIII bVI V | i bVI bIII V/3 | i v bVI iv | iv i V i
        i i bVI V | i iv bVI V | i bIII iv bVI | bVI bIII bVII i | iv bVII bIII bVI iio V i i
        i bVII bIII bVI iv i V V | i V/3 i/7 IV/3 iv i/5 V V | i i iv iv bVI V i i
        i/t bVI/t bVII/t i/t | i bVI bIII iv | i bVII bVI iv | bVI bVII v i | i v iv v
        i iv/t i V | iv V bVI bIII iv i V i
    """,
    "dorian": """
        i IV i IV | i ii bIII IV | i bVII IV i | i IV bVII i | i i IV IV | i ii i bVII
        i bIII IV i | i v IV bVII | i bVII bIII IV | i IV v i | i7 i7 IV7 IV7 | i ii bIII ii
        i i i i IV IV i bVII | i bIII bVII IV
    """,
    "mixolydian": """
        I bVII IV I | I bVII I bVII | I IV bVII IV | I v IV I | I bVII bVII I | I I bVII IV
        I v bVII IV | I IV bVII I | I ii bVII I | I bVII IV IV | I I bVII bVII IV IV I I
        I vi bVII IV | I v bVII I
    """,
    "lydian": """
        I II I II | I II vi II | I I II II | I II/t I II/t | I iii II I | I vii vi II | I V II I
    """,
    "phrygian": """
        i bII i bII | i bII bIII bII | i bvii bII i | i bVI bII i | i bIII bII i | i i bII bII
    """,
    "jazz": """
        ii7 V7 Imaj7 Imaj7 | ii7 V7 Imaj7 vi7 | Imaj7 vi7 ii7 V7 | iii7 vi7 ii7 V7
        Imaj7 VI7 ii7 V7 | I6 #io7 ii7 V7 | Imaj7 IVmaj7 iii7,VI7 ii7,V7 | II7 V7 I6 I6
        I6,vi7 ii7,V7 iii7,vi7 ii7,V7 I6,I7 IV6,#ivo7 I6/5,vi7 ii7,V7
        III7 III7 VI7 VI7 II7 II7 V7 V7 | Imaj7 Imaj7 II7 II7 ii7 V7 Imaj7 V7
        Imaj7 Imaj7 ii7 V7 iii7 VI7 ii7 V7 | Imaj7 bIIImaj7 bVImaj7 V7
        Imaj7 viiø,III7 vi7 v7,I7 IVmaj7 iv7,bVII7 iii7,VI7 ii7,V7
        IVmaj7 iv6 iii7 VI7 ii7 V7 Imaj7 Imaj7 | Imaj7 I7 IVmaj7 iv6 iii7 VI7 ii7 V7
        ii7 V7 iii7 VI7 ii7 V7 I6 I6 | v7 I7 IVmaj7 IVmaj7 vi7 II7 ii7 V7
        Imaj7 Imaj7 iv7 bVII7 Imaj7 VI7 ii7 V7 | I6 I6 VI7 VI7 II7 V7 I6 V7
        Imaj7 iii7,biiio7 ii7 V7 | ii7,V7 Imaj7 ii7,V7 Imaj7 | Imaj7 bVII7 Imaj7 VI7
    """,
    "jazz minor": """
        iiø V7 i6 i6 | i6 iv7 iiø V7 | iv7 bVII7 bIIImaj7 bVImaj7 iiø V7 i7 i7
        i7 i7 iv7 iv7 iiø V7 i6 V7 | i6 viø iiø V7 | i7 bVImaj7 iiø V7 | i6,i7 iv7,bVII7 bIIImaj7 V7
        i7 i7 iiø V7 i7 iv7 bVImaj7,V7 i6 | iv7 iv7 i7 i7 bVI7 V7 i7 i7 | i7 bVII7 bVImaj7 V7
        iv7 V7 i6 i6 | i7 bVI7 V7 i7
    """,
    "blues": """
        I7 I7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7 | I7 IV7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7
        I7 I7 I7 I7 IV7 IV7 I7 I7 V7 V7 I7 I7 | I7 IV7 I7 I7 IV7 #ivo7 I7 VI7 ii7 V7 I7 V7
        I7 IV7 I7 v7,I7 IV7 #ivo7 I7 VI7 ii7 V7 I7,VI7 ii7,V7 | I7 V7 IV7 IV7 I7 V7 I7 V7
        I7 I7 IV7 IV7 I7 V7 I7 V7 | I7 I7 IV7 #ivo7 I7/5 VI7 II7,V7 I7
        I I I I7 IV IV I I V V I I | I7 I7 I7 I7 IV7 IV7 I7 VI7 II7 V7 I7,IV7 I7,V7
        I7 IV7 I7 I7 IV7 IV7 I7 I7 bVI7 V7 I7 V7
    """,
    "blues minor": """
        i7 i7 i7 i7 iv7 iv7 i7 i7 bVI7 V7 i7 i7 | i7 iv7 i7 i7 iv7 iv7 i7 i7 iiø V7 i7 V7
        i7 i7 i7 i7 iv7 iv7 i7 i7 V7 iv7 i7 i7 | i7 i7 iv7 i7 bVI7 V7 i7 V7
    """,
}
# A phrase of four bars: two bars that open it and two that close it, half or fully.
OPENINGS = {
    "major": "I I|I vi|I IV|I iii|I I/3|I V/3|vi IV|I V|I ii|IV I|I,V vi|I IV/t|vi iii|I,iii IV",
    "minor": "i i|i bVI|i iv|i bVII|i v|i bIII|i V/3|i i/7|i,bVII bVI|bVI bIII|i iio/3|i,v bVI",
    "dorian": "i IV|i ii|i bVII|i i|i bIII|bIII IV|i v|bVII IV",
    "mixolydian": "I bVII|I IV|I v|I I|I ii|bVII IV|v IV|I vi",
    "lydian": "I II|I I|I iii|I II/t|vi II|I vii",
}
HALF_CLOSES = {
    "major": "IV V|ii V|vi V|IV,ii V|II7 V|ii/3 V|iv V|I/5 V|IV,IV/3 V|vi,ii V",
    "minor": "iv V|iio V|bVI V|iv/3 V|i/5 V|bVI,iv V|bVII,bVI V",
    "dorian": "bVII IV|ii IV|v IV|bIII IV",
    "mixolydian": "IV bVII|v bVII|ii bVII|I v",
    "lydian": "I II|vi II|iii II",
}
FULL_CLOSES = {
    "major": "V I|ii,V I|IV,V I|I/5,V I|IV I|iv I|ii/3,V I|vi,V I|V7sus,V I",
    "minor": "V i|iv,V i|iio,V i|bVI,bVII i|i/5,V i|iv i|bVI,V i|iio/3,V i",
    "dorian": "IV i|bVII i|v i|ii i|bIII,IV i|IV,bVII i",
    "mixolydian": "bVII I|IV I|bVII,IV I|v,bVII I|ii,bVII I",
    "lydian": "II I|vi,II I|iii,II I|vii,II I",
}
PHRASES = {"major": 240, "minor": 200, "dorian": 40, "mixolydian": 40, "lydian": 24}


def _split(text: str) -> list[str]:
    return [" ".join(part.split()) for line in text.splitlines() for part in line.split("|")]


@functools.cache
def progressions(kind: str) -> tuple[str, ...]:
    """All progressions of a kind: a mode, "jazz", "jazz minor", "blues" or "blues minor".

    The phrases pair a half close with a full close, as antecedent and consequent, so that they
    have eight bars, or four.
    """
    found = [loop for loop in _split(LOOPS[kind]) if loop]
    rng, wanted = random.Random(kind), len(found) + PHRASES.get(kind, 0)
    options = [table.get(kind, "").split("|") for table in (OPENINGS, HALF_CLOSES, FULL_CLOSES)]
    while len(found) < wanted:
        first, half, second, full = (rng.choice(options[i]) for i in (0, 1, 0, 2))
        if rng.random() < 0.5:
            second = first  # the consequent begins like the antecedent
        phrase = f"{first} {half} {second} {full}" if rng.random() < 0.75 else f"{first} {full}"
        if phrase not in found:
            found.append(phrase)
    return tuple(found)


def is_new(progression: str) -> bool:
    """Whether a progression never occurs in a training piece."""
    return is_held_out("progression", progression)


def bars(progression: str) -> list[list[str]]:
    """The numerals of each bar."""
    return [bar.split(",") for bar in progression.split()]
