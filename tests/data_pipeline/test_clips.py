import errno
import json
from dataclasses import replace
from tempfile import SpooledTemporaryFile

import numpy as np
import pytest
import soundfile

from data_pipeline import clips
from data_pipeline.sources import About, Item, Rejection, Section
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


def test_a_long_recording_is_kept_in_a_file_and_decoded_once(tmp_path, monkeypatch):
    given = item(tmp_path / "a.wav", tone(10 * SECONDS))
    whole = list(clips.cut(given, SECONDS).pieces)
    monkeypatch.setattr(clips, "IN_MEMORY", 10_000)
    monkeypatch.setattr(clips, "BLOCK", 1000)
    blocks, frames = clips._decode, []

    def counted(file):
        for block in blocks(file):
            frames.append(len(block))
            yield block

    monkeypatch.setattr(clips, "_decode", counted)
    recording = clips.cut(given, SECONDS, folder=tmp_path)
    for clip, right in zip(recording.pieces, whole, strict=True):
        np.testing.assert_array_equal(clip.pop("audio"), right.pop("audio"))
        assert clip == right
    assert sum(frames) == 10 * SAMPLES


def test_a_recording_is_scaled_as_a_whole_and_only_as_told(tmp_path):
    audio = np.concatenate([tone(SECONDS), 4 * tone(SECONDS)])  # its peak is 2
    given = item(tmp_path / "a.wav", audio, subtype="FLOAT")
    scaled = [clip["audio"] / 32767 for clip in clips.cut(given, SECONDS).pieces]
    np.testing.assert_allclose(np.concatenate(scaled), audio / 2, atol=1e-4)
    quiet = clips.cut(given, SECONDS, loudness=-30)
    gain = 10 ** ((-30 - quiet.verdict.loudness) / 20)
    scaled = [clip["audio"] / 32767 for clip in quiet.pieces]
    np.testing.assert_allclose(np.concatenate(scaled), gain * audio, atol=1e-4)
    loud = [clip["audio"] / 32767 for clip in clips.cut(given, SECONDS, loudness=0).pieces]
    np.testing.assert_allclose(np.concatenate(loud), audio / 2, atol=1e-4)


def test_stretches_are_cut_each_from_its_own_start(tmp_path):
    audio = tone(6 * SECONDS)
    given = item(tmp_path / "a.wav", audio)
    stretches = ((0.1, 0.1 + 2 * SECONDS), (1.0, 1.0 + SECONDS + 0.2), (9.0, 10.0))
    found = list(clips.cut(replace(given, stretches=stretches), SECONDS).pieces)
    assert [clip["start"] for clip in found] == [0.1, 0.1 + SECONDS, 1.0, 1.0 + SECONDS]
    assert [clip["valid_samples"] for clip in found] == [SAMPLES] * 3 + [9600]
    for clip in found:
        first, length = round(clip["start"] * 48_000), clip["valid_samples"]
        right = audio[first : first + length]
        np.testing.assert_allclose(clip["audio"][:length] / 32767, right, atol=1e-4)
        assert json.loads(clip["meta"])["from"] == clip["start"]


def test_a_section_of_a_file_is_read_like_a_file(tmp_path):
    given = item(tmp_path / "a.wav", tone(3 * SECONDS))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 1000 + content + b"y" * 1000)
    inside = replace(given, audio=Section(tmp_path / "a.tar", 1000, len(content)))
    one, other = clips.cut(given, SECONDS), clips.cut(inside, SECONDS)
    assert one.digest == other.digest
    for clip, right in zip(one.pieces, other.pieces, strict=True):
        np.testing.assert_array_equal(clip["audio"], right["audio"])


def test_an_unusable_item_gives_a_rejection(tmp_path):
    given = item(tmp_path / "a.wav", np.full((SAMPLES, 2), np.inf), subtype="FLOAT")
    assert clips.cut(given, SECONDS) == Rejection("a.wav", "NaN or Inf")


def test_a_file_that_ends_before_its_header_says_is_rejected(tmp_path):
    given = item(tmp_path / "a.wav", tone(2 * SECONDS))
    content = given.audio.read_bytes()
    given.audio.write_bytes(content[: len(content) // 2])
    assert clips.cut(given, SECONDS).reason == "truncated"


def test_a_recording_that_refuses_to_be_rendered_gives_a_rejection():
    def render():
        raise Refusal("The score has no notes.")

    given = Item("a.mid", render, lambda start, stop: About(("",), {}))
    expected = Rejection("a.mid", "cannot be rendered", "The score has no notes.")
    assert clips.cut(given, SECONDS) == expected


def test_a_full_disk_is_no_rejection(tmp_path, monkeypatch):
    class Full(SpooledTemporaryFile):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(clips, "SpooledTemporaryFile", Full)
    with pytest.raises(OSError, match="No space"):
        clips.cut(item(tmp_path / "a.wav", tone(SECONDS)), SECONDS)
