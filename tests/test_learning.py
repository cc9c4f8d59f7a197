"""It learns, end to end: the caption brings back its clip, a hole is filled with what was there, a beginning goes on rightly."""

import numpy as np
import pytest

from benchmarks import memorise
from jen1_jax.generation.model import Model


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    run = memorise.train(memorise.config(), tmp_path_factory.mktemp("memorise"))
    return memorise.judge(Model.load(run.path))


@pytest.mark.slow
def test_a_caption_alone_brings_back_its_own_clip(judged):
    assert judged["text"]["nearest"] >= 7
    assert np.median(judged["text"]["error"]) < 0.3


@pytest.mark.slow
def test_inpainting_fills_a_hole_with_what_was_there(judged):
    assert judged["inpaint"]["nearest"] >= 7
    assert np.median(judged["inpaint"]["error"]) < 0.6


@pytest.mark.slow
def test_continuation_goes_on_with_the_right_clip(judged):
    assert judged["extend"]["nearest"] >= 7
    assert np.median(judged["extend"]["error"]) < 0.5


@pytest.mark.slow
def test_an_inpainted_hole_has_no_jump_at_its_edges(judged):
    assert judged["seam"] < 1.5
