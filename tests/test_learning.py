"""It learns, end to end: captions never seen are followed, and what was learnt by heart comes back in all three tasks."""

import numpy as np
import pytest

from benchmarks import follow, memorise
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


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """(generator, codec, held-out audio, its captions)."""
    folder = tmp_path_factory.mktemp("follow")
    audio, captions = follow.music()
    codec = follow.make_codec(audio[: follow.CLIPS], folder, follow.config())
    made_by = follow.compose(codec, audio[: follow.CLIPS], captions[: follow.CLIPS], folder / "right")
    return made_by, codec, audio[follow.CLIPS :], captions[follow.CLIPS :]


@pytest.mark.slow
def test_captions_never_seen_are_followed(composed):
    assert follow.judge(*composed)["p"] < follow.LEAST


@pytest.mark.slow
def test_without_text_nothing_is_followed(composed):
    made_by, codec, real, captions = composed
    assert follow.judge(made_by, codec, real, [""] * len(captions))["p"] > follow.LEAST
