import json

import numpy as np
import pytest
import soundfile

from data_pipeline import clips
from data_pipeline.sources import About, Item, Rejection
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, SECONDS, tone


def item(path, audio, **options):
    soundfile.write(path, audio, 48_000, **options)
    return Item("a.wav", path, lambda start, stop: About(("a tone",), {"from": start, "to": stop}))


def test_clips_come_in_order_with_silence_and_the_tail_marked(tmp_path):
    audio = tone(2 * SECONDS + 0.2)
    audio[SAMPLES : 2 * SAMPLES] = 0
    first, silence, last = clips.cut(item(tmp_path / "a.wav", audio), SECONDS).pieces
    assert silence == clips.Dropped("silence", SECONDS)
    assert [clip["id"] for clip in (first, last)] == ["a.wav@0.000", "a.wav@0.500"]
    assert [clip["valid_samples"] for clip in (first, last)] == [SAMPLES, 9600]
    lasts = pytest.approx(2 * SECONDS + 0.2)
    for clip, part, start, stop in (
        (first, audio[:SAMPLES], 0, SECONDS),
        (last, audio[2 * SAMPLES :], 2 * SECONDS, lasts),
    ):
        padded = np.pad(part, ((0, SAMPLES - len(part)), (0, 0)))
        np.testing.assert_allclose(clip["audio"] / 32767, padded, atol=1e-4)
        assert clip["total"] == lasts
        assert clip["captions"] == ["a tone"]
        assert json.loads(clip["meta"]) == {"from": start, "to": stop}
    *_, tail = clips.cut(item(tmp_path / "a.wav", tone(SECONDS + 0.1)), SECONDS).pieces
    assert tail == clips.Dropped("tail", pytest.approx(0.1))


def test_the_same_item_gives_the_same_clips(tmp_path):
    given = item(tmp_path / "a.wav", tone(0.9))
    first, again = (clips.cut(given, SECONDS) for _ in range(2))
    assert first.digest == again.digest
    for one, other in zip(first.pieces, again.pieces, strict=True):
        np.testing.assert_array_equal(one.pop("audio"), other.pop("audio"))
        assert one == other


def test_an_unusable_item_gives_a_rejection(tmp_path):
    given = item(tmp_path / "a.wav", np.full((SAMPLES, 2), np.inf), subtype="FLOAT")
    assert clips.cut(given, SECONDS) == Rejection(
        "a.wav", "NaN or Inf", f"within {clips.BLOCK} frames of frame 0"
    )


def test_a_recording_that_refuses_to_be_rendered_gives_a_rejection():
    def render():
        raise Refusal("The score has no notes.")

    given = Item("a.mid", render, lambda start, stop: About(("",), {}))
    expected = Rejection("a.mid", "cannot be rendered", "The score has no notes.")
    assert clips.cut(given, SECONDS) == expected


def test_a_file_is_read_no_further_than_its_clips_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "BLOCK", 1000)
    recording = clips.cut(item(tmp_path / "a.wav", tone(10 * SECONDS)), SECONDS)
    frames, blocks = [], clips._blocks

    def counted(file):
        for block in blocks(file):
            frames.append(len(block))
            yield block

    monkeypatch.setattr(clips, "_blocks", counted)
    next(recording.pieces)
    assert sum(frames) == SAMPLES
