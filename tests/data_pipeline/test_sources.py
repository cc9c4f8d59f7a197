"""A bad file or line is one rejection with its reason; the others of its source are listed."""

import errno
import json
import os
import pickle
import signal
import tarfile
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import soundfile

from data_pipeline.clips import Recording, cut
from data_pipeline.prepare import prepare
from data_pipeline.sources import Entry, Item, Rejection, open_source
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import recordings, tone


@pytest.fixture(autouse=True)
def no_hang():
    """Ends a test that waits for a pipe."""

    def stop(*_):
        raise RuntimeError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path):
    """A folder with the recordings good.wav, whose caption is "good", and bad.wav."""
    (folder := tmp_path / "music").mkdir()
    for number, name in enumerate(("good", "bad")):
        soundfile.write(folder / f"{name}.wav", tone(0.6, frequency=300 + number), 48_000)
    (folder / "good.txt").write_text("good")
    return folder


def opened(source):
    return open_source(str(source), clips=1, seconds=1, seed=0)


def listed(source):
    """Of each recording the captions, or the reason why it is rejected."""
    return {
        entry.id: entry.about(0, 1).captions if isinstance(entry, Item) else entry.reason
        for entry in recordings(opened(source))
    }


SIDECARS = {
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "linked outside": lambda path: path.symlink_to(__file__),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "huge": lambda path: path.write_bytes(b" " * 300_000),
    "Latin-1": lambda path: path.write_bytes(b'{"caption": "caf\xe9"}'),
}
TEXTS = {
    "nested": "[" * 100_000,
    "nested within Python's limit": '{"a":' + "[" * 500 + "]" * 500 + "}",
    "no object": "[]",
    "half a surrogate pair": '{"caption": "\\ud800"}',
    "half a surrogate pair in the metadata": '{"mood": ["\\udfff"]}',
}


