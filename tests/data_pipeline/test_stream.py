import itertools
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from data_pipeline import stream
from data_pipeline.prepare import prepare
from data_pipeline.shard_data import ShardData
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, WORDS


def take(count, *arguments, **keywords):
    return list(itertools.islice(stream.batches(*arguments, **keywords), count))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_info_and_captions(shards):
    about = stream.info(shards)
    assert (about.kind, about.shape, about.seconds, about.fingerprint) == (
        "waveform",
        (SAMPLES, 2),
        0.25,
        None,
    )
    both = stream.captions(shards, "train") + stream.captions(shards, "test")
    assert sorted(both) == [f"tone number {i}" for i in range(8)]


def test_batches_carry_the_records(shards):
    (batch,) = take(1, shards, "train", 3, shuffle=False)
    assert batch["audio"].shape == (3, SAMPLES, 2) and batch["audio"].dtype == np.int16
    assert batch["valid_samples"].dtype == np.int32 and batch["caption"].dtype == object
    np.testing.assert_array_equal(batch["index"], [0, 1, 2])
    assert all(isinstance(c, str) and c.startswith("tone number") for c in batch["caption"])
    np.testing.assert_allclose(np.abs(batch["audio"]).max((1, 2)) / 32767, 0.5, atol=0.01)


def test_clips_come_with_their_start_and_the_length_of_their_recording(shards):
    """Recording i lasts 0.6 + 0.1 i seconds; random windows come without these values."""
    seen = []
    for split in ("train", "test"):
        for batch in stream.batches(shards, split, 4, shuffle=False, epochs=1):
            numbers = np.array([int(caption[-1]) for caption in batch["caption"]])
            np.testing.assert_allclose(batch["total"], 0.6 + 0.1 * numbers, rtol=1e-5)
            assert batch["start"].dtype == batch["total"].dtype == np.float32
            seen += zip(numbers.tolist(), np.round(batch["start"] / 0.25, 5).tolist(), strict=True)
    assert sorted(seen) == [
        (number, clip) for number in range(8) for clip in range(clips(0.6 + 0.1 * number))
    ]
    (windows,) = take(1, shards, "train", 3, crop=5000)
    assert not windows.keys() & {"start", "total"}
    assert [
        "start" in ShardData(shards, 3, seed=0, crop=crop).description["fields"]
        for crop in (None, 5000)
    ] == [True, False]


def clips(seconds):
    """The number of clips of 0.25 s in a recording; a last piece of half a clip is kept."""
    return int((seconds + 0.125) / 0.25 + 1e-6)


def test_restart_at_any_step_continues_exactly(shards):
    whole = take(12, shards, "train", 4, seed=3, crop=5000)  # runs over the end of the epoch
    assert 2 * stream.info(shards).examples["train"] < 12 * 4
    for step in (1, 5, 11):
        (resumed,) = take(1, shards, "train", 4, seed=3, crop=5000, start_step=step)
        assert_same(whole[step], resumed)


@pytest.mark.parametrize("rows", [(0, 1), (1, 3), (2,)])
def test_a_process_gets_its_rows_of_the_same_batches(shards, rows):
    whole = take(4, shards, "train", 4, seed=1, crop=4000)
    part = take(4, shards, "train", 4, seed=1, crop=4000, rows=rows)
    for batch, own in zip(whole, part, strict=True):
        assert_same(own, {name: array[list(rows)] for name, array in batch.items()})


