"""What several lines, or a sidecar, say about one recording."""

import csv
import json
from pathlib import Path

import pytest

from data_pipeline.sources import Item, Rejection, midi, open_source
from data_pipeline.sources.fields import described
from tests.data_pipeline.conftest import recordings
from tests.data_pipeline.test_midi import Silence


def item(*listed):
    found = described("a.wav", Path("absent.wav"), listed)
    assert isinstance(found, Item), found
    return found


def reason(*listed):
    found = described("a.wav", Path("absent.wav"), listed)
    assert isinstance(found, Rejection), found
    return found.reason


def test_lines_with_one_path_are_one_recording_with_all_their_captions(tmp_path):
    (tmp_path / "a.wav").touch()
    rows = [("path", "caption", "mood"), ("a.wav", "one", ""), ("b.wav", "other", "")]
    rows += [("a.wav", "two", "calm"), ("a.wav", "one", "wild")]
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    found, missing = recordings(open_source(str(tmp_path / "list.csv"), clips=1, seconds=1, seed=0))
    assert found.about(0, 1).captions == ("one", "two")
    assert found.about(0, 1).meta == {"mood": "calm"} and found.stretches is None
    assert missing == Rejection("b.wav", "missing")


@pytest.mark.parametrize("names", [("start", "end"), ("start_s", "end_s")])
def test_each_stretch_has_its_own_captions_and_metadata_and_those_of_the_whole(names):
    def line(start, stop, **fields):
        return dict(zip(names, (start, stop), strict=True)) | fields

    found = item(
        line("10", "20.5", caption="second", mood="wild"),
        {"caption": "whole", "mood": "calm", "title": "A"},
        line(0, 10, caption="first"),
        line(10.0, 20.5, captions=["another"]),
    )
    assert found.stretches == ((0, 10), (10, 20.5))
    assert found.about(9, 10).captions == ("first", "whole")
    assert found.about(9, 10).meta == {"mood": "calm", "title": "A"}
    assert found.about(10, 11).captions == ("second", "another", "whole")
    assert found.about(19, 20.5).meta == {"mood": "wild", "title": "A"}


@pytest.mark.parametrize(
    "stretch", [(5, 5), (-1, 5), (6, 5), (1, None), (None, 5), ("a", 5), (0, "nan"), (0, 10**400)]
)
def test_what_is_no_stretch_is_rejected(stretch):
    fields = dict(zip(("start", "end"), stretch, strict=True))
    fields = {name: value for name, value in fields.items() if value is not None}
    assert reason(fields) == "unreadable stretch"


def test_stretches_that_overlap_are_rejected():
    first, second = dict(start=0, end=10), dict(start=9.5, end=20)
    assert reason(second, first) == "overlapping stretches"


@pytest.mark.parametrize("field", ["split", "group"])
def test_lines_that_contradict_each_other_are_rejected(field):
    first, second = {field: "train"}, {field: "test"}
    assert reason(first, {}, second) == "contradiction"
    assert getattr(item(second, {}, second), field) == "test"


GROUPS = [
    ({"group": "g", "artist": "a", "album": "b"}, "g"),
    ({"group": 7}, "7"),
    ({"artist": "a", "album": "b"}, "a: b"),
    ({"artist": ["a", "c"]}, "a, c"),
    ({"album": "b"}, None),
    ({"artist": {}}, None),
]


@pytest.mark.parametrize(("fields", "group"), GROUPS, ids=str)
def test_a_group_is_stated_or_the_album_or_the_artist(fields, group):
    assert item(fields).group == group
    assert "group" not in item(fields).about(0, 1).meta


def test_rights_have_one_form():
    given = dict(rightsholder="R", license="CC0", territory="US, CA", expires="2030-01-02T03:04")
    normal = dict(rightsholder="R", licence="CC0", territory=["US", "CA"], expires="2030-01-02")
    assert item(given).about(0, 1).meta == normal == item(normal).about(0, 1).meta
    assert item(dict(licence="A", license="B")).about(0, 1).meta == dict(licence="A", license="B")


@pytest.mark.parametrize("fields", [{"expires": "soon"}, {"expires": 2030}, {"territory": 1}])
def test_rights_that_cannot_be_read_reject_the_recording(fields):
    assert reason(fields) == "unreadable rights"


def test_a_bad_group_is_rejected():
    assert reason({"group": {}}) == reason({"group": ""}) == "unreadable group"


def test_a_score_has_a_group_too(tmp_path, monkeypatch):
    monkeypatch.setattr(midi, "Renderer", Silence)
    for name in ("a", "b"):
        (tmp_path / f"{name}.mid").touch()
    (tmp_path / "a.json").write_text(json.dumps({"group": "g"}))
    (tmp_path / "b.json").write_text(json.dumps({"expires": "soon"}))
    a, b = recordings(open_source(str(tmp_path), clips=1, seconds=1, seed=0))
    assert (a.group, b.reason) == ("g", "unreadable rights")
