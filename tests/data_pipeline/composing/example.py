"""A small groove library and an accompaniment that need no MMA, and pieces made with them."""

import functools
import random

from data_pipeline.composing import drums, grooves, pieces, textures
from data_pipeline.composing.notes import Part

FILES = (
    "stdlib/waltz",
    "stdlib/bossanova",
    "stdlib/swing",
    "stdlib/tango",
    "stdlib/folk",
    "stdlib/rb",
    "casio/rock1",
    "stdlib/arpeggio68",
    "stdlib/ballad128",
    "stdlib/polka",
    "stdlib/frenchwaltz",
    "stdlib/bluegrass",
    "stdlib/ragtime",
    "casio/jazzwaltz",
    "casio/house",
    "zoom/reggae",
)
_BEATS = {"waltz": 3, "frenchwaltz": 3, "jazzwaltz": 3, "arpeggio68": 6}


def library() -> list[grooves.Family]:
    """Families of real names with made-up grooves."""
    families = []
    for file in FILES:
        name = file.split("/")[1]
        body = "" if file.startswith("zoom") else "Begin Bass\nSequence 1\nEnd\n"
        text = (
            f"Time {_BEATS.get(name, 4)}\nSeqSize 2\n{body}DefGroove {name}\nDefGroove {name}Sus\n"
            f"DefGroove {name}Fill\nDefGroove {name}Intro\nSeqSize 4\nDefGroove {name}End\n"
        )
        families.append(grooves.parse(file, text))
    return families


def accompany(family, played, form, seed, flats) -> list[Part]:
    """Stands for MMA: roots, chords and drums."""
    rng = random.Random(seed)
    return [
        textures.bass(form, 33, "long", loudness=80, rng=rng),
        textures.hits(form, 0, "soft", loudness=70, rng=rng),
        drums.kit(form, beat="rock", loudness=80, rng=rng),
    ]


@functools.cache
def made(number: int) -> pieces.Piece:
    return pieces.compose(5, number, library(), accompany)
