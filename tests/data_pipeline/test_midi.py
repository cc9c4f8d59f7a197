import json
import logging
import os

import numpy as np
import pytest
import soundfile

from data_pipeline.captioning import captions
from data_pipeline.prepare import prepare
from data_pipeline.scores.reading import read
from data_pipeline.scores.rendering import ROOM
from data_pipeline.scores.truth import truth
from data_pipeline.sources import Rejection, midi, open_source
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import recordings, tone
from tests.data_pipeline.scores import pieces
from tests.data_pipeline.scores.pieces import C_MAJOR, part, write
from tests.data_pipeline.test_prepare import rejected, source


class Silence:
    """A renderer that starts no process."""

    def __init__(self, soundfonts):
        self.soundfonts = soundfonts

    def render(self, score, id, soundfont):
        return np.zeros((48_000, 2), np.float32)


@pytest.fixture
def listed(tmp_path, monkeypatch):
    monkeypatch.setattr(midi, "Renderer", Silence)

    def entries(*soundfonts):
        found = open_source(str(tmp_path), clips=1, seconds=1, seed=0, soundfonts=soundfonts)
        return {entry.id: entry for entry in recordings(found)}

    return entries


def test_a_folder_of_scores_and_recordings_becomes_one_data_set(tmp_path):
    folder, out = tmp_path / "music", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "recorded.wav", tone(1.0), 48_000)
    score = write(
        folder / "deep" / "tune.mid",
        part(73, C_MAJOR),
        part(0, [36, 38], each=2.0, is_drum=True),
        tempo=100,
        style="bossa nova",
        licence="CC0",
        melody="Flute",
        sections=[[0, "verse"], [2, "chorus"]],
    )
    (folder / "broken.mid").write_bytes(b"MThd")
    (folder / "empty.MIDI").write_bytes(pieces.midi(pieces.END))
    report = prepare(str(folder), str(out), seconds=1.0, test_fraction=0.0)
    assert report.accepted == 2
    reasons = {"broken.mid": "cannot be rendered", "empty.MIDI": "cannot be rendered"}
    assert rejected(out) == reasons
    clips = {example["id"].decode(): example for example in source(out)}
    assert "recorded.wav@0.000" in clips
    for start in (0.0, 3.0):
        clip = clips[f"deep/tune.mid@{start:.3f}"]
        known = truth(read(score, "deep/tune.mid"), start, start + 1)
        made = {"source": "midi", "soundfont": "TimGM6mb.sf2", "room": ROOM}
        meta = json.loads(clip["meta"])
        assert meta == known | made | {"licence": "CC0", "style": "bossa nova"}
        assert meta["section"] == ("verse" if start == 0 else "chorus")
        written = captions(known, f"deep/tune.mid@{start:.3f}")
        assert tuple(text.decode() for text in clip["captions"]) == written
        assert np.abs(clip["audio"]).max() > 3000


def test_a_caption_of_ones_own_wins(tmp_path, listed):
    write(tmp_path / "text.mid", part(0, C_MAJOR), caption="from json")
    (tmp_path / "text.txt").write_text(" from text \n")
    write(tmp_path / "json.mid", part(1, C_MAJOR), caption="from json", captions=["more"])
    write(tmp_path / "list.mid", part(2, C_MAJOR), caption=["one", "two"])
    found = listed()
    assert found["list.mid"].about(0, 1).captions == ("one", "two")
    assert found["text.mid"].about(0, 1).captions == ("from text",)
    assert found["json.mid"].about(0, 1).captions == ("from json", "more")
    assert "caption" not in found["json.mid"].about(0, 1).meta


def test_the_sidecar_names_the_soundfont_or_the_name_of_the_score_chooses_it(tmp_path, listed):
    for i in range(20):
        write(tmp_path / f"{i}.mid", part(i, C_MAJOR))
    write(tmp_path / "named.mid", part(0, C_MAJOR), soundfont="b.sf2")
    write(tmp_path / "other.mid", part(1, C_MAJOR), soundfont="c.sf2")
    found = listed("fonts/a.sf2", "fonts/b.sf2")
    assert found["other.mid"] == Rejection(
        "other.mid", "soundfont not given", "it names c.sf2; given are a.sf2, b.sf2"
    )
    chosen = {id: e.about(0, 1).meta["soundfont"] for id, e in found.items() if id != "other.mid"}
    assert chosen["named.mid"] == "b.sf2"
    assert {chosen[f"{i}.mid"] for i in range(20)} == {"a.sf2", "b.sf2"}
    again = listed("elsewhere/b.sf2", "elsewhere/a.sf2")
    assert all(again[id].about(0, 1).meta["soundfont"] == chosen[id] for id in chosen)


def test_unusable_files_are_listed_with_their_reason(tmp_path, listed):
    write(tmp_path / "good.mid", part(0, C_MAJOR), split="test")
    (tmp_path / "copy.mid").write_bytes((tmp_path / "good.mid").read_bytes())
    (tmp_path / "copy.json").write_bytes((tmp_path / "good.json").read_bytes())
    write(tmp_path / "wrong.mid", part(1, C_MAJOR), room=2)
    write(tmp_path / "latin.mid", part(2, C_MAJOR))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "line\n.mid").write_bytes(b"")
    write(tmp_path / "pipe.mid", part(3, C_MAJOR))
    os.mkfifo(tmp_path / "pipe.txt")
    write(tmp_path / (long := "é" * 125 + "b.mid"), part(4, C_MAJOR))  # 255 bytes
    found = listed()
    good, copy = found.pop("good.mid"), found.pop("copy.mid")
    assert good.digest == copy.digest  # so that one of them is rejected
    assert found.pop(long).digest != good.digest
    assert {id: entry.reason for id, entry in found.items()} == {
        "wrong.mid": "unreadable sidecar",
        "latin.mid": "unreadable caption",
        "pipe.mid": "unreadable caption",
        "line\n.mid": "unreadable name",
    }


def test_a_score_chooses_its_split(tmp_path, listed):
    write(tmp_path / "a.mid", part(0, C_MAJOR), split="test")
    write(tmp_path / "b.mid", part(1, C_MAJOR))
    assert [listed()[id].split for id in ("a.mid", "b.mid")] == ["test", None]


def test_the_default_soundfont_is_named(tmp_path, listed, caplog):
    write(tmp_path / "a.mid", part(0, C_MAJOR))
    with caplog.at_level(logging.WARNING):
        listed()
    assert "TimGM6mb.sf2" in caplog.text


def test_soundfonts_are_refused_where_nothing_needs_them(tmp_path, listed):
    soundfile.write(tmp_path / "a.wav", tone(1.0), 48_000)
    with pytest.raises(Refusal, match="no MIDI files"):
        listed("a.sf2")
    for other in ("synthetic", "list.csv"):
        with pytest.raises(Refusal, match=f"{other} is no folder"):
            open_source(other, clips=1, seconds=1, seed=0, soundfonts=["a.sf2"])
    write(tmp_path / "a.mid", part(0, C_MAJOR))
    with pytest.raises(Refusal, match="same file name"):
        listed("a/a.sf2", "b/a.sf2")


def test_a_bad_soundfont_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "music").mkdir()
    write(tmp_path / "music" / "a.mid", part(0, C_MAJOR))
    (tmp_path / "bad.sf2").write_bytes(b"no soundfont")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Refusal, match=r"bad\.sf2 is no soundfont"):
        prepare(
            str(tmp_path / "music"),
            str(tmp_path / "out"),
            soundfonts=[str(tmp_path / "bad.sf2")],
        )
    assert sorted(tmp_path.rglob("*")) == before
