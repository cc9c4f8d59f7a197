"""An existing TFDS data set as a source."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from data_pipeline._tf import tfds
from data_pipeline.prepare import prepare
from data_pipeline.sources import open_source
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import recordings, tone

FEATURES = {
    "audio": tfds.features.Audio(sample_rate=16_000),
    "caption": tfds.features.Text(),
    "text": tfds.features.Sequence(tfds.features.Text()),
    "genre": tfds.features.ClassLabel(names=["folk", "rock"]),
    "tempo": tfds.features.Scalar(np.float32),
    "inner": {"id": tfds.features.Scalar(np.int64)},
    "embedding": tfds.features.Tensor(shape=(3,), dtype=np.float32),
}


def written(folder, features, splits, file_format="array_record"):
    """A data set of these features; `splits` holds the examples of each split."""
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="songs",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: list(enumerate(examples)) for split, examples in splits.items()},
        data_dir=str(folder),
        file_format=file_format,
        disable_shuffling=True,
    )
    return Path(builder.data_path)


def example(number, **more):
    audio = (tone(0.3, 16_000, 300 + number, channels=1)[:, 0] * 32767).astype(np.int64)
    said = dict(caption=f"song {number}", text=["one", "two"], genre=number % 2, tempo=60.5)
    return dict(audio=audio, inner={"id": number}, embedding=[0, 1, 2]) | said | more


def opening(folder):
    return open_source(str(folder), clips=1, seconds=1, seed=0)


def found(folder):
    return {recording.id: recording for recording in recordings(opening(folder))}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_examples_are_recordings_with_captions_metadata_and_splits(tmp_path, file_format):
    splits = {
        "train": [example(number) for number in range(3)],
        "test": [example(3, genre=-1, tempo=np.nan, text=[])],
        "extra": [example(4)],
    }
    folder = written(tmp_path, FEATURES, splits, file_format)
    got = found(folder)
    assert set(got) == {"train/0", "train/1", "train/2", "test/0", "extra/0"}
    assert [got[id].split for id in ("train/0", "test/0", "extra/0")] == ["train", "test", None]
    said = [got[f"train/{index}"].about(0, 1) for index in range(3)]
    assert {about.captions for about in said} == {(f"song {n}", "one", "two") for n in range(3)}
    assert all(about.meta["tempo"] == 60.5 for about in said)
    assert sorted(about.meta["genre"] for about in said) == ["folk", "folk", "rock"]
    assert got["test/0"].about(0, 1).meta == {}
    audio = got["test/0"].audio()
    assert audio.shape == (14_400, 2) and audio.dtype == np.float32
    expected = tone(0.3, 48_000, 303)[:, 0]
    np.testing.assert_allclose(audio[1000:-1000, 0], expected[1000:-1000], atol=2e-3)
    assert got["train/0"].digest != got["train/1"].digest
    again = pickle.loads(pickle.dumps(opening(folder)))
    assert list(again.entries()) == list(opening(folder).entries())
    report = prepare(str(folder), str(tmp_path / "out"), seconds=0.25)
    assert report.clips == {"train": 4, "test": 1}


def test_a_data_set_with_a_split_alone_leaves_the_choice(tmp_path):
    features = {"waveform": tfds.features.Tensor(shape=(None, 2), dtype=np.float32)}
    features["sample_rate"] = tfds.features.Scalar(np.int32)
    loud = dict(waveform=np.float32([[np.nan, 0]]), sample_rate=48_000)
    good = dict(waveform=tone(0.1).astype(np.float32), sample_rate=48_000)
    none = dict(waveform=tone(0.1).astype(np.float32), sample_rate=0)
    got = found(written(tmp_path, features, {"train": [loud, good, none]}))
    (good,) = [item for item in got.values() if hasattr(item, "audio")]
    assert good.split is None
    np.testing.assert_array_equal(good.audio(), tone(0.1).astype(np.float32))
    reasons = sorted(each.reason for each in got.values() if each is not good)
    assert reasons == ["NaN or Inf", "absurd sample rate"]


def test_no_code_is_run_that_a_data_set_names(tmp_path):
    folder = written(tmp_path, FEATURES, {"train": [example(0)]})
    path = folder / "features.json"
    features = json.loads(path.read_text())
    inner = features["featuresDict"]["features"]["inner"]["featuresDict"]["features"]
    inner["id"]["pythonClassName"] = "antigravity.Feature"
    path.write_text(json.dumps(features))
    with pytest.raises(Refusal, match=r"antigravity\.Feature is not one of TFDS's own"):
        list(opening(folder).entries())


def test_data_sets_without_audio_damaged_ones_and_prepared_ones_are_refused(tmp_path, shards):
    folder = written(tmp_path, {"caption": tfds.features.Text()}, {"train": [{"caption": "a"}]})
    with pytest.raises(Refusal, match="no feature with audio; its features are caption"):
        list(opening(folder).entries())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "dataset_info.json").write_text("{")
    with pytest.raises(Refusal, match="Cannot read"):
        list(opening(tmp_path / "bad").entries())
    with pytest.raises(Refusal, match="is a prepared data set"):
        list(opening(shards).entries())
