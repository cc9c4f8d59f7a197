import re

import numpy as np
import pytest

from data_pipeline import synthesis
from data_pipeline.synthesis.instruments import INSTRUMENTS, SAMPLE_RATE
from data_pipeline.synthesis.playing import render
from data_pipeline.synthesis.styles import PANS, Part, Style, caption, draw_style

NAMES = re.compile(r"\b(" + "|".join(sorted(INSTRUMENTS, key=len, reverse=True)) + r")\b")
STYLES = [(draw_style(np.random.default_rng(i)), np.random.default_rng(i)) for i in range(300)]


def energy(audio):
    return (audio.astype(np.float64) ** 2).sum(0)


def test_a_clip_depends_on_seed_and_index_alone():
    first, again = synthesis.clip(3, 7, 0.5), synthesis.clip(3, 7, 0.5)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert (first.caption, first.truth) == (again.caption, again.truth)
    others = [synthesis.clip(3, 8, 0.5), synthesis.clip(4, 7, 0.5)]
    assert all(np.abs(first.audio - other.audio).max() > 0.1 for other in others)
    assert synthesis.clip(3, 7, 0.25).caption == first.caption


def test_levels_and_shape():
    clips = [synthesis.clip(0, i, 0.5) for i in range(8)]
    for clip in clips:
        assert clip.audio.shape == (SAMPLE_RATE // 2, 2) and clip.audio.dtype == np.float32
        assert 0.5 <= np.abs(clip.audio).max() <= 0.9


def test_every_statement_of_a_caption_is_true():
    for style, rng in STYLES:
        text, truth = caption(style, rng), style.truth
        assert truth["key"] in text
        assert f"{truth['tempo']} b" in text
        assert sorted(NAMES.findall(text)) == sorted(truth["instruments"])
        assert (" drum" in text and "no drums" not in text) == (not truth["tonal"])
        assert truth["drums"] in text
        assert ("in three" in text or "3/4" in text) == (truth["metre"] == 3)
        pans = {part["pan"] for part in truth["parts"]}
        assert all(pan in pans for pan, words in PANS.items() if words in text)
    assert len({caption(style, rng) for style, rng in STYLES}) > 290


def test_both_tonal_clips_and_drums_are_drawn():
    tonal = np.mean([style.truth["tonal"] for style, _ in STYLES])
    assert 0.4 < tonal < 0.75


@pytest.mark.parametrize("pan", [-0.7, 0.7])
def test_a_panned_part_is_louder_on_its_side(pan):
    style = Style(
        9,
        "minor",
        100,
        4,
        (0, 5, 2, 6),
        "solo arpeggio",
        (Part(INSTRUMENTS["guitar"], "arpeggio", pan),),
        "",
        "hall",
    )
    left, right = energy(render(style, 1.0, np.random.default_rng(0)))
    assert np.sign(right - left) == np.sign(pan) and max(left, right) > 4 * min(left, right)


def test_pads_are_wide_and_balanced():
    pads = (Part(INSTRUMENTS["warm pads"], "pads", 0.0),)
    style = Style(0, "major", 100, 4, (0, 4, 5, 3), "pads", pads, "", "dry")
    audio = render(style, 2.0, np.random.default_rng(0))
    mid, side = audio.sum(1), audio[:, 0] - audio[:, 1]
    left, right = energy(audio)
    assert energy(side) > 0.1 * energy(mid) and 0.5 < left / right < 2


@pytest.mark.parametrize("name", [name for name, i in INSTRUMENTS.items() if i.family != "pads"])
def test_instruments_play_the_requested_pitch(name):
    frequency = 220.0
    note = INSTRUMENTS[name].voice(frequency, 1.0, np.random.default_rng(0))
    assert note.dtype == np.float32 and np.isfinite(note).all()
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note))))
    near = lambda f: spectrum[int(f * 0.97) : int(f * 1.03) + 1].max()  # one bin is 1 Hz
    assert near(frequency) > 20 * near(frequency * 1.25)  # no partial of any instrument lies there
