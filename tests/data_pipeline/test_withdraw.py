"""Withdrawn recordings and clips are left out by every later step."""

import itertools
import json
import shutil

import numpy as np
import pytest
import soundfile

from data_pipeline import stream
from data_pipeline.latents import Encoder, encode
from data_pipeline.layout import pieces
from data_pipeline.prepare import prepare
from data_pipeline.reading import Clips
from data_pipeline.shard_data import ShardData
from data_pipeline.withdraw import withdraw
from jen1_numpy.errors import Refusal

ENCODER = Encoder(lambda audio, valid: audio[:, ::100], {"autoencoder": "a"}, k=2, hop=100)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Six recordings of four clips, two of them Ann's, and one that is another one again."""
    folder = tmp_path_factory.mktemp("given")
    for number in range(7):
        rng = np.random.default_rng(min(number, 5))
        soundfile.write(folder / f"{number}.wav", rng.uniform(-0.5, 0.5, (48_000, 2)), 48_000)
        about = {"caption": f"noise {number}", "rightsholder": "Ann" if number < 2 else "Bob"}
        (folder / f"{number}.json").write_text(json.dumps(about))
    return str(folder)


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("whole") / "data")
    prepare(given, out, seconds=0.25, test_fraction=0.3)
    return out


@pytest.fixture
def data(whole, tmp_path):
    return str(shutil.copytree(whole, tmp_path / "data"))


def ids(folder, split="train"):
    clips = Clips(folder, split)
    return [clips.read(place)["id"] for place in range(len(clips))]


def row_of(folder, split="train"):
    """A recording of a split, as pieces/ has it."""
    return next(row for row in pieces(folder) if row["split"] == split)


def test_training_reads_the_others_as_before_and_gives_withdrawn_ones_no_weight(whole, data):
    gone, clip = row_of(data)["id"], ids(data)[-2]
    withdraw(data, [gone, clip], "asked for\tit")
    take = lambda folder: list(itertools.islice(stream.batches(folder, "train", 4, seed=2), 12))
    lost = 0
    for batch, before in zip(take(data), take(whole), strict=True):
        names = np.array(ids(data), object)[before["index"]]
        bad = np.array([name == clip or name.startswith(f"{gone}@") for name in names])
        lost += bad.sum()
        np.testing.assert_array_equal(batch["index"], before["index"])
        assert not batch["valid_samples"][bad].any() and not batch["audio"][bad].any()
        assert not any(batch["caption"][bad])
        for name in batch:
            np.testing.assert_array_equal(batch[name][~bad], before[name][~bad])
    assert lost > 5
    said = f"noise {gone[0]}"
    assert said in stream.captions(whole, "train") and said not in stream.captions(data, "train")
    around = stream.batches(data, "train", len(ids(data)), shuffle=False, epochs=1, around=50)
    (batch,) = around
    assert batch["before_samples"][-1] == 0 and batch["after_samples"][-3] == 0


def test_a_pass_in_order_leaves_them_out(data):
    test = row_of(data, "test")
    before = list(ShardData(data, 4, seed=0).sweep("test"))
    withdraw(data, [test["id"]])
    after = list(ShardData(data, 4, seed=0).sweep("test"))
    places = lambda batches: {place for batch in batches for place in batch["index"].tolist()}
    gone = {*range(test["first"], test["first"] + test["clips"])}
    assert places(after) == places(before) - gone and gone


def test_latents_hold_nothing_of_them_and_carry_the_tombstones_on(whole, data, tmp_path):
    row, clip = row_of(data), ids(data)[-1]
    withdraw(data, [row["id"], clip])
    gone = {*range(row["first"], row["first"] + row["clips"]), len(ids(data)) - 1}
    for folder, out in ((whole, "before"), (data, "after")):
        encode(folder, str(tmp_path / out), ENCODER)
    after, before = (Clips(str(tmp_path / name), "train") for name in ("after", "before"))
    assert after.withdrawn == gone and not before.withdrawn
    for place in range(len(after)):
        found = after.read(place)
        assert found["id"] == before.read(place)["id"]
        if place in gone:
            assert found["valid_frames"] == 0 and not found["latents"].any()
            assert (found["captions"], found["meta"]) == ([""], "{}")
        else:
            np.testing.assert_array_equal(found["latents"], before.read(place)["latents"])


def test_another_preparation_rejects_them_and_their_duplicates(given, whole, data, tmp_path):
    kept = next(row["id"] for row in pieces(data) if row["id"] in ("5.wav", "6.wav"))
    copy = {"5.wav": "6.wav", "6.wav": "5.wav"}[kept]
    clip = next(id for id in ids(data) if id[:1] in "234")
    said = []
    withdraw(data, ["rightsholder:Ann", kept, clip], progress=said.append)
    assert f"{copy}: rejected as a duplicate, withdrawn too" in said
    deny = f"{data}/withdrawn.txt"
    report = prepare(given, str(tmp_path / "out"), seconds=0.25, test_fraction=0, deny=deny)
    assert report.rejected == {"denied": 4} and report.dropped_seconds["denied"] == 0.25
    found = ids(str(tmp_path / "out"))
    assert len(found) == 11 and clip not in found


def test_copies_of_copies_are_withdrawn_and_lead_to_the_one_that_was_taken(data, tmp_path):
    kept = row_of(data)["id"]
    rejected = [
        dict(id="c.wav", reason="duplicate", detail="the same bytes as b.wav"),
        dict(id="b.wav", reason="duplicate", detail=f"it sounds like {kept}"),
        dict(id="d.wav", reason="silent", detail="peak 0.0e+00"),
    ]
    path = tmp_path / "data" / "rejected.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rejected))
    with pytest.raises(Refusal, match=r"'c.wav'; it is a duplicate, the same bytes as b.wav"):
        withdraw(data, ["c.wav"])
    path.with_name("withdrawn.txt").write_text("rightsholder:Ann")  # no end of the line
    withdraw(data, [kept])
    lines = path.with_name("withdrawn.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["rightsholder:Ann", kept, "b.wav", "c.wav"]


def test_unknown_names_are_refused_and_nothing_is_written_twice(data, tmp_path):
    with pytest.raises(Refusal, match=r"no recording, clip or rightsholder '2.wave'.*2\.wav"):
        withdraw(data, ["1.wav", "2.wave"])
    with pytest.raises(Refusal, match=r"'rightsholder:An'; the nearest are rightsholder:Ann"):
        withdraw(data, ["rightsholder:An"])
    with pytest.raises(Refusal, match="Nothing is named"):
        withdraw(data, [])
    path = tmp_path / "data" / "withdrawn.txt"
    assert not path.exists()
    lines = tmp_path / "data" / "pieces" / "00009.jsonl"
    lines.write_text("null\n")
    with pytest.raises(Refusal, match=r"00009\.jsonl is damaged"):
        withdraw(data, ["1.wav"])
    lines.unlink()
    withdraw(data, ["1.wav"], "one")
    withdraw(data, ["1.wav", "2.wav@0.250"], "two")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert [(line[0], line[2]) for line in lines] == [("1.wav", "one"), ("2.wav@0.250", "two")]
