import json
import shutil

import pytest

from data_pipeline import layout as store
from data_pipeline import stream
from data_pipeline.latents import Encoder, encode
from data_pipeline.prepare import prepare
from data_pipeline.shard_data import ShardData
from data_pipeline.validate import validate
from jen1_numpy.errors import Refusal

URL = "s3://bucket/data"
ENCODER = Encoder(lambda audio, valid: audio, {}, k=1, hop=1)


@pytest.mark.parametrize(
    "read_or_write",
    [
        lambda data, out: prepare(URL, out),
        lambda data, out: prepare("synthetic", URL, clips=1),
        lambda data, out: encode(URL, out, ENCODER),
        lambda data, out: encode(data, URL, ENCODER),
        lambda data, out: validate(URL),
        lambda data, out: stream.batches(URL, "train", 1),
        lambda data, out: stream.captions(URL, "train"),
        lambda data, out: ShardData(URL, 1, seed=0),
    ],
)
def test_a_url_is_refused(read_or_write, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=rf"{URL} is a URL \(s3:\)"):
        read_or_write(shards, str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "read",
    [
        validate,
        lambda data: stream.batches(data, "train", 1),
        lambda data: ShardData(data, 1, seed=0),
        lambda data: encode(data, "out", ENCODER),
    ],
)
def test_a_data_set_in_a_bucket_is_not_read(read):
    with pytest.raises(Refusal, match=r"gs://bucket/data is in a bucket, .*gcsfuse"):
        read("gs://bucket/data")


def test_a_data_set_of_another_major_version_is_refused(shards, tmp_path):
    def with_version(version):
        folder = tmp_path / version
        shutil.copytree(shards, folder)
        info = json.loads((folder / "dataset_info.json").read_text())
        assert info["version"] == store.VERSION
        (folder / "dataset_info.json").write_text(json.dumps(info | {"version": version}))
        return str(folder)

    major, minor, patch = map(int, store.VERSION.split("."))
    newer = with_version(f"{major + 1}.0.0")
    for read in (store.info, validate, lambda folder: stream.batches(folder, "train", 1)):
        with pytest.raises(Refusal, match=rf"version {major + 1}\.0\.0, and .* prepare it again"):
            read(newer)
    assert store.info(with_version(f"{major}.{minor + 1}.{patch}")).examples
