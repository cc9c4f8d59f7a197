"""Properties of `inpaint` that hold whatever the model has learned."""

import numpy as np
import pytest

from jen1_numpy.errors import Refusal
from jen1_numpy.generation import INPAINT_FADE
from tests.generation import RATE


def test_inpaint_leaves_everything_outside_the_spans_alone(tiny_model, song):
    spans = [(0.03, 0.06), (0.1, 0.15)]
    result = tiny_model.inpaint(song, spans, "two tones", seed=1)
    changed = np.any(result != song, axis=1)
    inside = np.zeros(len(song), bool)
    for start, end in spans:
        inside[round(start * RATE) : round(end * RATE)] = True
    assert result.shape == song.shape and not changed[~inside].any()
    fade = round(INPAINT_FADE * RATE) // 2
    for start, end in spans:  # new music in the middle, and no jump where it begins and ends
        assert changed[round(start * RATE) + fade : round(end * RATE) - fade].mean() > 0.99
        for edge in (round(start * RATE), round(end * RATE)):
            jump = np.abs(np.diff(result[edge - 2 : edge + 2], axis=0)).max()
            assert jump < 2 * np.abs(np.diff(song, axis=0)).max()


def test_inpaint_does_not_depend_on_the_audio_in_the_hole(tiny_model, song):
    other = song.copy()
    middle = slice(round(0.06 * RATE) + 960, round(0.11 * RATE) - 960)  # away from the cross-fades
    other[middle] = np.random.default_rng(0).uniform(-1, 1, other[middle].shape)
    first, second = (
        tiny_model.inpaint(audio, [(0.06, 0.11)], "two tones") for audio in (song, other)
    )
    np.testing.assert_array_equal(first, second)


def test_spans_that_touch_are_one_span(tiny_model, song):
    one, several = (
        tiny_model.inpaint(song, spans, "two tones")
        for spans in ([(0.06, 0.11)], [(0.06, 0.08), (0.08, 0.11)])
    )
    np.testing.assert_array_equal(several, one)


def test_audio_between_two_spans_stays_however_short_it_is(tiny_model, song):
    result = tiny_model.inpaint(song, [(0.06, 0.0803), (0.0805, 0.11)], "two tones")
    between = slice(round(0.0803 * RATE), round(0.0805 * RATE))
    np.testing.assert_array_equal(result[between], song[between])
    assert (result != song).any(axis=1).mean() > 0.2


def test_a_file_shorter_than_the_margins_is_inpainted_too(tiny_model, song):
    short = song[: 3 * 64 + 10]
    assert tiny_model.inpaint(short, [(0.001, 0.002)], "two tones").shape == short.shape


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0.1, 0.3)], "not inside the audio of 0.20 s"),
        ([(0.01, 0.19)], r"inpaints 0\.10 s at once"),
        ([(0.01, 0.1), (0.1, 0.19)], r"inpaints 0\.10 s at once"),
        # apart by less than a latent frame
        ([(0.01, 0.1003), (0.1005, 0.19)], r"inpaints 0\.10 s at once"),
        # 75 frames of 76, but for the margins
        ([(0.05, 0.15)], r"comes to 0\.1\d s, but this model inpaints 0\.10 s at once"),
    ],
)
def test_spans_that_cannot_be_inpainted_are_refused(tiny_model, song, spans, message):
    with pytest.raises(Refusal, match=message):
        tiny_model.inpaint(song, spans)
