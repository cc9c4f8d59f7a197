"""The figures of `benchmarks.round_trips` on round trips with known faults."""

import numpy as np
import pytest

from benchmarks.round_trips import compare, line, pink_noise, pitch_error, ratios

RATE = 48_000


def clips(count=2, side=0.7):
    """Noise of half a second; `side` is the deviation of the side, that of the mid is 1."""
    rng = np.random.default_rng(0)
    mid, other = rng.normal(0, 0.05, (2, count, RATE // 2))
    return np.stack([mid + side * other, mid - side * other], -1)


def test_a_perfect_round_trip_has_no_error():
    row = compare(clips(), clips(), RATE)
    assert row["stft_distance"] == row["wide"] == row["treble"] == 0
    assert row["pitch"] == pytest.approx(0, abs=1e-6)
    assert row["wide_clips"] == row["treble_clips"] == 2
    assert line(ratios(pink_noise(RATE), pink_noise(RATE), RATE), RATE) == 0


def test_an_added_tone_is_a_line_and_a_louder_copy_has_none():
    tone = 0.02 * np.sin(2 * np.pi * 12_000 * np.arange(RATE) / RATE)
    noise = pink_noise(RATE)[: len(tone)]
    assert line(ratios(noise + tone[:, None], noise, RATE), RATE) > 6
    assert line(ratios(1.5 * noise, noise, RATE), RATE) < 0.5


def test_treble_and_width_count_in_decibels():
    mono = clips().mean(-1, keepdims=True)
    narrow = mono + 0.5 * (clips() - mono)  # the side is 6 dB lower
    row = compare(narrow, clips(), RATE)
    before, after = 0.49 / 1.49, 0.49 / 4 / (1 + 0.49 / 4)  # shares of the side
    assert row["wide"] == pytest.approx(10 * np.log10(before / after), abs=0.2)
    assert compare(0.5 * clips(), clips(), RATE)["treble"] == pytest.approx(6.02, abs=0.01)
    assert compare(clips(side=0.1), clips(side=0.1), RATE)["wide"] is None


def test_a_tone_a_semitone_away_has_another_pitch_and_an_octave_and_a_gain_have_not():
    t = np.arange(RATE) / RATE
    tone = lambda midi: np.repeat(
        0.1 * np.sin(2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * t)[:, None], 2, 1
    )
    error = lambda midi, gain=1.0: pitch_error(gain * tone(midi), tone(60), RATE)
    assert error(60, 0.5) == pytest.approx(0, abs=1e-3)
    assert error(72) < 0.1 < 0.5 < error(61)
