import json
import random
import time

import numpy as np
import pretty_midi
import pytest

from data_pipeline.scores import reading
from data_pipeline.scores.reading import read
from jen1_numpy.errors import Refusal
from tests.data_pipeline.scores.pieces import C_MAJOR, END, NOTE, midi, part, write


def score(folder, content):
    path = folder / "a.mid"
    path.write_bytes(content)
    return read(path, "a.mid")


def test_notes_are_those_that_were_written(tmp_path):
    drums = part(0, [36, 38], is_drum=True)
    found = read(write(tmp_path / "a.mid", part(73, C_MAJOR), drums), "a.mid")
    flute, hits = (found.notes[found.notes["program"] == program] for program in (73, 0))
    np.testing.assert_array_equal(flute["pitch"], C_MAJOR)
    np.testing.assert_allclose(flute["start"], 0.5 * np.arange(8), atol=1e-3)
    np.testing.assert_allclose(flute["stop"] - flute["start"], 0.5, atol=2e-3)
    assert set(hits["channel"]) == {reading.DRUMS} and set(flute["velocity"]) == {90}
    assert found.seconds == pytest.approx(4.0, abs=2e-3)


def test_a_change_of_tempo_in_any_track_moves_the_later_notes(tmp_path):
    slower = b"\x00\xff\x51\x03\x07\xa1\x20" + b"\x60\xff\x51\x03\x0f\x42\x40" + END
    found = score(tmp_path, midi(2 * NOTE + END, slower))
    np.testing.assert_allclose(found.notes["start"], [0, 0.5])
    np.testing.assert_allclose(found.notes["stop"], [0.5, 1.5])
    assert found.tempos == [(0.0, 120.0), (0.5, 60.0)]


def test_the_pedal_holds_notes_until_it_is_released_or_the_key_is_struck_again(tmp_path):
    track = b"\x00\xb0\x40\x7f" + NOTE + b"\x60\xb0\x40\x00" + NOTE + END
    np.testing.assert_allclose(score(tmp_path, midi(track)).notes["stop"], [1.0, 1.5])
    track = b"\x00\xb0\x40\x7f" + 2 * NOTE + b"\x60\xb0\x40\x00" + END
    np.testing.assert_allclose(score(tmp_path, midi(track)).notes["stop"], [0.5, 1.5])


def test_notes_that_are_never_released_end_with_the_file_or_at_all_notes_off(tmp_path):
    press = b"\x00\x90\x3c\x40"
    assert score(tmp_path, midi(press + b"\x60\xff\x2f\x00")).seconds == 0.5
    assert score(tmp_path, midi(press + b"\x60\xb0\x7b\x00" + b"\x60\xff\x2f\x00")).seconds == 0.5


def test_notes_of_a_silenced_channel_are_left_out(tmp_path):
    found = score(tmp_path, midi(b"\x00\xb0\x07\x00" + NOTE + b"\x00\xb0\x07\x40" + NOTE + END))
    np.testing.assert_allclose(found.notes["start"], [0.5])


