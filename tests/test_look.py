"""The clips that `benchmarks.look` chooses, and what it measures of them."""

import numpy as np
import pytest

from benchmarks.look import choose, measured


def test_clips_have_different_pieces_and_styles_where_there_are_enough():
    clips = [
        {"id": f"{piece}@{start}", "meta": {"style": style}}
        for piece, style in (("a", "polka"), ("b", "polka"), ("c", "funk"), ("d", None))
        for start in (0, 10)
    ]
    names = lambda count: [clip["id"] for clip in choose(iter(clips), count)]
    assert names(2) == ["a@0", "c@0"]
    assert names(9) == ["a@0", "c@0", "d@0", "b@0"]


def test_levels_and_stereo_image_are_those_of_known_signals():
    tone = np.sin(np.arange(48_000) / 10)
    centre = measured(np.stack([tone, tone], 1) / 2)
    assert centre["peak"] == pytest.approx(-6.02, abs=0.01)
    assert centre["level"] == pytest.approx(-9.03, abs=0.01)
    assert centre["side"] < -80 and centre["correlation"] == pytest.approx(1, abs=1e-4)
    left = measured(np.stack([tone, 0 * tone], 1))
    assert left["side"] == pytest.approx(0) and left["correlation"] == pytest.approx(0)
    assert np.isfinite(list(measured(np.zeros((10, 2))).values())).all()
