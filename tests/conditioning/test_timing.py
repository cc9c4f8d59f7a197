"""The place in a piece: its values for a part of an example, and its features."""

import jax
import numpy as np

from jen1_jax.conditioning.timing import SECONDS_LIMIT, Timing

timing = jax.jit(lambda start, total: Timing().features({"start": start, "total": total}))


def test_timing_features_differ_between_any_two_times_within_an_hour():
    seconds = np.concatenate(
        [np.arange(0, 60, 1.0), np.arange(60, 600, 10.0), np.arange(600, 3601, 60.0)],
        dtype=np.float32,
    )
    features = lambda start, total: np.asarray(
        timing(*np.broadcast_arrays(np.float32(start), np.float32(total)))
    )
    for found in (features(seconds, 100), features(10, seconds)):
        distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
        assert distances[~np.eye(len(seconds), dtype=bool)].min() > 0.1
        # A second at the beginning is further than a minute at the end.
        assert distances[0, 1] > 10 * distances[-2, -1] > 0
    np.testing.assert_array_equal(features([SECONDS_LIMIT], 10), features([1e6], 10))
    assert (features([30.0], 60) != features([60.0], 30)).any()


def test_a_part_of_an_example_starts_later_and_may_end_its_piece():
    values = {"start": np.float32([10, 10]), "total": np.float32([60, 60])}
    moved = Timing().window(values, np.float32([2, 0]), np.float32([np.inf, 3]))
    np.testing.assert_array_equal(moved["start"], [12, 10])
    np.testing.assert_array_equal(moved["total"], [60, 13])