BIG = b"\xff" * 900_000
REFUSED = {
    "empty": b"",
    "no MIDI": b"RIFF" + bytes(100),
    "no notes": midi(END),
    "no tracks": midi(),
    "cut off": midi(100 * NOTE + END)[:300],
    "65535 tracks": midi(NOTE + END, count=65535),
    "SMPTE": midi(NOTE + END, division=0xE728),
    "division 0": midi(NOTE + END, division=0),
    "format 2": midi(NOTE + END, format=2),
    "tempo 0": midi(b"\x00\xff\x51\x03\x00\x00\x00" + NOTE + END),
    "absurd tempo": midi(b"\x00\xff\x51\x03\x00\x00\x01" + NOTE + END),
    "running status without a status": midi(b"\x00\x3c\x40" + END),
    "a number without an end": midi(BIG + NOTE + END),
    "days": midi(b"\x00\x90\x3c\x40" + b"\xff\xff\xff\x7f\x80\x3c\x00" + END),
    "an endless note": midi(b"\x00\x90\x3c\x40" + b"\xff\xff\xff\x7f\xff\x2f\x00"),
    "a number of 1000 bytes": midi(b"\xff" * 1000 + b"\x7f\x90\x3c\x40" + END),
    "a huge text": midi(b"\x00\xff\x01\xff\xff\xff\x7f" + NOTE + END),
    "a huge file": midi(NOTE + END) + bytes(reading.MAX_BYTES),
    "a data byte above 127": midi(b"\x00\x90\x3c\xff" + END),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_score_is_refused_at_once(tmp_path, kind):
    began = time.process_time()
    with pytest.raises(Refusal, match=r"^It.*\.$"):
        score(tmp_path, REFUSED[kind])
    assert time.process_time() - began < 2


def test_too_many_notes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_NOTES", 99)
    assert len(score(tmp_path, midi(99 * NOTE + END)).notes) == 99
    with pytest.raises(Refusal, match="more than 99 notes"):
        score(tmp_path, midi(100 * NOTE + END))


def test_damaged_files_are_read_or_refused_in_bounded_time(tmp_path):
    piece = write(tmp_path / "whole.mid", part(0, C_MAJOR), part(33, [40, 45]))
    whole, draw = piece.read_bytes(), random.Random(0)
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 8))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        if draw.random() < 0.1:
            del content[draw.randrange(len(content)) :]
        began = time.process_time()
        try:
            found = score(tmp_path, bytes(content))
            assert 0 <= found.seconds <= reading.MAX_SECONDS
            assert (found.notes["stop"] >= found.notes["start"]).all()
            read_it = True
        except Refusal:
            read_it = False
        outcomes[read_it] += 1
        assert time.process_time() - began < 1
    assert min(outcomes.values()) > 50


GOOD = dict(
    title="One",
    style="bossa nova",
    licence="CC0",
    groove="BossaNova",
    soundfont="a.sf2",
    split="test",
    key="F#",
    mode="minor",
    meter="3/4",
    chords=[[0, "Am7"], [1.5, "D7"]],
    sections=[[0, "verse"]],
    melody="Flute",
    room=0.5,
    held_out=["groove"],
)


def test_the_sidecar_is_kept(tmp_path):
    found = read(write(tmp_path / "a.mid", part(0, C_MAJOR), **GOOD, mood="calm"), "a.mid")
    assert found.sidecar == GOOD | {"mood": "calm"}


@pytest.mark.parametrize(
    "wrong",
    [
        dict(title=3),
        dict(title="a\nb"),
        dict(style="x" * 1000),
        dict(soundfont="../a.sf2"),
        dict(split="validation"),
        dict(key="H"),
        dict(meter="0/4"),
        dict(chords={"0": "Am"}),
        dict(chords=[[1, "Am"], [0, "F"]]),
        dict(chords=[["0", "Am"]]),
        dict(sections=[[0]]),
        dict(melody="Kazoo"),
        dict(room=1.5),
        dict(room=True),
        dict(room=float("nan")),
        dict(room=10**400),
        dict(held_out="groove"),
    ],
)
def test_a_sidecar_with_a_wrong_field_is_refused_by_its_name(tmp_path, wrong):
    path = write(tmp_path / "a.mid", part(0, C_MAJOR), **wrong)
    with pytest.raises(Refusal, match=f'In a.json, "{next(iter(wrong))}" must be'):
        read(path, "a.mid")


@pytest.mark.parametrize(
    "text", ["[1]", "{", "[" * 100_000, '"\\ud800', json.dumps(["x" * 300_000]), "9" * 5000]
)
def test_a_sidecar_that_is_no_object_is_refused(tmp_path, text):
    path = write(tmp_path / "a.mid", part(0, C_MAJOR))
    path.with_suffix(".json").write_text(text)
    with pytest.raises(Refusal, match=r"a\.json"):
        read(path, "a.mid")


def test_the_signatures_are_kept(tmp_path):
    piece = pretty_midi.PrettyMIDI()
    piece.instruments.append(part(0, C_MAJOR))
    piece.time_signature_changes.append(pretty_midi.TimeSignature(3, 4, 0))
    piece.key_signature_changes.append(pretty_midi.KeySignature(21, 0))  # A minor
    piece.write(str(tmp_path / "a.mid"))
    found = read(tmp_path / "a.mid", "a.mid")
    assert (found.meters, found.keys) == ([(0.0, "3/4")], [(0.0, "Am")])