def test_a_folder_that_cannot_be_read_is_rejected_alone(folder, monkeypatch):
    scandir = os.scandir

    def deny(path):
        if path.name == "private":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", deny)
    for name in ("deep/private", "other"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.wav").touch()
    found = list(opened(folder).entries())
    assert [entry.id for entry in found] == ["bad.wav", "good.wav", "deep/private", "other/a.wav"]
    assert found[2] == Rejection("deep/private", "unreadable folder", "Permission denied")
    with pytest.raises(Refusal, match=r"Cannot read .*private: Permission denied"):
        list(opened(folder / "deep" / "private").entries())


@dataclass
class Listed:
    """A file or a folder as os.scandir lists it."""

    name: str

    def is_dir(self, follow_symlinks):
        return not self.name.endswith(".wav")

    def is_symlink(self):
        return False


def test_listing_holds_the_names_of_one_folder_in_memory(tmp_path, monkeypatch):
    @contextmanager
    def scandir(path):
        if path.name == "music":
            yield (Listed(f"album {number}") for number in range(50))
        else:
            yield (Listed(f"{number} track.wav") for number in range(1000))

    (tmp_path / "music").mkdir()
    monkeypatch.setattr("os.scandir", scandir)
    tracemalloc.start()
    count = sum(isinstance(entry, Entry) for entry in opened(tmp_path / "music").entries())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_000 and peak < 1_000_000


@pytest.mark.parametrize("suffix", [".txt", ".json"])
@pytest.mark.parametrize("kind", SIDECARS)
def test_a_bad_sidecar_rejects_its_recording_alone(folder, kind, suffix):
    SIDECARS[kind]((folder / "bad.wav").with_suffix(suffix))
    assert listed(folder) == {"good.wav": ("good",), "bad.wav": "unreadable caption"}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_bad_json_sidecar_rejects_its_recording_alone(folder, kind):
    (folder / "bad.json").write_text(TEXTS[kind])
    assert listed(folder) == {"good.wav": ("good",), "bad.wav": "unreadable caption"}


def test_a_byte_order_mark_is_no_part_of_a_sidecar(folder):
    (folder / "good.txt").write_bytes(b"\xef\xbb\xbfgood")
    (folder / "bad.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"caption": "fine"}).encode())
    assert listed(folder) == {"good.wav": ("good",), "bad.wav": ("fine",)}


def test_a_name_that_leaves_no_room_for_a_sidecar_s_suffix_is_taken(folder):
    name = "é" * 125 + "a.wav"  # 255 bytes; a name of 256 bytes cannot be asked for
    (folder / "bad.wav").rename(folder / name)
    assert listed(folder) == {"good.wav": ("good",), name: ("",)}


BAD_LINES = {
    "half a surrogate pair in the path": (b'{"path": "\\ud800.wav"}', "unreadable line"),
    "half a surrogate pair in the caption": (
        b'{"path": "bad.wav", "caption": "\\ud800"}',
        "unreadable line",
    ),
    "a long name": (b'{"path": "%s.wav"}' % (b"a" * 300), "missing"),
    "a zero": (b'{"path": "a\\u0000.wav"}', "unreadable name"),
    "Latin-1": (b'{"path": "bad.wav", "caption": "caf\xe9"}', "unreadable line"),
    "nested": (b"[" * 100_000, "unreadable line"),
    "nested within Python's limit": (b'{"path": ' + b"[" * 500 + b"]" * 501, "unreadable line"),
    "no object": (b'["bad.wav"]', "unreadable line"),
    "a long line": (b'{"path": "%s"}' % (b"a" * 3_000_000), "unreadable line"),
    "a pipe": (b'{"path": "pipe.wav"}', "no regular file"),
    "a format that is not decoded": (b'{"path": "a.m4a"}', "unsupported format"),
    "another folder": (b'{"path": "../music/bad.wav"}', "outside the manifest's folder"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_of_a_jsonl_manifest_is_rejected_alone(folder, kind):
    os.mkfifo(folder / "pipe.wav")
    (folder / "a.m4a").touch()
    line, reason = BAD_LINES[kind]
    good = [b'{"path": "good.wav", "caption": "%d"}' % number for number in (1, 3)]
    (folder / "list.jsonl").write_bytes(b"\n".join([good[0], line, good[1]]))
    found = recordings(opened(folder / "list.jsonl"))
    bad, good = sorted(found, key=lambda entry: entry.id == "good.wav")
    assert bad.reason == reason
    assert good.about(0, 1).captions == ("1", "3")
    if reason == "unreadable line":
        assert bad.id == "list.jsonl:2"


BAD_ROWS = {
    "Latin-1": b"caf\xe9",
    "a long cell": b"x" * 131_073,
    "a long line": b"x" * 3_000_000,
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_of_a_csv_manifest_is_rejected_alone(folder, kind):
    content = b"path,caption\r\ngood.wav,1\r\nbad.wav,%s\r\ngood.wav,3" % BAD_ROWS[kind]
    (folder / "list.csv").write_bytes(content)
    bad, good = recordings(opened(folder / "list.csv"))
    assert (bad.id, bad.reason) == ("list.csv:3", "unreadable line")
    assert good.about(0, 1).captions == ("1", "3")


def test_a_manifest_that_is_a_pipe_is_refused(folder):
    os.mkfifo(folder / "list.csv")
    with pytest.raises(Refusal, match="neither a folder nor"):
        opened(folder / "list.csv")


@pytest.mark.parametrize("source", ["", "list.csv", "list.jsonl", "*.tar", "synthetic"])
def test_other_processes_open_what_a_source_lists(folder, source):
    (folder / "list.csv").write_text("path\ngood.wav")
    (folder / "list.jsonl").write_text('{"path": "good.wav"}')
    with tarfile.open(folder / "a.tar", "w") as tar:
        tar.add(folder / "good.wav", "good.wav")
    here = opened(source if source == "synthetic" else folder / source)
    there = pickle.loads(pickle.dumps(here))
    listed = json.loads(json.dumps([vars(entry) for entry in here.entries()]))
    assert listed
    for fields in listed:
        entry = Entry(**fields)
        ours, theirs = here.item(entry.id, [entry]), there.item(entry.id, [entry])
        assert ours.id == theirs.id == entry.id and ours.about(0, 1) == theirs.about(0, 1)


@pytest.mark.parametrize("content", ['{"path": "good.wav"}', "path\ngood.wav"])
def test_a_byte_order_mark_is_no_part_of_a_manifest(folder, content):
    path = folder / ("list.jsonl" if "{" in content else "list.csv")
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert listed(path) == {"good.wav": ("",)}


def test_a_file_without_a_header_is_rejected_alone(folder, tmp_path):
    (folder / "headless.raw").write_bytes(bytes(48_000))
    (folder / "list.csv").write_text("path\ngood.wav\nheadless.raw\n")
    options = dict(seconds=0.25, test_fraction=0)
    report = prepare(str(folder / "list.csv"), str(tmp_path / "out"), **options)
    assert (report.accepted, report.rejected) == (1, {"undecodable": 1})


CAPTIONS = [
    ({"caption": ["one", "two"]}, ("one", "two")),
    ({"caption": ["one", "two"], "captions": ["two", "three"]}, ("one", "two", "three")),
    ({"caption": None, "captions": None, "title": "A"}, ("",)),
    ({"caption": "", "title": "A"}, ("",)),
    ({"title": "A", "genre": ["folk", "rock"], "artist": {"name": "B"}}, ("",)),
    ({"title": 1999}, ("",)),
    ({"caption": 3}, "unreadable caption"),
    ({"caption": False}, "unreadable caption"),
    ({"caption": {"text": "one"}}, "unreadable caption"),
    ({"caption": ["one", 2]}, "unreadable caption"),
    ({"captions": "one"}, "unreadable caption"),
    ({"captions": {}}, "unreadable caption"),
]


@pytest.mark.parametrize(("fields", "expected"), CAPTIONS, ids=str)
def test_a_caption_is_a_text_or_a_list_of_texts(folder, fields, expected):
    (folder / "bad.json").write_text(json.dumps(fields))
    assert listed(folder)["bad.wav"] == expected


def test_files_that_must_not_be_opened_are_rejected_alone(folder, tmp_path):
    (folder / "bad.wav").unlink()
    soundfile.write(tmp_path / "outside.wav", tone(0.6), 48_000)
    os.mkfifo(folder / "pipe.wav")
    (folder / "endless.wav").symlink_to("/dev/zero")
    (folder / "nothing.wav").symlink_to("nothing")
    (folder / "outside.wav").symlink_to("../outside.wav")
    (folder / "inside.wav").symlink_to("good.wav")
    (folder / "line\n.wav").touch()
    (folder / os.fsdecode(b"caf\xe9.wav")).touch()
    (folder / "夜　曲.wav").symlink_to("good.wav")  # a wide space, as in Japanese names
    assert listed(folder) == {
        "good.wav": ("good",),
        "pipe.wav": "no regular file",
        "endless.wav": "no regular file",
        "nothing.wav": "no regular file",
        "outside.wav": ("",),  # audio may lie elsewhere
        "inside.wav": ("",),
        "line\n.wav": "unreadable name",
        "caf\udce9.wav": "unreadable name",
        "夜　曲.wav": ("",),
    }


def test_every_audio_suffix_is_counted_and_what_is_not_decoded_says_how_to_convert_it(folder):
    formats = dict(wave="WAV", aifc="AIFF", oga="OGG", mp2="MP3", au="AU", snd="AU")
    formats |= dict(caf="CAF", w64="W64", rf64="RF64", WAV="WAV")
    for suffix, format in formats.items():
        soundfile.write(folder / f"a.{suffix}", tone(0.6), 48_000, format=format)
    for suffix in ("m4a", "m4b", "aac", "wma", "wv"):
        (folder / f"my song.{suffix}").write_bytes(b"not read")
    (folder / "cover.jpg").touch()
    found = {entry.id: entry for entry in recordings(opened(folder))}
    assert len(found) == 2 + len(formats) + 5
    for suffix in formats:
        assert isinstance(cut(found[f"a.{suffix}"], 0.25), Recording)
    for suffix in ("m4a", "m4b", "aac", "wma", "wv"):
        assert found[f"my song.{suffix}"] == Rejection(
            f"my song.{suffix}",
            "unsupported format",
            f"convert it: ffmpeg -i 'my song.{suffix}' 'my song.flac'",
        )


def test_a_rejected_name_that_is_no_text_is_listed(folder, tmp_path):
    (folder / (name := os.fsdecode(b"caf\xe9.wav"))).touch()
    report = prepare(str(folder), str(tmp_path / "out"), seconds=0.25, test_fraction=0)
    assert (report.files, report.accepted, report.rejected) == (3, 2, {"unreadable name": 1})
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == name
