"""Clips as blocks, few open files, and clips that cannot be read."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest

from data_pipeline import reading, stream
from data_pipeline.damage import Damages
from data_pipeline.layout import SAMPLE_RATE, blocks_of, info, waveform_features
from data_pipeline.reading import Clips, Damaged
from data_pipeline.shard_data import ShardData
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import write_data_set

SAMPLES = 3 * SAMPLE_RATE
COUNT = 6


def write(folder, first=0, count=COUNT, samples=SAMPLES, valid=None):
    """A data set of clips of noise, the quieter the later; returns their audio."""
    folder.mkdir()
    rng, clips = np.random.default_rng(first), []
    for number in range(first, first + count):
        audio = rng.integers(-3000, 3000, (samples, 2)).astype(np.int16)
        audio[samples if valid is None else valid :] = 0
        about = dict(captions=[f"noise {number}"], id=f"{number}@0.000", meta="{}")
        times = dict(start=0.0, total=samples / SAMPLE_RATE)
        size = dict(valid_samples=samples if valid is None else valid)
        clips.append(about | times | size | {"audio": audio})
    write_data_set(folder, waveform_features(samples), {"train": clips})
    return [clip["audio"] for clip in clips]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise") / "set"
    return folder, write(folder)


@pytest.fixture
def flipped(noise, tmp_path):
    """The data set with one bit changed in the last block of clip 2."""
    folder = shutil.copytree(noise[0], tmp_path / "flipped")
    path = info(str(folder)).shard("train", 0)
    content = bytearray(path.read_bytes())
    tail = noise[1][2][-50:].tobytes()
    content[content.index(tail) + 20] ^= 1
    path.write_bytes(content)
    return folder


def test_blocks_last_a_second_or_more_and_divide_the_clip():
    for samples in (12_000, 32_640, SAMPLES, 491_520, 48_000 * 60, 48_000 * 7 + 1, 96_001):
        count = blocks_of(samples)
        assert samples % count == 0 and (count == 1 or samples // count >= SAMPLE_RATE)
    assert (blocks_of(491_520), blocks_of(SAMPLES)) == (10, 3)


def test_any_rows_of_a_clip_are_those_that_were_written(noise):
    folder, audio = noise
    clips = Clips(str(folder), "train")
    assert info(str(folder)).blocks == 3 and len(clips) == COUNT
    edges = (0, 1, 47_999, 48_000, 100_000, SAMPLES - 1, SAMPLES)
    for first, stop in itertools.combinations(edges, 2):
        found = clips.read(4, first, stop)
        np.testing.assert_array_equal(found["audio"], audio[4][first:stop])
        assert (found["id"], found["captions"]) == ("4@0.000", ["noise 4"])
        assert found["valid_samples"] == SAMPLES


def test_a_window_reads_only_its_blocks(noise, monkeypatch):
    read = []
    records = Clips._records
    monkeypatch.setattr(
        Clips, "_records", lambda self, at, count: read.append(count) or records(self, at, count)
    )
    batches = stream.batches(str(noise[0]), "train", 4, crop=30_000)
    for batch in itertools.islice(batches, 3):
        assert batch["audio"].shape == (4, 30_000, 2)
    assert set(read) <= {1, 2} and 1 in read


def test_windows_of_short_clips_lie_in_their_valid_part(tmp_path):
    write(tmp_path / "set", count=2, valid=60_000)
    for batch in itertools.islice(
        stream.batches(str(tmp_path / "set"), "train", 8, crop=50_000), 4
    ):
        assert (batch["valid_samples"] == 50_000).all()
        assert (batch["audio"][:, -100:] != 0).any(axis=(1, 2)).all()


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.writing.SHARD_BYTES", 1)  # one clip a shard
    monkeypatch.setattr(reading, "OPEN_FILES", 3)
    audio = write(tmp_path / "set", count=20, samples=4_800)
    assert len(info(str(tmp_path / "set")).shards["train"]) == 20
    clips, before = Clips(str(tmp_path / "set"), "train"), len(os.listdir("/proc/self/fd"))
    for place in [*range(20), *range(19, -1, -1)]:
        np.testing.assert_array_equal(clips.read(place)["audio"], audio[place])
        assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_a_changed_bit_a_short_file_and_a_missing_one_are_found(noise, flipped, tmp_path):
    clips = Clips(str(flipped), "train")
    clips.read(2, 0, 2 * SAMPLE_RATE)
    with pytest.raises(Damaged, match="hash mismatch"):
        clips.read(2)
    for place in (1, 3):
        np.testing.assert_array_equal(clips.read(place)["audio"], noise[1][place])
    path = info(str(flipped)).shard("train", 0)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(Damaged):
        Clips(str(flipped), "train").read(0)
    path.unlink()
    with pytest.raises(Damaged, match="missing"):
        Clips(str(flipped), "train").read(0)


def test_training_goes_on_without_a_damaged_clip_and_remembers_it(noise, flipped, tmp_path, caplog):
    run = tmp_path / "run"
    take = lambda folder, damages: list(
        itertools.islice(stream.batches(str(folder), "train", 4, seed=1, damages=damages), 6)
    )
    found, whole = take(flipped, Damages(run, most=1)), take(noise[0], None)
    assert sum("clip 2 of train" in record.message for record in caplog.records) == 1
    lost = 0
    for batch, other in zip(found, whole, strict=True):
        np.testing.assert_array_equal(batch["index"], other["index"])
        bad = batch["index"] == 2
        lost += bad.sum()
        assert not batch["valid_samples"][bad].any() and not batch["audio"][bad].any()
        for name in batch:
            np.testing.assert_array_equal(batch[name][~bad], other[name][~bad])
    assert lost == 4
    (line,) = (run / "damaged-0.jsonl").read_text().splitlines()
    assert json.loads(line)["clip"] == 2
    # Also where the disk reads it again, and in another process, the clip stays out.
    for batch in take(noise[0], Damages(run, most=1, process=1)):
        assert not batch["valid_samples"][batch["index"] == 2].any()


def test_too_many_damaged_clips_end_the_run_with_one_sentence(flipped, tmp_path):
    for damages, words in (
        (Damages(), "1 clips are damaged .*clip 2 of train.*validate"),
        (Damages(tmp_path / "run", most=0), "1 clips are damaged"),
    ):
        with pytest.raises(Refusal, match=words):
            list(itertools.islice(stream.batches(str(flipped), "train", 4, damages=damages), 9))
    info(str(flipped)).shard("train", 0).unlink()
    with pytest.raises(Refusal, match="most_damaged allows 2"):
        take = stream.batches(str(flipped), "train", 4, damages=Damages(tmp_path / "two", most=2))
        list(itertools.islice(take, 9))
    (tmp_path / "two" / "damaged-3.jsonl").write_text("{")
    with pytest.raises(Refusal, match=r"damaged-3\.jsonl is unreadable"):
        Damages(tmp_path / "two", most=2)


def test_mixtures_hold_exact_shares_of_each_data_set(noise, tmp_path):
    write(tmp_path / "other", first=100, count=2)
    folders, shares = [str(noise[0]), str(tmp_path / "other")], (3, 2)
    take = lambda **options: list(
        itertools.islice(stream.batches(folders, "train", 5, shares=shares, seed=2, **options), 12)
    )
    whole = take()
    orders = set()
    for batch in whole:
        assert (batch["index"] < COUNT).sum() == 3
        orders.add(tuple(batch["index"] < COUNT))
        for index, caption in zip(batch["index"], batch["caption"], strict=True):
            number = index if index < COUNT else index - COUNT + 100
            assert caption == f"noise {number}"
    assert len(orders) > 3
    seen = [int(index) for batch in whole for index in batch["index"] if index < COUNT]
    assert [sorted(seen[at : at + COUNT]) for at in range(0, 36, COUNT)] == [[*range(COUNT)]] * 6
    for batch, resumed in zip(whole[7:], take(start_step=7), strict=False):
        np.testing.assert_array_equal(batch["index"], resumed["index"])
    data = ShardData(",".join(folders), 5, seed=2, shares=shares)
    np.testing.assert_array_equal(next(data.batches(4))["index"], whole[4]["index"])
    assert sum(len(batch["index"]) for batch in data.sweep("train")) == COUNT + 2
    assert data.description["examples"] == {"train": COUNT + 2}
    assert data.captions() == sorted([f"noise {n}" for n in (*range(COUNT), 100, 101)])


def test_what_cannot_be_mixed_is_refused(noise, tmp_path):
    write(tmp_path / "short", samples=SAMPLES // 2)
    folders = [str(noise[0]), str(tmp_path / "short")]
    with pytest.raises(Refusal, match="another kind or length"):
        stream.batches(folders, "train", 4)
    for shares in ((1,), (1, 0), (1, 0.5)):
        with pytest.raises(Refusal, match="whole numbers of 1 or more"):
            stream.batches([folders[0]] * 2, "train", 4, shares=shares)


def test_a_pass_in_order_is_float_and_refuses_a_damaged_clip(noise, flipped):
    (batch, *_) = ShardData(str(noise[0]), 4, seed=0).sweep("train")
    np.testing.assert_array_equal(batch["audio"][0], noise[1][0] / np.float32(32767))
    with pytest.raises(Refusal, match="clip 2 of train"):
        list(ShardData(str(flipped), 4, seed=0).sweep("train"))
