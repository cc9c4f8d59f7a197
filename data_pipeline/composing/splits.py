"""Which grooves, progressions and pairs never occur in training, decided by their names alone."""

import zlib

PERCENT = 6
TRAINING_SOUNDFONTS = ("FluidR3_GM.sf2", "MuseScore_General_Full.sf3")
TEST_SOUNDFONT = "TimGM6mb.sf2"


def is_held_out(kind: str, name: str) -> bool:
    """Whether a thing is kept for test pieces; `kind` is groove, progression or pair."""
    return zlib.crc32(f"{kind} {name}".encode()) % 100 < PERCENT
