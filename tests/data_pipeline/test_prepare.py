import csv
import json
import shutil

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from data_pipeline import layout as store
from data_pipeline import synthesis, writing
from data_pipeline.prepare import prepare
from data_pipeline.report import Totals
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, SECONDS, tone


def source(folder, split="train"):
    return tfds.builder_from_directory(str(folder)).as_data_source(split)


def rejected(out):
    entries = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    return {entry["id"]: entry["reason"] for entry in entries}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A manifest of two good files and one of every bad kind, prepared: report and data set."""
    folder = tmp_path_factory.mktemp("mixed") / "inside"
    folder.mkdir()
    bad = tone(0.5)
    bad[5000] = np.nan
    soundfile.write(folder / "good.flac", tone(0.6, 44_100, channels=1), 44_100)
    soundfile.write(folder / "other.wav", tone(0.6, frequency=300), 48_000)
    soundfile.write(folder / "nan.wav", bad, 48_000, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", 1e-4 * tone(0.5), 48_000, subtype="FLOAT")
    soundfile.write(folder / "short.wav", tone(0.1), 48_000)
    soundfile.write(folder / "surround.wav", tone(0.5, channels=6), 48_000)
    soundfile.write(folder.parent / "escaped.wav", tone(0.5, frequency=700), 48_000)
    (folder / "twin.flac").write_bytes((folder / "good.flac").read_bytes())
    (folder / "corrupt.ogg").write_bytes(b"OggS" + bytes(2000))
    whole = (folder / "other.wav").with_suffix(".flac")
    soundfile.write(whole, np.random.default_rng(0).uniform(-0.5, 0.5, (40_000, 2)), 48_000)
    (folder / "torn.flac").write_bytes(whole.read_bytes()[:90_000])
    whole.unlink()
    soundfile.write(
        folder / "torn.mp3", np.random.default_rng(1).uniform(-0.5, 0.5, (144_000, 2)), 48_000
    )
    content = (folder / "torn.mp3").read_bytes()  # half of it decodes without an error
    (folder / "torn.mp3").write_bytes(content[: len(content) // 2])
    (folder / "notes.txt").write_text("not audio")
    names = [
        "good.flac",
        "other.wav",
        "nan.wav",
        "silent.wav",
        "short.wav",
        "surround.wav",
        "twin.flac",
        "corrupt.ogg",
    ]
    lines = [
        dict(path=name)
        for name in [
            *names,
            "torn.flac",
            "torn.mp3",
            "notes.txt",
            "absent.wav",
            "../escaped.wav",
            "a/../../escaped.wav",
        ]
    ]
    for line in (lines[0], lines[6]):  # only one of the twins is accepted
        line |= dict(title="A Tone", artist="Nobody", licence="CC0", year=1999)
    text = (
        "".join(json.dumps(line) + "\n" for line in lines) + "{broken\n" + '{"title": "no path"}\n'
    )
    (folder / "music.jsonl").write_text(text)
    out = tmp_path_factory.mktemp("out") / "set"
    return prepare(str(folder / "music.jsonl"), str(out), seconds=SECONDS, test_fraction=0.0), out


def test_every_bad_file_is_listed_with_its_reason(mixed):
    report, out = mixed
    reasons = rejected(out)
    twin = reasons.pop("twin.flac", None) or reasons.pop("good.flac")  # whichever came second
    assert twin == "duplicate"
    assert reasons == {
        "nan.wav": "NaN or Inf",
        "silent.wav": "silent",
        "short.wav": "too short",
        "surround.wav": "more than two channels",
        "corrupt.ogg": "undecodable",
        "torn.flac": "undecodable",
        "torn.mp3": "undecodable",
        "notes.txt": "undecodable",
        "absent.wav": "missing",
        "../escaped.wav": "outside the manifest's folder",
        "a/../../escaped.wav": "outside the manifest's folder",
        "music.jsonl:15": "unreadable line",
        "music.jsonl:16": "unreadable line",
    }
    assert (report.files, report.accepted, sum(report.rejected.values())) == (16, 2, 14)


def test_44100_mono_becomes_48000_stereo_cut_into_padded_clips(mixed):
    _, out = mixed
    pieces = sorted(
        (e for e in source(out) if e["id"].decode().split("@")[0] in ("good.flac", "twin.flac")),
        key=lambda e: e["start"],
    )
    assert [int(e["valid_samples"]) for e in pieces[:2]] == [SAMPLES, SAMPLES]
    np.testing.assert_allclose([e["start"] for e in pieces], np.arange(len(pieces)) * SECONDS)
    np.testing.assert_allclose([e["total"] for e in pieces], 0.6, rtol=1e-6)
    audio = np.concatenate([e["audio"][: int(e["valid_samples"])] for e in pieces]) / 32767
    np.testing.assert_array_equal(audio[:, 0], audio[:, 1])
    expected = tone(len(audio) / 48_000, 48_000)[:, 0]
    np.testing.assert_allclose(audio[1000:-1000, 0], expected[1000:-1000], atol=1e-3)


def test_a_file_that_a_manifest_lists_twice_has_the_captions_of_both_lines(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5), 48_000)
    lines = (json.dumps(dict(path="a.wav", caption=caption)) for caption in ("one", "two"))
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    report = prepare(
        str(tmp_path / "list.jsonl"), str(tmp_path / "out"), seconds=SECONDS, test_fraction=0
    )
    assert (report.files, report.accepted, report.rejected) == (1, 1, {})
    (clip, _) = source(tmp_path / "out")
    assert list(clip["captions"]) == [b"one", b"two"]


def test_a_short_last_piece_is_padded_or_counted_as_dropped(tmp_path):
    for name, seconds in (("kept", 0.25 + 0.2), ("dropped", 0.25 + 0.1)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds), 48_000)
    report = prepare(str(tmp_path), str(tmp_path / "out"), seconds=SECONDS, test_fraction=0.0)
    assert report.clips == {"train": 3} and report.dropped_seconds["tail"] == pytest.approx(0.1)
    last = next(e for e in source(tmp_path / "out") if e["id"] == b"kept.wav@0.250")
    assert (
        last["valid_samples"] == 9600
        and last["audio"][9500:9600].any()
        and not last["audio"][9600:].any()
    )


def test_plain_tfds_reads_captions_and_metadata(mixed):
    _, out = mixed
    examples = [e for e in source(out) if e["id"].startswith((b"good.flac", b"twin.flac"))]
    assert list(examples[0]["captions"]) == [b"A Tone by Nobody"]
    assert json.loads(examples[0]["meta"]) == dict(
        title="A Tone", artist="Nobody", licence="CC0", year=1999
    )


def test_training_clips_are_counted_by_licence(mixed):
    _, out = mixed
    examples = list(source(out))
    licensed = [e for e in examples if e["id"].startswith((b"good.flac", b"twin.flac"))]
    expected = {"CC0": len(licensed), "": len(examples) - len(licensed)}
    assert all(expected.values()) and store.info(str(out)).licences == expected


def test_only_a_limit_leaves_files_over():
    left = [
        Totals().report("out", 3, False, limited=limited).not_needed for limited in (True, False)
    ]
    assert left == [3, 0]


def test_a_licence_is_one_line_of_text(shards, tmp_path):
    totals = Totals()
    outcome = dict(valid=[SAMPLES], dropped={}, clipped=0.0, seconds=0.25, loudness=None)
    outcome |= dict(sample_rate=48_000, channels="mono", captions=[""])
    for stated in ("CC0\n# more", None, ["CC0"], 5, "x" * 100):
        totals.accept(outcome | {"meta": {"licence": stated}}, "train", 1)
    totals.accept(outcome | {"meta": {"licence": "CC-BY"}}, "test", 1)
    assert totals.licences == {"CC0 # more": 1, "": 3, "x" * 80: 1}
    assert totals.report("out", 6, False, limited=False).captions == 0  # "" is none
    out = shutil.copytree(shards, tmp_path / "set")
    for damaged in ("{", "[1]", '{"CC0": "many"}'):
        (out / store.LICENCES).write_text(damaged)
        with pytest.raises(Refusal, match="damaged: delete it"):
            store.info(str(out))
    (out / store.LICENCES).unlink()
    assert store.info(str(out)).licences == {}


def test_no_file_is_in_two_splits_and_the_split_is_stable(shards, music, tmp_path):
    files = lambda folder, split: {e["id"].decode().split("@")[0] for e in source(folder, split)}
    train, test = files(shards, "train"), files(shards, "test")
    assert train and test and not train & test and len(train | test) == 8
    some = tmp_path / "some"
    some.mkdir()
    for name in [*sorted(test)[:2], *sorted(train)[:3]]:
        (some / name).write_bytes((music / name).read_bytes())
    prepare(str(some), str(tmp_path / "fewer"), seconds=SECONDS, test_fraction=0.3)
    assert files(tmp_path / "fewer", "test") <= test and files(tmp_path / "fewer", "train") <= train


@pytest.fixture
def assigned(tmp_path):
    """Twelve recordings of a second: three are in the split test, one in train, eight in none."""
    splits = ["test"] * 3 + ["train"] + [None] * 8
    for number in range(len(splits)):
        soundfile.write(tmp_path / f"{number}.wav", tone(1, frequency=200 + 20 * number), 48_000)
    lines = [dict(path=f"{number}.wav") for number in range(len(splits))]
    for line, split in zip(lines, splits, strict=True):
        line |= {"split": split} if split else {}
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "list.jsonl"


def test_a_source_that_names_splits_decides_them(assigned, tmp_path):
    options = dict(seconds=1, test_fraction=0.9)
    report = prepare(str(assigned), str(tmp_path / "out"), **options)
    held_out = {e["id"].decode() for e in source(tmp_path / "out", "test")}
    assert held_out == {f"{number}.wav@0.000" for number in range(3)}
    assert report.clips == {"train": 9, "test": 3} and "source decides" in str(report)
    assert all(json.loads(e["meta"]) == {} for e in source(tmp_path / "out", "test"))
    report = prepare(str(assigned), str(tmp_path / "some"), limit_hours=4 / 3600, **options)
    assert sum(report.clips.values()) == 4 and report.not_needed == 8


def test_other_names_of_splits_and_sources_without_train_are_refused(assigned, tmp_path):
    assigned.write_text('{"path": "0.wav", "split": "test"}\n{"path": "1.wav", "split": "dev"}')
    with pytest.raises(Refusal, match="accepted is in the split train"):
        prepare(str(assigned), str(tmp_path / "out"), seconds=1)
    with open(assigned, "a") as lines:
        lines.write('\n{"path": "2.wav"}')
    report = prepare(str(assigned), str(tmp_path / "out"), seconds=1)
    assert report.rejected == {"unknown split": 1} and report.clips == {"train": 1, "test": 1}
    assert "'dev'" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_a_limit_takes_that_much_and_renders_little_more(tmp_path, monkeypatch):
    clip, rendered = synthesis.clip, []
    monkeypatch.setattr(synthesis, "clip", lambda *given: rendered.append(given) or clip(*given))
    options = dict(seconds=1.0, clips=40, test_fraction=0.25)
    whole = prepare("synthetic", str(tmp_path / "whole"), jobs=1, **options)
    assert sum(whole.clips.values()) == len(rendered) == 40
    rendered.clear()
    report = prepare("synthetic", str(tmp_path / "out"), limit_hours=12 / 3600, jobs=1, **options)
    assert sum(report.clips.values()) == 12 and report.not_needed == 28
    assert len(rendered) == 16  # one unit
    ids = lambda name: [e["id"] for s in ("train", "test") for e in source(tmp_path / name, s)]
    assert set(ids("out")) <= set(ids("whole"))
    again = prepare("synthetic", str(tmp_path / "pool"), limit_hours=12 / 3600, jobs=3, **options)
    assert again.clips == report.clips and ids("pool") == ids("out")


def test_a_limit_is_reached_within_a_recording(tmp_path, music):
    limit = 5 * SECONDS / 3600
    report = prepare(str(music), str(tmp_path / "out"), seconds=SECONDS, limit_hours=limit)
    rows = [json.loads(row) for row in (tmp_path / "out/pieces/00000.jsonl").open()]
    assert sum(report.clips.values()) == sum(row["clips"] for row in rows) >= 5
    assert sum(report.hours.values()) * 3600 < 6 * SECONDS
    assert report.accepted == len(rows) and report.accepted + report.not_needed == 8


def test_synthetic_clips_are_those_of_the_synthesiser(tmp_path):
    prepare("synthetic", str(tmp_path / "out"), seconds=0.25, clips=4, seed=5)
    for example in source(tmp_path / "out"):
        index = int(example["id"].decode().split("@")[0].split("-")[-1])
        clip = synthesis.clip(5, index, 0.25)
        np.testing.assert_allclose(example["audio"] / 32767, clip.audio, atol=1 / 32767)
        assert [caption.decode() for caption in example["captions"]] == [clip.caption]
        assert (example["start"], example["total"]) == (0, 0.25)
        assert json.loads(example["meta"]) == clip.truth | {"source": "synthetic"}


def test_csv_and_sidecars(tmp_path, music):
    with open(tmp_path / "list.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [
                ["path", "caption", "mood"],
                [music / "0.wav", "a, quoted caption", "calm"],
                [music / "1.wav", "", ""],
            ]
        )
    prepare(str(tmp_path / "list.csv"), str(tmp_path / "out"), seconds=SECONDS, test_fraction=0)
    found = {(*e["captions"], e["meta"]) for e in source(tmp_path / "out")}
    assert found == {(b"a, quoted caption", b'{"mood": "calm"}'), (b"", b"{}")}
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.wav").write_bytes((music / "0.wav").read_bytes())
    sidecar = dict(caption="from json", captions=["the second", " from json", ""], key="C")
    (folder / "a.json").write_text(json.dumps(sidecar))
    (folder / "b.wav").write_bytes((music / "1.wav").read_bytes())
    (folder / "b.json").write_text("[1]")
    (folder / "c.wav").write_bytes((music / "2.wav").read_bytes())
    (folder / "c.json").write_text('{"captions": "a text and no list"}')
    report = prepare(str(folder), str(tmp_path / "out2"), seconds=SECONDS, test_fraction=0)
    assert {(*e["captions"], e["meta"]) for e in source(tmp_path / "out2")} == {
        (b"from json", b"the second", b'{"key": "C"}')
    }
    assert report.rejected == {"unreadable caption": 2}


@pytest.mark.parametrize(
    "kind", ["empty", "all bad", "absent", "no path column", "other kind", "two channels missing"]
)
def test_an_unusable_source_is_refused_and_leaves_nothing(tmp_path, kind):
    given = tmp_path / "given"
    given.mkdir()
    if kind == "all bad":
        (given / "a.wav").write_bytes(b"nothing")
    elif kind == "two channels missing":
        soundfile.write(given / "a.wav", tone(0.5, channels=4), 48_000)
    elif kind == "absent":
        given = tmp_path / "absent"
    elif kind == "no path column":
        given = given / "list.csv"
        given.write_text("file,caption\na.wav,x\n")
    elif kind == "other kind":
        given = given / "list.xml"
        given.write_text("<x/>")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Refusal):
        prepare(str(given), str(tmp_path / "out"), seconds=SECONDS)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_or_unwritable_out_is_refused(tmp_path, music, shards):
    with pytest.raises(Refusal, match=r"already exists .* name another folder"):
        prepare(str(music), shards, seconds=SECONDS)
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match=r"Cannot write into .* name another folder"):
        prepare(str(music), str(tmp_path / "file" / "out"), seconds=SECONDS)


def test_many_shards_read_as_one_split(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_BYTES", 60_000)
    prepare("synthetic", str(tmp_path / "out"), seconds=0.25, clips=5, test_fraction=0)
    assert len(list((tmp_path / "out").glob("*.array_record-*-of-00005"))) == 5
    assert len({e["id"] for e in source(tmp_path / "out")}) == 5


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0.0, -1.0, 1e-6, 1e6])
def test_a_clip_length_out_of_range_is_refused(tmp_path, seconds):
    with pytest.raises(Refusal, match="no length for a clip"):
        prepare("synthetic", str(tmp_path / "out"), seconds=seconds, clips=1)
    assert not (tmp_path / "out").exists()


def test_absurd_rates_unsupported_formats_and_linked_folders_are_listed(tmp_path):
    music = tmp_path / "music"
    (music / "more").mkdir(parents=True)
    (music / "linked").symlink_to(music / "more")
    soundfile.write(music / "good.wav", tone(1.0), 48_000)
    soundfile.write(music / "slow.wav", tone(1.0), 8)
    (music / "phone.m4a").write_bytes(b"not read")
    prepare(str(music), str(tmp_path / "out"), seconds=SECONDS, test_fraction=0)
    rejected = [
        json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    ]
    assert {entry["id"]: entry["reason"] for entry in rejected} == {
        "slow.wav": "absurd sample rate",
        "phone.m4a": "unsupported format",
        "linked": "linked folder",
    }
