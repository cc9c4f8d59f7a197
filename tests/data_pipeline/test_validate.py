"""Every kind of damage to a data set is named, and a repair drops it and nothing else."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from data_pipeline import layout as store
from data_pipeline import validate as module
from data_pipeline.captioning import write
from data_pipeline.checking import check_shard
from data_pipeline.embeddings import write_embeddings
from data_pipeline.latents import Encoder, encode
from data_pipeline.layout import PIECES, info, pieces
from data_pipeline.prepare import prepare
from data_pipeline.reading import Clips
from data_pipeline.repair import finish, repair
from data_pipeline.validate import validate
from data_pipeline.withdraw import withdraw
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, write_data_set

SECONDS = 2.0  # two blocks


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data set of ten recordings of three clips, one of them a shard each."""
    folder = tmp_path_factory.mktemp("validate")
    for number in range(10):
        rng = np.random.default_rng(number)
        audio = 0.3 * rng.uniform(-1, 1, (288_000, 2))
        soundfile.write(folder / f"{number}.wav", audio, 48_000)
        about = {"caption": f"noise {number}", "licence": "AB"[number % 2], "group": f"g{number}"}
        (folder / f"{number}.json").write_text(json.dumps(about))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.writing.SHARD_BYTES", 1_200_000)  # three clips
        prepare(str(folder), str(folder / "out"), seconds=SECONDS, test_fraction=0.3, jobs=1)
    return folder / "out"


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def clips(folder, split="train"):
    """Id -> audio of the clips of a split, in order."""
    opened = Clips(str(folder), split)
    found = [opened.read(place) for place in range(len(opened))]
    return {clip["id"]: clip["audio"] for clip in found}


def flip(folder, number, at=0.5, split="train"):
    """Changes a bit in the middle of a shard, or elsewhere."""
    path = info(str(folder)).shard(split, number)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    return path.name


def edit(folder, change, number=0):
    """Changes the lines of a file of pieces/."""
    path = sorted((folder / PIECES).iterdir())[number]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_validate_agrees_with_prepare_and_names_problems(shards, tmp_path):
    report = validate(shards)
    assert report.problems == [] and report.examples == store.info(shards).examples
    assert report.without_caption == 0 and report.captions_each == (1, 1, 1)
    assert report.captions == 8 and report.shares["mono-like"] == 0
    assert report.levels["peak in dBFS"][1] == pytest.approx(20 * np.log10(0.5), abs=0.1)
    assert "no problems" in str(report)

    features, bad = store.waveform_features(SAMPLES), tmp_path / "bad"
    bad.mkdir()
    silent = dict(
        audio=np.zeros((SAMPLES, 2), np.int16), start=0.0, total=0.25, captions=[""], meta="{}"
    )
    leak = silent | dict(valid_samples=SAMPLES, id="leak.wav@0.000")
    noisy = silent | dict(audio=np.full((SAMPLES, 2), 32767, np.int16))
    noisy |= dict(captions=["loud", "noise"])
    train = [
        leak,
        noisy | dict(valid_samples=100, id="padding.wav@0.000"),
        silent | dict(valid_samples=SAMPLES + 1, id="valid.wav@0.000"),
        silent | dict(valid_samples=SAMPLES, id="late.wav@0.250", start=0.05),
    ]
    write_data_set(bad, features, {"train": train, "test": [leak]})
    report = validate(str(bad))
    assert sorted(problem.split(":")[0] for problem in report.problems) == [
        "late.wav@0.250",
        "leak.wav is in train and in test",
        "padding.wav@0.000",
        "valid.wav@0.000",
    ]
    assert report.shares == pytest.approx({"mono-like": 1.0, "clipped": 1 / 4, "silent": 3 / 4})
    assert (report.without_caption, report.captions_each, report.captions) == (3, (2, 2, 2), 2)


def test_validate_counts_what_written_captions_name(tmp_path):
    known, id = dict(tempo=96.0, meter="3/4", source="midi"), "a.mid@0.000"
    written = write(known, id)
    example = dict(audio=np.ones((SAMPLES, 2), np.int16), valid_samples=SAMPLES, start=0, total=1)
    said = [each.text for each in written] + ["a given caption in 5/4"]
    score = example | dict(id=id, captions=said, meta=json.dumps(known))
    other = example | dict(id="b.wav@0.000", captions=["fast"], meta='{"tempo": "fast"}')
    write_data_set(tmp_path, store.waveform_features(SAMPLES), {"train": [score, other]})
    naming = lambda field: sum(field in each.fields for each in written)
    expected = {field: (1, len(written), naming(field)) for field in ("tempo", "meter")}
    assert validate(str(tmp_path)).truth == expected


