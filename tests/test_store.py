"""Files in an object store: a stand-in for Google Cloud Storage answers on loopback."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from jen1_jax.files import anywhere, fetched, listing, upload, whole_file, whole_folder, write_text
from jen1_jax.models.checkpoints import Checkpoints
from jen1_jax.models.run import Run
from jen1_numpy.errors import Refusal
from tests import tiny

pytest.importorskip("gcsfs")
from tests.bucket import point_at, serve


@pytest.fixture(params=[0, 10], ids=["healthy", "every tenth request fails"])
def objects(request, monkeypatch):
    """The objects of a store by their path in the bucket "bucket"."""
    with serve(request.param) as (address, store):
        point_at(address, monkeypatch)
        yield store


@pytest.mark.parametrize("url", ["s3://bucket/run", "http://host/run", "gcs://bucket/run"])
def test_unknown_schemes_are_refused(url):
    with pytest.raises(Refusal, match=f"{url} is a URL"):
        anywhere(url)


def test_without_gcsfs_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(Refusal, match="jen1-jax\\[gcs\\]"):
        anywhere("gs://bucket/run")
    assert anywhere("/tmp/run") == Path("/tmp/run")


def test_what_is_written_is_listed_and_read(objects, tmp_path):
    folder = anywhere("gs://bucket/data")
    for name in ("b.txt", "a.txt", "c/d.txt"):
        write_text(folder / name, name)
    write_text(folder / "a.txt", "again")
    assert dict(listing(folder)) == {"a.txt": 5, "b.txt": 5, "c/d.txt": 7}
    assert (folder / "a.txt").read_text() == "again" and (folder / "c").is_dir()
    assert (folder / "b.txt").is_file() and not (folder / "e.txt").exists()
    with fetched(folder / "c") as copy:
        assert (copy / "d.txt").read_text() == "c/d.txt"
    assert not copy.exists()
    with pytest.raises(FileNotFoundError), fetched(folder / "none"):
        pass
    assert objects.failed > 0 or not objects.failing


def test_an_error_while_writing_uploads_nothing(objects):
    with pytest.raises(KeyError), whole_file("gs://bucket/a.txt") as partial:
        partial.write_text("half")
        raise KeyError
    assert not objects.objects


def test_an_upload_repeats_itself_but_replaces_nothing(objects, tmp_path):
    (tmp_path / "ours").write_bytes(b"ours")
    (tmp_path / "theirs").write_bytes(b"theirs")
    target = anywhere("gs://bucket/shard")
    upload(tmp_path / "ours", target)
    upload(tmp_path / "ours", target)
    with pytest.raises(FileExistsError, match="another content"):
        upload(tmp_path / "theirs", target)
    assert target.read_bytes() == b"ours"


def test_a_folder_gets_its_record_last_and_goes_on_after_an_interruption(monkeypatch):
    with serve() as (address, store):
        point_at(address, monkeypatch)
        with pytest.raises(KeyboardInterrupt), whole_folder("gs://bucket/out", "key") as folder:
            (folder / "config.json").write_text("record")
            raise KeyboardInterrupt
        assert not store.objects
        with whole_folder("gs://bucket/out", "key") as folder:
            (folder / "z").mkdir()
            (folder / "z" / "data").write_text("data")
        assert [name for _, name in store.objects] == ["out/z/data", "out/config.json"]
        assert not folder.exists()
        with pytest.raises(Refusal, match="already exists"), whole_folder("gs://bucket/out"):
            pass
        store.put("bucket", "other/a", b"theirs")
        with (
            pytest.raises(Refusal, match="Another command"),
            whole_folder("gs://bucket/other") as f,
        ):
            (f / "a").write_text("ours")


def test_a_store_that_always_fails_ends_with_one_sentence(monkeypatch, tmp_path):
    with serve(failing=1) as (address, _):
        point_at(address, monkeypatch)
        (tmp_path / "a").write_bytes(b"a")
        with pytest.raises(OSError, match="did not do what was asked for gs://bucket/a"):
            upload(tmp_path / "a", anywhere("gs://bucket/a"))


@pytest.mark.slow
@pytest.mark.parametrize("objects", [50], indirect=True)
def test_checkpoints_and_the_record_of_a_run_lie_in_a_bucket(objects):
    run = Run(anywhere("gs://bucket/run"))
    run.write(tiny.config(), {"autoencoder": "abc"})
    assert Run.open("gs://bucket/run").record["fingerprints"] == {"autoencoder": "abc"}
    folder = run.path / "diffusion" / "checkpoints"
    state = lambda step: {"ema": {"net": {"w": jnp.full((8, 4), float(step))}}}
    device = SingleDeviceSharding(jax.devices()[0])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
    checkpoints = Checkpoints(folder, keep=1)
    for step in (1, 2):
        checkpoints.save(step, state(step), {"step": step})
    checkpoints.close()
    again = Checkpoints(folder, keep=1)
    found, record = again.restore(jax.tree.map(place, state(0)))
    again.close()
    np.testing.assert_array_equal(found["ema"]["net"]["w"], 2.0)
    assert record["step"] == 2 and not any("/checkpoints/1/" in name for _, name in objects.objects)
