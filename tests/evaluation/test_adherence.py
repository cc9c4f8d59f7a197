"""Retrieval ranks by timbre, rhythm and key.

Clips like their reference have low ranks; those of other clips are as expected by chance.
"""

import numpy as np
import pytest

from jen1_jax.evaluation import adherence

RATE, COUNT = 48_000, 12


def clip(number: int, seed: int) -> np.ndarray:
    """Two seconds of audio: `number` sets key, tempo and timbre; `seed` sets notes and noise."""
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
def reference():
    return np.stack([clip(number, 0) for number in range(COUNT)])


def test_clips_like_their_reference_have_low_ranks_in_every_view(reference):
    similar = np.stack([clip(number, 1) for number in range(COUNT)])
    row = adherence.compare(similar, reference, RATE)
    for view in adherence.VIEWS:
        assert row[view]["rank"] <= 2 and row[view]["p"] < 0.001, view
    for figure in adherence.RATIOS:
        low, high = row[f"{figure}_interval"]
        assert low <= row[figure] <= high and row[figure] == pytest.approx(1, abs=0.2), figure


def test_peak_side_and_treble_measure_a_louder_mono_and_low_passed_copy(reference):
    noise = np.random.default_rng(0).standard_normal((COUNT, *reference.shape[1:]))
    wide = reference + 0.05 * noise
    mono = wide.mean(-1, keepdims=True).repeat(2, -1)
    row = adherence.compare(2 * mono, wide, RATE)
    assert row["peak"] == pytest.approx(2, abs=0.3) and row["side"] < -80
    kept = np.fft.rfftfreq(2 * RATE, 1 / RATE) < 8000
    low_passed = np.fft.irfft(np.fft.rfft(wide, axis=1) * kept[:, None], axis=1)
    assert adherence.compare(low_passed, wide, RATE)["treble"] < -10


def test_noise_and_exchanged_clips_have_the_ranks_of_chance(reference):
    noise = 0.1 * np.random.default_rng(0).standard_normal(reference.shape).astype(np.float32)
    row = adherence.compare(noise, reference, RATE)
    assert min(row[view]["p"] for view in adherence.VIEWS) > 0.01
    assert row["flatness"] > 2
    exchanged = adherence.compare(np.roll(reference, 1, axis=0), reference, RATE)
    assert exchanged["timbre"]["p"] > 0.5


def test_equal_similarities_share_their_mean_rank():
    np.testing.assert_array_equal(adherence.ranks(np.array([0.1, 0.9, 0.1, 0.5])), [3.5, 1, 3.5, 2])
    reference = np.random.default_rng(0).standard_normal((8, 4))
    found = adherence.retrieval(np.zeros((8, 4)), reference)
    assert found["rank"] == 4.5 and found["p"] > 0.9


def test_the_detector_finds_drums(reference):
    with_drums = reference.copy()
    for start in range(0, 2 * RATE, RATE // 4):
        beat = 0.3 * np.random.default_rng(start).standard_normal((2000, 2))
        with_drums[:, start : start + 2000] += beat
    both, truth = np.concatenate([reference, with_drums]), [False] * COUNT + [True] * COUNT
    detector = adherence.drum_detector(both[::2], truth[::2], RATE)
    assert (detector(both[1::2]) == truth[1::2]).mean() > 0.9
    assert adherence.compare(with_drums, reference, RATE, detector)["drums"] < 0.2


def test_the_table_has_a_line_for_each_row_and_an_interval_for_each_share(reference):
    detector = lambda clips: clips[:, 0, 0] > 0
    rows = {"generated": adherence.compare(reference, reference, RATE, detector)}
    lines = adherence.table(rows, COUNT).splitlines()
    assert lines[1].startswith("chance") and "6.5" in lines[1]
    assert lines[2].startswith("generated")
    assert lines[2].count("1.0 (1.0 to 1.0)") == lines[2].count("100% (100% to 100%)") == 3
    assert "flatness, x" in lines[4] and "1.00 (1.00 to 1.00)" in lines[5]
    assert "drums" in lines[4] and "100% (100% to 100%)" in lines[5]
    assert len(lines[0]) == len(lines[2]) and len(lines[4]) == len(lines[5])