def test_all_damage_of_shards_is_named_at_once(data):
    about = info(str(data))
    assert validate(str(data)).problems == []
    assert len(about.shards["train"]) >= 4
    flipped = flip(data, 0)
    missing = about.shard("train", 1)
    missing.unlink()
    short = about.shard("train", 2)
    os.truncate(short, short.stat().st_size // 3)
    shutil.copy(about.shard("train", 3), strange := data / "jen1-train.array_record-00099-of-00100")
    problems = validate(str(data)).problems
    assert f"{flipped} has another checksum than in checksums.json" in problems
    assert any("is damaged: " in each and "clip 1 of train (" in each for each in problems)
    assert f"{missing.name} is missing: clips 3 to 5 of train" in problems
    assert any(each.startswith(short.name) for each in problems)
    assert f"{strange.name} is no shard of this data set" in problems


def test_what_pieces_licences_and_checksums_say_otherwise_is_named(data):
    (data / "licences.json").write_text('{"A": 1}')
    checksums = json.loads((data / "checksums.json").read_text())
    lacking = checksums.popitem()[0]
    (data / "checksums.json").write_text(json.dumps(checksums))
    swap = lambda rows: rows[0].update(id="other.wav")
    edit(data, swap)
    edit(data, lambda rows: rows[1].update(captions=["something else"]))
    problems = validate(str(data)).problems
    assert "licences.json has other counts than pieces/" in problems
    assert f"checksums.json lacks {lacking}" in problems
    assert sum("in pieces/ its place is one of other.wav" in each for each in problems) == 3
    assert sum("a caption that its recording does not have" in each for each in problems) == 3
    for change, words in (
        (lambda rows: rows[0].update(first=1), "clip 1 of .* is not the next one"),
        (lambda rows: rows[0].pop("clips"), "wrong line"),
        (lambda rows: rows.pop(), "pieces/ lists"),
        (lambda rows: rows[0].update(fingerprint="AAAA"), "fingerprint has another length"),
    ):
        folder = shutil.copytree(data, data.with_name("more"))
        edit(folder, change)
        problems = validate(str(folder)).problems
        assert any(re.search(words, each) for each in problems)
        with pytest.raises(Refusal, match="cannot be repaired"):
            repair(validate(str(folder)))
        shutil.rmtree(folder)
    shutil.rmtree(data / PIECES)
    assert any("pieces is missing" in each for each in validate(str(data)).problems)


def dies(shard):
    """Checks a shard in a process that crashes at one of them."""
    if shard.split == "train" and shard.number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return check_shard(shard)


@pytest.mark.slow
def test_processes_find_the_same_and_one_that_crashes_costs_its_shard_alone(data, monkeypatch):
    flip(data, 0)
    alone = validate(str(data))
    monkeypatch.setattr(module, "WORTH", 2**20)
    assert sorted(validate(str(data), jobs=2).problems) == sorted(alone.problems)
    monkeypatch.setattr(module, "check_shard", dies)
    name = info(str(data)).shard("train", 1).name
    crash = f"{name} crashes the process that reads it: clips 3 to 5 of train"
    assert sorted(validate(str(data), jobs=2).problems) == sorted([*alone.problems, crash])


def test_blocks_of_other_clips_are_named(data):
    """Two records of a shard change places, which no checksum of a record finds."""
    from array_record.python.array_record_module import ArrayRecordWriter

    from data_pipeline.writing import OPTIONS, read_part

    path = info(str(data)).shard("train", 0)
    records = list(read_part(path, range(6)))
    records[1], records[3] = records[3], records[1]
    writer = ArrayRecordWriter(str(path), OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
    problems = validate(str(data)).problems
    assert sum("its blocks do not follow each other" in each for each in problems) == 2


def test_what_is_in_two_splits_is_named_and_leaves_the_training_split(data):
    rows = list(pieces(str(data)))
    train, test = (next(row for row in rows if row["split"] == name) for name in ("train", "test"))

    def change(lines):
        for row in lines:
            if row["id"] == train["id"]:
                row["fingerprint"] = test["fingerprint"]
            if row["split"] == "train" and row["id"] != train["id"] and not done:
                done.append(row["id"])
                row["group"] = test["group"]

    done: list[str] = []
    edit(data, change)
    report = validate(str(data))
    assert sorted(report.problems) == sorted(
        [
            f"{train['id']} of train sounds like {test['id']} of test",
            f"the group {test['group']} is in train and in test",
        ]
    )
    repair(report)
    report = validate(str(data))
    assert report.problems == []
    assert report.examples["train"] == info(str(data)).examples["train"] == len(clips(data))
    assert not {id.rpartition("@")[0] for id in clips(data)} & {train["id"], *done}


def means(audio, valid):
    return audio.reshape(len(audio), -1, 1000, 2).mean(2)


def test_latents_are_compared_with_a_run_and_with_their_embeddings(data, tmp_path):
    out, embed = (
        str(tmp_path / "out"),
        lambda texts: (np.ones((len(texts), 2, 3)), [2] * len(texts)),
    )
    prints = {"autoencoder": "a" * 64, "text": "t" * 64}
    encode(str(data), out, Encoder(means, prints, k=2, hop=1000, embed=embed))
    assert validate(out, fingerprints=prints).problems == []
    other = validate(out, fingerprints={"autoencoder": "b" * 64, "text": "t" * 64})
    assert other.problems == [
        "the autoencoder has the fingerprint aaaaaaaaaaaa, and that of the run has bbbbbbbbbbbb"
    ]
    table = Path(out, "captions.jsonl")
    for name in ("0.wav", "1.wav@2.000", "music/2.wav", "noise"):
        with table.open("a") as lines:
            lines.write(json.dumps({"id": name, "caption": "a new one"}) + "\n")
    assert validate(out).problems == [
        "captions.jsonl names 'music/2.wav', which is not here; it has 2 such lines",
        "captions.jsonl has 1 captions without an embedding, such as 'a new one'; "
        "`jen1 data embed` makes them",
    ]
    table.write_text("{")
    assert "captions.jsonl, line 1" in validate(out).problems[0]
    table.unlink()
    for path in Path(out).glob("embeddings-*"):
        path.unlink()
    assert validate(out).problems == ["there are no embeddings of the captions"]
    some = [f"noise {number}" for number in range(1, 10)]
    write_embeddings(Path(out), some, embed, lambda said: None)
    assert validate(out).problems == ["the embedding of 'noise 0' is missing or damaged"]
    Path(out, "fingerprint.json").write_text("{")
    with pytest.raises(Refusal, match=r"fingerprint\.json is damaged"):
        validate(out)
    Path(out, "fingerprint.json").unlink()
    assert "no fingerprint" in validate(out).problems[-1]


def test_a_repair_drops_the_bad_clips_and_leaves_the_others_as_they_were(data, whole):
    before, test = clips(whole), clips(whole, "test")
    flip(data, 0)
    info(str(data)).shard("train", 1).unlink()
    some = list(before)[-1]
    withdraw(str(data), [some])
    said = []
    repair(validate(str(data)), said.append)
    report = validate(str(data))
    assert report.problems == [] and not report.withdrawn
    gone = [*list(before)[1:2], *list(before)[3:6], some]
    after = clips(data)
    assert list(after) == [id for id in before if id not in gone]
    for id, audio in after.items():
        np.testing.assert_array_equal(audio, before[id])
    assert list(clips(data, "test")) == list(test)
    assert any(line.startswith(f"train: {len(gone)} clips dropped") for line in said)
    assert "remap_data=True" in said[-1]
    content = b"".join(path.read_bytes() for path in data.glob("*array_record*"))
    assert before[some][1000:1100].tobytes() not in content
    rows = [row for row in pieces(str(data)) if row["split"] == "train"]
    assert sum(row["clips"] for row in rows) == len(after)
    assert sum(json.loads((data / "licences.json").read_text()).values()) == len(after)
    read = tfds.builder_from_directory(str(data)).as_data_source("train")
    assert len(read) == 2 * len(after) and read[0]["id"].decode() == next(iter(after))
    assert [record["id"].decode() for record in read][::2] == list(after)
    repair(report, said.append)
    assert said[-1] == "nothing to repair"


def test_a_split_of_which_nothing_is_left_goes_and_training_may_not(data):
    for path in data.glob("jen1-test*"):
        path.unlink()
    repair(validate(str(data)))
    assert validate(str(data)).problems == [] and list(info(str(data)).examples) == ["train"]
    for path in data.glob("jen1-train*"):
        path.unlink()
    before = sorted(data.rglob("*"))
    with pytest.raises(Refusal, match="No clip of train"):
        repair(validate(str(data)))
    assert sorted(data.rglob("*")) == before


def test_an_interruption_leaves_the_old_data_set_or_one_that_is_finished(data, tmp_path):
    """The process is killed at each of its steps that change the data set, one after the other."""
    flip(data, 0)
    withdraw(str(data), [list(clips_of_pieces(data))[-1]])
    expected = shutil.copytree(data, tmp_path / "expected")
    repair(validate(str(expected)))
    states = set()
    for step in range(1, 100):
        folder = shutil.copytree(data, tmp_path / f"{step}")
        if not killed(folder, step):
            break
        try:
            info(str(folder))
            states.add("whole")
        except Refusal as refusal:
            assert "--repair" in str(refusal)
            states.add("interrupted")
        finish(str(folder))
        report = validate(str(folder))
        if report.problems:
            repair(report)
        else:
            assert states == {"whole", "interrupted"}
        assert contents(folder) == contents(expected)
        shutil.rmtree(folder)
    assert states == {"whole", "interrupted"} and step > 6


def clips_of_pieces(folder):
    return [row["id"] for row in pieces(str(folder))]


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".repair" not in path.parts
    }


class Killed(BaseException):
    pass


def killed(folder, step):
    """Repairs until the change of a file with this number; whether there are so many."""
    left = step

    def count(function):
        def counted(*arguments, **keywords):
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            return function(*arguments, **keywords)

        return counted

    report = validate(str(folder))
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (os, "replace"),
            (Path, "replace"),
            (Path, "unlink"),
            (shutil, "rmtree"),
        ):
            patch.setattr(owner, name, count(getattr(owner, name)))
        try:
            repair(report)
        except Killed:
            return True
    return False
