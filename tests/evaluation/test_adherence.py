"""Ranks by timbre, rhythm and key: what is like its own clip comes first, and what is not follows chance."""

import numpy as np
import pytest

from jen1_jax.evaluation import adherence

RATE, COUNT = 48_000, 12


def clip(number: int, seed: int) -> np.ndarray:
    """Two seconds with a key, a tempo and a colour that belong to the number; notes and noise belong to the seed."""
    rng = np.random.default_rng((number, seed))
    t = np.arange(2 * RATE) / RATE
    root = 220 * 2 ** (number * 7 % 12 / 12)
    beat = 0.25 + 0.03 * (number * 5 % 12)
    pulse = np.exp(-8 * ((t + 0.01 * rng.random()) % beat))
    tones = sum(
        rng.uniform(0.5, 1) * np.sin(2 * np.pi * root * ratio * t + rng.uniform(0, 6))
        for ratio in (1, 1.25, 1.5)
    )
    treble = np.diff(rng.standard_normal(len(t) + 1)) * 0.1 * (number * 3 % 12) / 12
    return np.repeat((0.1 * pulse * (tones + treble))[:, None], 2, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def real():
    return np.stack([clip(number, 0) for number in range(COUNT)])


def test_music_of_the_same_kind_is_near_its_own_clip_in_every_view(real):
    row = adherence.compare(np.stack([clip(number, 1) for number in range(COUNT)]), real, RATE)
    for view in adherence.VIEWS:
        assert row[view]["rank"] <= 2 and row[view]["p"] < 0.001, view
    for figure in adherence.RATIOS:
        low, high = row[f"{figure}_interval"]
        assert low <= row[figure] <= high and row[figure] == pytest.approx(1, abs=0.2), figure


def test_a_louder_narrower_duller_copy_is_told_by_how_much(real):
    noise = np.random.default_rng(0).standard_normal((COUNT, *real.shape[1:]))
    wide = real + 0.05 * noise
    row = adherence.compare(2 * wide.mean(-1, keepdims=True).repeat(2, -1), wide, RATE)
    assert row["peak"] == pytest.approx(2, abs=0.3) and row["side"] < -80
    dull = np.fft.irfft(
        np.fft.rfft(wide, axis=1) * (np.fft.rfftfreq(2 * RATE, 1 / RATE) < 8000)[:, None], axis=1
    )
    assert adherence.compare(dull, wide, RATE)["treble"] < -10


def test_noise_and_other_clips_are_no_nearer_than_chance(real):
    noise = 0.1 * np.random.default_rng(0).standard_normal(real.shape).astype(np.float32)
    row = adherence.compare(noise, real, RATE)
    assert min(row[view]["p"] for view in adherence.VIEWS) > 0.01
    assert row["flatness"] > 2
    moved = adherence.compare(np.roll(real, 1, axis=0), real, RATE)
    assert moved["timbre"]["p"] > 0.5


def test_equal_similarities_share_their_ranks():
    np.testing.assert_array_equal(adherence.ranks(np.array([0.1, 0.9, 0.1, 0.5])), [3.5, 1, 3.5, 2])
    found = adherence.follow(np.zeros((8, 4)), np.random.default_rng(0).standard_normal((8, 4)))
    assert found["rank"] == 4.5 and found["p"] > 0.9


def test_drums_are_heard(real):
    drummed = real.copy()
    for start in range(0, 2 * RATE, RATE // 4):
        drummed[:, start : start + 2000] += 0.3 * np.random.default_rng(start).standard_normal(
            (2000, 2)
        )
    both, truth = np.concatenate([real, drummed]), [False] * COUNT + [True] * COUNT
    detector = adherence.drum_detector(both[::2], truth[::2], RATE)
    assert (detector(both[1::2]) == truth[1::2]).mean() > 0.9
    assert adherence.compare(drummed, real, RATE, detector)["drums"] < 0.2


def test_the_table_has_a_line_for_each_row(real):
    lines = adherence.table({"made": adherence.compare(real, real, RATE)}, COUNT).splitlines()
    assert lines[1].startswith("chance") and "6.5" in lines[1] and lines[2].startswith("made")
    assert "flatness, x" in lines[4] and "1.00 (1.00 to 1.00)" in lines[5]
