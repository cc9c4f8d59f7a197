"""Listing, units and the commit: what is in which split, and what the files of a data set say."""

import hashlib
import io
import json
from datetime import date, timedelta

import numpy as np
import pytest
import soundfile

from data_pipeline.layout import info, waveform_features
from data_pipeline.listing import read_lines, write_listing
from data_pipeline.prepare import prepare
from data_pipeline.reading import examples
from data_pipeline.sources import Entry, Rejection
from data_pipeline.writing import serialise
from jen1_numpy.errors import Refusal


def music(seed, seconds=5.0):
    """Notes of random pitches, float [samples, 2]."""
    rng, time = np.random.default_rng(seed), np.arange(9600) / 48_000
    pitches = rng.uniform(150, 2500, (round(seconds * 5), 3, 1))
    notes = np.sin(2 * np.pi * pitches * time).sum(1).ravel() / 8
    return np.stack([notes, 0.5 * notes], -1)


class Many:
    """1,000 entries: two of every id, in any order, and ten rejections."""

    def entries(self):
        for number in np.random.default_rng(0).permutation(1000):
            yield Entry(f"recording {number // 2}", int(number), {"caption": "é \ud800"})
            if number % 100 == 0:
                yield Rejection(f"line {number}", "missing")


def test_units_hold_each_line_once_and_all_entries_of_a_recording(tmp_path):
    with open(tmp_path / "entries", "wb") as file:
        listing = write_listing(Many(), 3, file)
    assert listing.files == 510 and listing.units == 32  # of 16 recordings
    read = [
        list(read_lines(tmp_path / "entries", listing.lines(unit))) for unit in range(listing.units)
    ]
    found = [each for unit in read for each in unit]
    assert len({id for id, *_ in found}) == len(found) == 510
    assert sum(len(rejected) for *_, rejected in found) == 10
    for _, entries, rejected in found:
        places = [entry.place for entry in entries]
        assert sorted(places) == [min(places), min(places) + 1] if places else rejected
    assert write_listing(Many(), 3, io.BytesIO()).digest == listing.digest
    other = write_listing(Many(), 4, io.BytesIO())
    assert other.lines(0) != listing.lines(0) and other.digest == listing.digest


