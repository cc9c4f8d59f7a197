"""Public data sets in the layouts in which they are published, made small."""

import csv

import pytest
import soundfile

from data_pipeline.sources import Item, Rejection, open_source
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import recordings, tone


def found(source):
    opened = open_source(str(source), clips=1, seconds=1, seed=0)
    return {recording.id: recording for recording in recordings(opened)}


def write(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def audio(path, seconds=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, 16_000), 16_000)
    return path


MUSICCAPS = [
    "ytid",
    "start_s",
    "end_s",
    "audioset_positive_labels",
    "aspect_list",
    "caption",
    "author_id",
    "is_balanced_subset",
    "is_audioset_eval",
]


def test_musiccaps_takes_the_stretch_of_a_video_and_the_whole_of_a_file_that_is_cut(tmp_path):
    aspects = """['low quality', "a singer's voice", 'it\\'s soft']"""
    more = [aspects, "A slow song.", "4", "False", "True"]
    rows = [MUSICCAPS]
    for name in ("-0Gj8-vB1q4", "video______", "absent_____", "aac________"):
        rows.append([name, "3", "5", "/m/0140xf,/m/02cjck", *more])
    write(tmp_path / "musiccaps-public.csv", [*rows, ["../etc/x", "0", "1", "", *more]])
    cut = audio(tmp_path / "-0Gj8-vB1q4.wav", 2)
    video = audio(tmp_path / "audio" / "video______.flac", 6)
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "aac________.m4a").touch()
    got = found(tmp_path / "musiccaps-public.csv")
    assert (got["-0Gj8-vB1q4"].audio, got["-0Gj8-vB1q4"].stretches) == (cut, None)
    assert (got["video______"].audio, got["video______"].stretches) == (video, ((3, 5),))
    about = got["video______"].about(3, 4)
    assert about.captions == ("A slow song.",) == got["-0Gj8-vB1q4"].about(0, 1).captions
    assert about.meta["aspect_list"] == ["low quality", "a singer's voice", "it's soft"]
    assert got["absent_____"].reason == "missing"
    assert got["aac________"].reason == "unsupported format"
    assert got["musiccaps-public.csv:6"].reason == "unreadable line"


JAMENDO = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")


def test_mtg_jamendo_has_tags_in_further_cells_and_artists_as_groups(tmp_path):
    tags = ("genre---punkrock", "genre---rock", "mood/theme---calm", "instrument---bass")
    tags += ("group---x",)  # no kind of tag that there is
    album = ("artist_000014", "album_000031")
    rows = [JAMENDO, ("track_0000214", *album, "14/214.mp3", "124.6", *tags)]
    for number, path in enumerate(("15/215.mp3", "16/216.mp3", "/x", "../x"), 215):
        rows.append((f"track_{number:07d}", *album, path, "151.4", tags[0]))
    write(tmp_path / "raw_30s.tsv", rows, "\t")
    first = audio(tmp_path / "14" / "214.mp3")
    second = audio(tmp_path / "audio" / "15" / "215.low.mp3")
    got = found(tmp_path / "raw_30s.tsv")
    assert [got["14/214.mp3"].audio, got["15/215.mp3"].audio] == [first, second]
    assert got["14/214.mp3"].group == got["15/215.mp3"].group == "artist_000014"
    assert got["14/214.mp3"].about(0, 1).meta == dict(
        track_id="track_0000214",
        artist_id="artist_000014",
        album_id="album_000031",
        genre=["punkrock", "rock"],
        mood=["calm"],
        instruments=["bass"],
        tags=["group---x"],
    )
    assert got["14/214.mp3"].about(0, 1).captions == ("",)
    assert got["16/216.mp3"] == Rejection("16/216.mp3", "missing")
    assert {got[path].reason for path in ("/x", "../x")} == {"outside the manifest's folder"}


@pytest.fixture
def fma(tmp_path):
    """FMA with four tracks, of which the subset small has three, and its files two."""
    columns = {
        "": ["track_id", 2, 3, 5, 1000, "x"],
        "album/information": ["", "<p>Several\nlines</p>", "", "", "", ""],
        "album/title": ["", "AWOL", "AWOL", "", "Other", ""],
        "artist/name": ["", "AWOL", "AWOL", "Kurt", "Other", ""],
        "set/split": ["", "training", "test", "validation", "training", "training"],
        "set/subset": ["", "small", "small", "small", "large", "small"],
        "track/genre_top": ["", "Hip-Hop", "", "", "Rock", ""],
        "track/genres": ["", "[21]", "[21, 5]", "[]", "[12]", "[]"],
        "track/license": ["", "CC BY", "CC BY", "CC BY-NC", "CC0", ""],
        "track/title": ["", "Food", "Électric", "This World", "Far", ""],
    }
    names = [(name or "/").split("/") for name in columns]
    rows = [*zip(*names, strict=True), *zip(*columns.values(), strict=True)]
    write(tmp_path / "fma_metadata" / "tracks.csv", rows)
    genres = [("genre_id", "#tracks", "parent", "title", "top_level"), (21, 1, 0, "Hip-Hop", 21)]
    write(tmp_path / "fma_metadata" / "genres.csv", [*genres, (5, 1, 0, "Classical", 5)])
    for number in (2, 3):
        audio(tmp_path / "fma_small" / "000" / f"{number:06d}.mp3")
    return tmp_path


def test_fma_has_the_tracks_of_the_subset_with_its_splits(fma):
    got = found(fma)
    first, second = got["fma_small/000/000002.mp3"], got["fma_small/000/000003.mp3"]
    assert isinstance(first, Item) and first.audio == fma / "fma_small" / "000" / "000002.mp3"
    assert (first.split, second.split, first.group) == ("train", "test", "AWOL: AWOL")
    assert first.about(0, 1).captions == ("",)
    assert second.about(0, 1).meta == dict(
        title="Électric",
        artist="AWOL",
        album="AWOL",
        licence="CC BY",
        genre=["Hip-Hop", "Classical"],
    )
    third, bad = got["fma_small/000/000005.mp3"], got["tracks.csv:9"]
    assert (third.reason, bad.reason, len(got)) == ("missing", "unreadable line", 4)


def test_of_several_subsets_of_fma_the_largest_is_taken(fma):
    (fma / "fma_large").mkdir()
    assert sorted(found(fma)) == [
        *(f"fma_large/{n // 1000:03d}/{n:06d}.mp3" for n in (2, 3, 5, 1000)),
        "tracks.csv:9",
    ]
    for subset in ("small", "large"):
        (fma / f"fma_{subset}").rename(fma / subset)
    with pytest.raises(Refusal, match="no folder fma_small"):
        found(fma)


def test_a_damaged_row_of_fma_leaves_the_others(fma):
    with open(fma / "fma_metadata" / "tracks.csv", "ab") as file:
        file.write(b"\xe9,,,,training,small,,,,\n7,,,,training,small,,,,\n8,,\n")
    got = found(fma)
    assert got["tracks.csv:10"].reason == "unreadable line"
    for number in (7, 8):  # the last row ends early
        assert got[f"fma_small/000/00000{number}.mp3"].reason == "missing"


def test_a_tsv_manifest_is_read_like_a_csv(tmp_path):
    audio(tmp_path / "a.wav")
    write(tmp_path / "list.TSV", [("path", "caption"), ("a.wav", "one, two")], "\t")
    assert found(tmp_path / "list.TSV")["a.wav"].about(0, 1).captions == ("one, two",)