def test_the_shares_of_a_pass_are_its_whole_and_a_limit_spreads_it(shards):
    data = ShardData(shards, 4, seed=0)
    places = lambda **options: [
        place for batch in data.sweep("train", **options) for place in batch["index"].tolist()
    ]
    whole = places()
    assert whole == list(range(stream.info(shards).examples["train"]))
    assert sorted(places(share=(0, 3)) + places(share=(1, 3)) + places(share=(2, 3))) == whole
    some = places(limit=3)
    assert some == whole[:: len(whole) // 3][:3]
    assert sorted(places(limit=3, share=(0, 2)) + places(limit=3, share=(1, 2))) == some


def test_each_epoch_is_another_permutation(shards):
    size = stream.info(shards).examples["train"]
    first, second = (batch["index"] for batch in take(2, shards, "train", size, seed=0))
    assert sorted(first) == sorted(second) == list(range(size))
    assert first.tolist() != second.tolist() and first.tolist() != sorted(first)
    (other,) = take(1, shards, "train", size, seed=1)
    assert other["index"].tolist() != first.tolist()


def test_one_ordered_epoch_ends_with_the_remaining_records(shards):
    size = stream.info(shards).examples["train"]
    found = list(stream.batches(shards, "train", 5, shuffle=False, epochs=1))
    np.testing.assert_array_equal(
        np.concatenate([batch["index"] for batch in found]), np.arange(size)
    )
    assert len(found[-1]["index"]) == size % 5 or 5


def test_windows_lie_inside_the_valid_part_and_move(tmp_path):
    """Each clip is a ramp over its valid part, so that values give the window's place."""
    valid = 9600
    ramp = np.linspace(0.1, 0.9, valid)
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", np.stack([ramp, ramp * (0.5 + 0.1 * i)], -1), 48_000)
    prepare(str(tmp_path), str(tmp_path / "out"), seconds=0.25, test_fraction=0)
    starts = []
    for batch in take(30, str(tmp_path / "out"), "train", 2, crop=3000):
        np.testing.assert_array_equal(batch["valid_samples"], 3000)
        for audio in batch["audio"][:, :, 0] / 32767:
            start = (audio[0] - 0.1) / 0.8 * (valid - 1)
            np.testing.assert_allclose(
                audio, 0.1 + 0.8 * (start + np.arange(3000)) / (valid - 1), atol=1e-3
            )
            starts.append(start)
    assert min(starts) < 1000 and max(starts) > valid - 3000 - 1000 and len(set(starts)) > 50
    (longer,) = take(1, str(tmp_path / "out"), "train", 2, crop=11_000)
    np.testing.assert_array_equal(longer["valid_samples"], valid)
    np.testing.assert_allclose(longer["audio"][:, 0, 0] / 32767, 0.1, atol=1e-3)


def test_each_epoch_takes_any_one_of_a_clips_captions(worded):
    said = lambda batches: [batch["caption"].tolist() for batch in batches]
    whole = take(25, worded, "train", 16, seed=3)
    drawn = [caption for captions in said(whole) for caption in captions]
    expected = {"fast drums": 200} | dict.fromkeys(WORDS["many.wav"], 200 / 3)
    assert set(drawn) == set(expected)
    for caption, count in expected.items():
        assert drawn.count(caption) == pytest.approx(count, abs=25)  # 3.7 standard deviations
    (resumed,) = take(1, worded, "train", 16, seed=3, start_step=20)
    assert_same(whole[20], resumed)
    halves = range(8), range(8, 16)
    shares = [take(25, worded, "train", 16, seed=3, rows=rows) for rows in halves]
    parts = zip(*map(said, shares), strict=True)
    assert said(whole) == [first + second for first, second in parts]
    assert said(take(25, worded, "train", 16, seed=4)) != said(whole)


def test_reading_in_order_takes_first_captions_and_all_are_listed(worded):
    (batch,) = stream.batches(worded, "train", 2, shuffle=False, epochs=1)
    assert set(batch["caption"]) == {captions[0] for captions in WORDS.values()}
    assert stream.captions(worded, "train") == sorted(sum(WORDS.values(), ()))


def test_unsuitable_sizes_and_absent_data_are_refused_at_once(shards):
    for options, words in (
        (dict(batch_size=0), "at least 1 row"),
        (dict(crop=SAMPLES + 1), "crop"),
    ):
        with pytest.raises(Refusal, match=words):
            stream.batches(shards, "train", **{"batch_size": 4, **options})
    with pytest.raises(Refusal, match="no split"):
        stream.batches(shards, "validation", 4)
    with pytest.raises(Refusal, match="not a prepared data set"):
        stream.batches(shards + "/nowhere", "train", 4)


@pytest.mark.slow
def test_a_program_that_stops_reading_midway_ends(shards):
    code = (
        "import sys; from data_pipeline import stream; "
        "batches = stream.batches(sys.argv[1], 'train', 4); next(batches)"
    )
    assert subprocess.run([sys.executable, "-c", code, shards], timeout=120).returncode == 0
