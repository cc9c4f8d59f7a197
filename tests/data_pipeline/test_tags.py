"""The tags inside a file are metadata below all that is listed, and never do harm."""

import os
import random
import struct
from pathlib import Path

import pytest
import soundfile

from data_pipeline.sources import Section, open_source
from data_pipeline.sources import tags as module
from data_pipeline.sources.sections import opened
from data_pipeline.sources.tags import MAX_TEXT, tags
from tests.data_pipeline.conftest import recordings, tone


def tagged(path, **given):
    with soundfile.SoundFile(path, "w", 48_000, 2) as file:
        for name, value in given.items():
            setattr(file, name, value)
        file.write(tone(0.5))
    return path


def id3(**frames: bytes) -> bytes:
    """An ID3v2.3 tag; texts are Latin-1."""
    body = b""
    for name, content in frames.items():
        body += name.encode() + struct.pack(">IH", len(content) + 1, 0) + b"\0" + content
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + body


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff"])
def test_tags_become_metadata_below_the_sidecar_s(tmp_path, suffix):
    given = dict(title="Song", artist="Band", comment="live") if suffix != "aiff" else {}
    tagged(tmp_path / f"a.{suffix}", **given)
    (tmp_path / "a.json").write_text('{"title": "Known", "mood": "calm"}')
    (found,) = recordings(open_source(str(tmp_path), clips=1, seconds=1, seed=0))
    expected = given | {"title": "Known", "mood": "calm"}
    assert found.about(0, 1).meta == expected
    assert found.about(0, 1).captions == ("",)
    assert found.group == ("Band" if given else None)


def test_id3_has_tempo_and_key_and_its_pictures_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    path = tagged(tmp_path / "a.mp3")
    text = dict(TIT2=b"S\xf6ng", TALB=b"Album", TBPM=b"128", TKEY=b"Am", TCON=b"(17)", TYER=b"1999")
    picture = b"image/png\0\x03\0" + b"x" * 1_000_000
    audio = path.read_bytes()
    path.write_bytes(id3(APIC=picture, **text) + audio)
    expected = dict(title="Söng", album="Album", bpm="128", key="Am", genre="Rock", year="1999")
    assert tags(path) == expected
    (tmp_path / "tar").write_bytes(b"before" + path.read_bytes() + b"after")
    assert tags(Section(tmp_path / "tar", 6, path.stat().st_size)) == expected
    path.write_bytes(id3(**text | {"TIT2": b"x" * 20_000}) + audio)
    assert tags(path) == {}


def test_a_long_tag_is_cut_and_control_characters_are_spaces(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_bytes(id3(TIT2=b"x" * 9_000, TPE1=b"a\x01b\x85") + bytes(100))
    assert tags(path) == dict(title="x" * MAX_TEXT, artist="a b")


def test_damaged_tags_reject_nothing(tmp_path):
    frames = dict(TIT2=b"Song", TBPM=b"128", COMM=b"eng\0comment", TXXX=b"a\0b")
    (mp3 := tmp_path / "a.mp3").write_bytes(id3(**frames) + bytes(500))
    kept = 0
    for path in (mp3, tagged(tmp_path / "a.flac", title="Song"), tagged(tmp_path / "a.ogg")):
        whole, draw = path.read_bytes()[:2000], random.Random(0)
        for _ in range(100):
            damaged = bytearray(whole)
            for _ in range(draw.randrange(1, 5)):
                damaged[draw.randrange(200)] = draw.randrange(256)
            path.write_bytes(damaged[: draw.randrange(len(whole))])
            found = tags(path)
            kept += bool(found)
            assert all(isinstance(text, str) and len(text) <= MAX_TEXT for text in found.values())
    assert kept


def test_no_file_is_no_tags(tmp_path):
    assert tags(tmp_path / "absent.mp3") == tags(tmp_path) == {}


def test_a_section_reads_as_a_file_of_its_own(tmp_path):
    content = random.Random(0).randbytes(1000)
    (tmp_path / "tar").write_bytes(content)
    with opened(Section(Path(tmp_path, "tar"), 100, 200)) as file:
        assert file.read() == content[100:300]
        assert file.seek(-10, os.SEEK_END) == 190 and file.read(50) == content[290:300]
        assert file.seek(500) == 500 and file.read() == b""
        with pytest.raises(OSError):
            file.seek(-1)
