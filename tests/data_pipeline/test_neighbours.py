"""Batches of whole waveforms with the audio around each clip in its piece."""

import itertools

import numpy as np
import pytest
import soundfile

from data_pipeline import stream
from data_pipeline.layout import adjoining
from data_pipeline.prepare import prepare
from data_pipeline.reading import Clips
from data_pipeline.shard_data import ShardData
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, SECONDS

AROUND = 9000
NAMES = {"before", "after", "before_samples", "after_samples"}
LENGTHS = {"three": 3.0, "padded": 2.6, "gap": 3.0, "single": 1.0}  # in clips


@pytest.fixture(scope="module")
def pieces():
    """Noise by file name; the second of the three clips of "gap" is silent."""
    rng = np.random.default_rng(0)
    audio = {
        name: rng.uniform(-0.5, 0.5, (round(clips * SAMPLES), 2)).astype(np.float32)
        for name, clips in LENGTHS.items()
    }
    audio["gap"][SAMPLES : 2 * SAMPLES] = 0
    return audio


@pytest.fixture(scope="module")
def data(pieces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    for name, audio in pieces.items():
        soundfile.write(folder / f"{name}.wav", audio, 48_000, subtype="FLOAT")
    prepare(str(folder), str(folder / "out"), seconds=SECONDS, test_fraction=0)
    return str(folder / "out")


@pytest.fixture(scope="module")
def clips(data):
    """The rows of a pass over the data set, by file name and number of the clip in the file."""
    stored = Clips(data, "train")
    found = {}
    for batch in stream.batches(data, "train", 4, shuffle=False, epochs=1, around=AROUND):
        for place, index in enumerate(batch["index"]):
            name, start = stored.read(int(index))["id"].split(".wav@")
            key = (name, round(float(start) / SECONDS))
            found[key] = {field: values[place] for field, values in batch.items()}
    return found


def test_every_clip_comes_with_the_true_audio_around_it(pieces, clips):
    assert len(clips) == 3 + 3 + 2 + 1
    for (name, number), clip in clips.items():
        padded = np.pad(pieces[name], ((AROUND, SAMPLES + AROUND), (0, 0)))
        first = AROUND + number * SAMPLES
        for field, start in (("before", first - AROUND), ("after", first + SAMPLES)):
            assert clip[field].shape == (AROUND, 2) and clip[field].dtype == np.int16
            expected = padded[start : start + AROUND] * (clip[f"{field}_samples"] > 0)
            np.testing.assert_allclose(clip[field] / 32767, expected, atol=1e-4)


def test_the_ends_of_a_piece_and_a_dropped_clip_are_edges(clips):
    found = {key: (clip["before_samples"], clip["after_samples"]) for key, clip in clips.items()}
    three = [(0, AROUND), (AROUND, AROUND), (AROUND, 0)]
    assert [found["three", number] for number in range(3)] == three
    end = min(round(0.6 * SAMPLES), AROUND)  # of the last clip of "padded", which is shorter
    assert [found["padded", number] for number in range(3)] == [three[0], (AROUND, end), three[2]]
    assert found["gap", 0] == found["gap", 2] == found["single", 0] == (0, 0)
    for clip in clips.values():
        assert clip["before_samples"] or not clip["before"].any()
        assert not clip["after"][clip["after_samples"] :].any()


def test_clips_of_one_file_adjoin_only_in_the_order_of_time():
    ids = [b"a.wav@0.000", b"a.wav@0.250", b"a.wav@0.750", b"b@.wav@1.000", b"b@.wav@1.250"]
    starts = np.array([0.0, 0.25, 0.75, 1.0, 1.25], np.float32)
    assert adjoining(ids, starts, 0.25).tolist() == [True, False, False, True]
    assert not adjoining(ids[:1] * 2, starts[:1].repeat(2), 0.25).any()
    assert not adjoining(ids[1::-1], starts[1::-1], 0.25).any()


def take(count, data, **options):
    return list(itertools.islice(stream.batches(data, "train", 4, seed=3, **options), count))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_restart_continues_exactly_and_processes_share_the_batches(data):
    whole = take(6, data, around=AROUND)
    assert whole[0].keys() >= NAMES
    assert sum((batch["before_samples"] > 0).sum() for batch in whole) > 4
    (resumed,) = take(1, data, around=AROUND, start_step=5)
    assert_same(whole[5], resumed)
    shares = [take(6, data, around=AROUND, rows=rows) for rows in ((0, 1), (2, 3))]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert_same(batch, {n: np.concatenate([part[n] for part in parts]) for n in batch})


def test_a_limit_on_the_records_does_not_hide_neighbours(data, clips):
    (batch,) = take(1, data, around=AROUND, shuffle=False, epochs=1, limit=4)
    by_index = {int(clip["index"]): clip for clip in clips.values()}
    assert batch["index"].tolist() == [0, 2, 4, 6]
    for place, index in enumerate(batch["index"]):
        for name in NAMES:
            np.testing.assert_array_equal(batch[name][place], by_index[int(index)][name])


def test_windows_and_batches_without_around_have_no_neighbours(data):
    for options in (dict(), dict(crop=5000, around=AROUND)):
        (batch,) = take(1, data, **options)
        assert not batch.keys() & NAMES


def test_more_than_a_clip_around_is_refused(data):
    with pytest.raises(Refusal, match=f"{SAMPLES + 1} samples around clips of {SAMPLES}"):
        take(1, data, around=SAMPLES + 1)
    (batch,) = take(1, data, around=SAMPLES)
    assert batch["after"].shape == (4, SAMPLES, 2)


def test_shard_data_passes_around_on(data):
    shards = ShardData(data, 4, seed=3)
    assert_same(next(shards.batches(2, around=AROUND)), take(3, data, around=AROUND)[2])
    for batch in shards.sweep("train", around=AROUND):
        assert batch["before"].shape == batch["after"].shape == (len(batch["index"]), AROUND, 2)
