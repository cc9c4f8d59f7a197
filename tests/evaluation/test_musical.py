"""Tempo, meter and key of audio whose truth is known."""

import numpy as np
import pytest

from jen1_jax.evaluation import musical

RATE = 48_000
SECONDS = 8


def clicks(bpm: float, beats: int) -> np.ndarray:
    """A low tone on the first of each `beats`, a high click on the others, and some noise."""
    audio = 1e-3 * np.random.default_rng(0).standard_normal(SECONDS * RATE)
    t = np.arange(RATE // 10) / RATE
    shape = 0.5 * np.exp(-40 * t) * (1 - np.exp(-300 * t))
    for number, start in enumerate(np.arange(0, SECONDS - 0.2, 60 / bpm)):
        pitch = 150 if number % beats == 0 else 3000
        place = round(start * RATE)
        audio[place : place + len(t)] += shape * np.sin(2 * np.pi * pitch * t)
    return np.stack([audio, audio], 1).astype(np.float32)


def chords(roots: list[int], thirds: list[int]) -> np.ndarray:
    """Triads of one second each; roots and thirds in semitones above C and above the root."""
    t = np.arange(RATE) / RATE
    tone = lambda pitch: np.sin(2 * np.pi * 261.63 * 2 ** (pitch / 12) * t)
    parts = [
        tone(root - 12) + tone(root) + tone(root + third) + tone(root + 7)
        for root, third in zip(roots, thirds, strict=True)
    ]
    audio = 0.1 * np.concatenate(parts)
    return np.stack([audio, audio], 1).astype(np.float32)


@pytest.mark.parametrize("bpm, beats", [(100, 3), (132, 4)])
def test_clicks_have_their_tempo_and_meter(bpm, beats):
    found = musical.measure(clicks(bpm, beats), RATE)
    assert musical.same_tempo(found["tempo"], bpm)
    assert (found["meter"] > 0) == (beats == 3)


def test_a_cadence_has_its_key():
    major, minor = chords([2, 7, 9, 2], [4, 4, 4, 4]), chords([9, 2, 4, 9], [3, 3, 4, 3])
    assert musical.key(major.mean(1), RATE) == 2  # D major
    assert musical.key(minor.mean(1), RATE) == 9 + 12  # A minor


def test_silence_is_measured():
    found = musical.measure(np.zeros((4 * RATE, 2), np.float32), RATE)
    assert np.isfinite([found["tempo"], found["meter"]]).all()


def test_tempi_of_other_levels_and_near_keys_are_counted_apart():
    assert musical.same_tempo(104, 100) and not musical.same_tempo(106, 100)
    assert not musical.same_tempo(200, 100) and musical.same_tempo_or_level(200, 100)
    assert not musical.same_tempo_or_level(150, 100)
    near = [key for key in range(24) if musical.near_key(key, 0)]
    assert near == [0, 5, 7, 9 + 12]  # C: F, G and A minor
    assert [key for key in range(24) if musical.near_key(key, 9 + 12)] == [0, 14, 16, 21]


def test_only_what_the_score_says_for_certain_is_true():
    meta = {"tempo": 90.0, "key": "Bb", "mode": "dorian", "meter": "3/4", "drums": False}
    assert musical.truth(meta) == {"tempo": 90.0, "key": 22, "meter": True, "drums": False}
    assert musical.truth({"key": "C", "mode": "major", "key_from": "estimated"}) == {}
    assert musical.truth({"meter": "6/8", "drums": None}) == {}
