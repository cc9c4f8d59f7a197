import pytest

from data_pipeline import stream
from data_pipeline.latents import encode
from data_pipeline.prepare import prepare
from data_pipeline.shard_data import ShardData
from data_pipeline.validate import validate
from jen1_jax.errors import Refusal

URL = "gs://bucket/data"


@pytest.mark.parametrize(
    "read_or_write",
    [
        lambda data, out: prepare(URL, out),
        lambda data, out: prepare("synthetic", URL, clips=1),
        lambda data, out: encode(URL, out, None, {}, k=1, hop=1),
        lambda data, out: encode(data, URL, None, {}, k=1, hop=1),
        lambda data, out: validate(URL),
        lambda data, out: stream.batches(URL, "train", 1),
        lambda data, out: stream.captions(URL, "train"),
        lambda data, out: ShardData(URL, 1, seed=0),
    ],
)
def test_a_url_is_refused(read_or_write, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match=rf"{URL} is a URL \(gs:\)"):
        read_or_write(shards, str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())
