"""Spans in seconds become samples and frames, and spans that cannot be inpainted are refused."""

import numpy as np
import pytest

from jen1_numpy.errors import Refusal
from jen1_numpy.spans import check_longest, frames_around, merged_spans

SAMPLE_RATE, SAMPLES = 1000, 200


@pytest.mark.parametrize(
    "spans",
    [
        [(0.06, 0.11)],
        [(0.06, 0.08), (0.08, 0.11)],
        [(0.07, 0.11), (0.06, 0.09)],
        [(0.06, 0.11), (0.07, 0.08)],
        np.array([[0.06, 0.08], [0.08, 0.11]]),
    ],
)
def test_spans_that_touch_or_overlap_are_one(spans):
    assert merged_spans(spans, SAMPLES, SAMPLE_RATE) == [(60, 110)]


def test_spans_that_do_not_touch_are_kept_apart_and_in_order():
    spans = [(0.101, 0.2), (0.0, 0.1)]
    assert merged_spans(spans, SAMPLES, SAMPLE_RATE) == [(0, 100), (101, 200)]


@pytest.mark.parametrize(
    "spans, message",
    [
        ([(0.1, 0.3)], "not inside the audio of 0.20 s"),
        ([(-0.1, 0.1)], "not inside"),
        ([(0.1, 0.1)], "not inside"),
        ([(0.1, 0.05)], "not inside"),
        ([(float("nan"), 0.1)], "not inside"),
        ([(0.1, 0.1001)], "shorter than one sample"),
        ([], "at least one span"),
        ([(0.0, 0.2)], "whole audio"),
        ([(0.0, 0.1), (0.05, 0.2)], "whole audio"),
        ((0.1, 0.15), "not pairs"),
        (0.1, "not pairs"),
        ([("a", "b")], "not pairs"),
        ([(0.1, 0.12, 0.15)], "not pairs"),
    ],
)
def test_spans_that_make_no_sense_are_refused(spans, message, unchecked):
    with pytest.raises(Refusal, match=message):
        merged_spans(spans, SAMPLES, SAMPLE_RATE)


def test_a_frame_is_given_where_no_sample_is_generated_and_context_beyond_the_margin():
    inside = np.zeros(95, bool)
    inside[[39, 40]] = True  # the last sample of frame 3 and the first of frame 4
    context, given = frames_around(inside, frames=10, hop=10, margin=2)
    np.testing.assert_array_equal(np.flatnonzero(~given), [3, 4])
    np.testing.assert_array_equal(np.flatnonzero(~context), [1, 2, 3, 4, 5, 6])


def test_the_longest_run_without_context_is_limited():
    context = np.array([False, True, False, False, False, True])
    check_longest(context, 3, margin=1, frame_rate=10.0)
    check_longest(np.ones(3, bool), 0, margin=1, frame_rate=10.0)
    with pytest.raises(Refusal, match=r"comes to 0\.30 s, but this model inpaints 0\.20 s at once"):
        check_longest(context, 2, margin=1, frame_rate=10.0)