def test_tfds_reads_what_is_serialised():
    audio = np.random.default_rng(0).integers(-9, 9, (48_000, 2), np.int16)
    given = dict(audio=audio, valid_samples=30_000, start=1.25, total=np.float32(9.5), block=0)
    given |= dict(captions=["é", ""], id="夜.wav@1.250", meta="{}")
    features = waveform_features(48_000)
    found, right = serialise(given), features.serialize_example(given)
    assert len(found) == len(right)
    for name, value in features.deserialize_example_np(found).items():
        np.testing.assert_array_equal(value, features.deserialize_example_np(right)[name])


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Six recordings; three of them again as FLAC, at half gain and in another rate. Prepared."""
    folder = tmp_path_factory.mktemp("copies")
    (folder / "music").mkdir()
    for number in range(6):
        soundfile.write(folder / "music" / f"{number}.wav", music(number), 48_000)
    soundfile.write(folder / "music" / "a.flac", music(0), 48_000)
    soundfile.write(folder / "music" / "b.wav", 0.5 * music(1), 48_000)
    soundfile.write(folder / "music" / "c.ogg", music(2), 48_000)
    out = folder / "out"
    report = prepare(str(folder / "music"), str(out), seconds=2.0, test_fraction=0.5)
    return out, report


def test_a_recording_is_in_the_data_set_once_whatever_its_format_and_gain(copies):
    out, report = copies
    assert (report.files, report.accepted, report.rejected) == (9, 6, {"duplicate": 3})
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").open()]
    pairs = [{each["id"], each["detail"].split()[-1]} for each in rejected]
    assert all(pair in pairs for pair in ({"0.wav", "a.flac"}, {"1.wav", "b.wav"}))
    kept = {c["id"].split("@")[0] for s in ("train", "test") for c in examples(str(out), s)}
    assert len(kept) == 6 and all(len(pair & kept) == 1 for pair in pairs)


def test_the_files_beside_the_shards_say_what_is_in_them(copies):
    out, report = copies
    checksums = json.loads((out / "checksums.json").read_text())
    shards = {path.name: path for path in out.glob("jen1-*")}
    assert checksums == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shards.items()
    }
    rows = [json.loads(line) for path in (out / "pieces").iterdir() for line in path.open()]
    found = {split: list(examples(str(out), split)) for split in ("train", "test")}
    assert {split: len(clips) for split, clips in found.items()} == report.clips
    assert info(str(out)).blocks == 2
    for row in rows:
        clips = found[row["split"]][row["first"] : row["first"] + row["clips"]]
        assert [clip["id"] for clip in clips] == [
            f"{row['id']}@{clip['start']:.3f}" for clip in clips
        ]
        assert row["seconds"] == pytest.approx(5) and row["loudness"] < 0 and row["sha256"]
    assert sum(row["clips"] for row in rows) == sum(report.clips.values())
    assert report.dropped_seconds["tail"] == 0 and (out / "report.html").exists()


def listed(folder, lines):
    """A manifest of recordings with these fields."""
    for number, fields in enumerate(lines):
        soundfile.write(folder / f"{number}.wav", music(number, 1.0), 48_000)
        fields["path"] = f"{number}.wav"
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder / "list.jsonl")


def splits(out):
    rows = [json.loads(line) for path in (out / "pieces").iterdir() for line in path.open()]
    return {row["id"].removesuffix(".wav"): row["split"] for row in rows}


def test_a_group_is_in_one_split(tmp_path):
    given = listed(tmp_path, [{"group": "abcde"[number // 6]} for number in range(30)])
    prepare(given, str(tmp_path / "out"), seconds=1.0, test_fraction=0.5, jobs=1)
    found = splits(tmp_path / "out")
    by_group = [{found[str(6 * group + n)] for n in range(6)} for group in range(5)]
    assert all(len(each) == 1 for each in by_group) and len(set.union(*by_group)) == 2


def test_a_group_of_which_a_recording_is_held_out_is_held_out(tmp_path):
    lines = [{"group": "a", "split": "test"}, {"group": "a", "split": "train"}, {"group": "a"}]
    given = listed(tmp_path, [*lines, {"group": "b"}, {}])
    prepare(given, str(tmp_path / "out"), seconds=1.0)
    assert splits(tmp_path / "out") == dict(zip("01234", ["test"] * 3 + ["train"] * 2, strict=True))


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_no_split_is_empty_if_there_are_two_groups(tmp_path, fraction):
    given = listed(tmp_path, [{"group": "a"}, {"group": "a"}, {"group": "b"}])
    prepare(given, str(tmp_path / "out"), seconds=1.0, test_fraction=fraction)
    found = splits(tmp_path / "out")
    assert found["0"] == found["1"] != found["2"]
    prepare(given, str(tmp_path / "none"), seconds=1.0, test_fraction=0)
    assert {*splits(tmp_path / "none").values()} == {"train"}


def test_rights_are_kept(tmp_path):
    day = lambda days: (date.today() + timedelta(days)).isoformat()
    given = listed(
        tmp_path,
        [
            {"licence": "CC0", "expires": day(-1)},
            {"licence": "CC0", "expires": day(1), "territory": ["DE"]},
            {"licence": "CC-BY", "rightsholder": "Somebody"},
            {"licence": "CC-BY-NC"},
            {"licence": "CC0"},
            {},
        ],
    )
    (tmp_path / "deny.txt").write_text("4.wav\nSomebody\n\n")
    options = dict(seconds=1.0, test_fraction=0, deny=str(tmp_path / "deny.txt"))
    report = prepare(given, str(tmp_path / "out"), **options)
    assert report.rejected == {"rights expired": 1, "denied": 2}
    report = prepare(given, str(tmp_path / "some"), licences=["CC0"], **options)
    assert report.rejected == {"rights expired": 1, "denied": 2, "licence not allowed": 2}
    (row,) = (json.loads(line) for line in (tmp_path / "some/pieces/00000.jsonl").open())
    assert row["meta"] == {"licence": "CC0", "expires": day(1), "territory": ["DE"]}
    with pytest.raises(Refusal, match="Cannot read"):
        prepare(given, str(tmp_path / "other"), deny=str(tmp_path / "absent"))


def test_copies_of_a_denied_recording_are_rejected_without_a_name(tmp_path):
    (tmp_path / "music").mkdir()
    for name, audio in (
        ("a.wav", music(1)),
        ("half.flac", 0.5 * music(1)),
        ("same.wav", music(1)),
        ("other.wav", music(2)),
    ):
        soundfile.write(tmp_path / "music" / name, audio, 48_000)
    for denied in ("a.wav", "half.flac", "same.wav"):
        (tmp_path / "deny.txt").write_text(denied)
        options = dict(seconds=1.0, test_fraction=0, deny=str(tmp_path / "deny.txt"))
        out = tmp_path / denied.partition(".")[0]
        report = prepare(str(tmp_path / "music"), str(out), **options)
        assert (report.accepted, report.rejected) == (1, {"denied": 1, "duplicate": 2})
        (row,) = map(json.loads, (out / "pieces/00000.jsonl").open())
        assert row["id"] == "other.wav"


def test_all_recordings_can_have_one_loudness(tmp_path):
    (tmp_path / "music").mkdir()
    for number, gain in enumerate((0.05, 0.5)):
        soundfile.write(tmp_path / f"music/{number}.wav", gain * music(number), 48_000)
    options = dict(seconds=2.5, test_fraction=0)
    prepare(str(tmp_path / "music"), str(tmp_path / "as it is"), **options)
    prepare(str(tmp_path / "music"), str(tmp_path / "equal"), loudness=-30, **options)
    power = lambda name: [
        10 * np.log10(np.mean((clip["audio"] / 32767) ** 2))
        for clip in examples(str(tmp_path / name), "train")
    ]
    assert np.ptp(power("as it is")) > 15 and np.ptp(power("equal")) < 0.5
    with pytest.raises(Refusal, match="no level"):
        prepare(str(tmp_path / "music"), str(tmp_path / "loud"), loudness=3, **options)
