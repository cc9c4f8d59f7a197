"""Preparing from and to a bucket; the stand-in of tests/bucket.py answers on loopback."""

import json
from types import SimpleNamespace

import pytest
import soundfile

from data_pipeline.latents import Encoder, encode
from data_pipeline.prepare import prepare
from jen1_jax.files import anywhere, listing
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SECONDS, tone

pytest.importorskip("gcsfs")
from tests.bucket import point_at, serve

OPTIONS = dict(seconds=SECONDS, test_fraction=0.3, jobs=1, progress=lambda text: None)
CAPTIONED = {"a b%.wav": "a tone", "in/c.flac": "another tone", "in/ü.wav": None, "d.mp3": None}


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    """The folder for temporary files."""
    import tempfile

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield tmp_path / "tmp"


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """A folder with some recordings, their sidecars, and files that are rejected."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "in").mkdir()
    for number, (name, caption) in enumerate(CAPTIONED.items()):
        audio = tone(0.5 + 0.2 * number, frequency=300 + 90 * number)
        soundfile.write(folder / name, audio, 48_000)
        if caption:
            (folder / name).with_suffix(".txt").write_text(caption)
    (folder / "d.json").write_text('{"captions": ["one", "two"], "artist": "Ann"}')
    (folder / "in" / "broken.ogg").write_bytes(b"OggS" + bytes(99))
    soundfile.write(folder / "huge.wav", tone(0.5, frequency=900), 48_000)
    (folder / "huge.txt").write_bytes(bytes(300_000))
    (folder / "no.m4a").touch()
    (folder / ".hidden.wav").touch()
    lines = [{"path": name, "captions": [name, "tone"]} for name in [*CAPTIONED, "none.wav"]]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def bucket(music, monkeypatch):
    """A store with the folder "music" in the bucket "bucket"."""
    with serve() as (address, store):
        fill(store, music)
        point_at(address, monkeypatch)
        yield store


def fill(store, music):
    for name, _ in listing(music):
        store.put("bucket", f"music/{name}", (music / name).read_bytes())


def written(store):
    """The contents of the files under "out" by name, without the reports, which name folders."""
    files = {name: content for (_, name), (content, _) in store.objects.items()}
    chosen = {name.removeprefix("out/"): files[name] for name in files if name.startswith("out/")}
    return {name: content for name, content in chosen.items() if "report" not in name}


@pytest.mark.parametrize("name, failing", [("", 0), ("/list.jsonl", 10)])
def test_the_records_are_those_of_a_local_folder(name, failing, bucket, music, tmp_path, temporary):
    """Also if every tenth request fails."""
    bucket.failing = failing
    report = prepare(f"gs://bucket/music{name}", "gs://bucket/out", **OPTIONS)
    local = prepare(f"{music}{name}", str(tmp_path / "local"), **OPTIONS)
    assert report.accepted == local.accepted == 4
    assert report.rejected == local.rejected
    files = written(bucket)
    for each, _ in listing(tmp_path / "local"):
        if "report" not in each and each != "dataset_info.json":  # it names its source
            assert files[each] == (tmp_path / "local" / each).read_bytes(), each
    assert list(bucket.objects)[-1] == ("bucket", "out/dataset_info.json")
    assert not list(temporary.iterdir())
    assert bucket.failed > 0 or not failing


def test_one_object_that_cannot_be_read_is_rejected(bucket, tmp_path, temporary):
    bucket.forbidden = {"music/in/c.flac"}
    prepare("gs://bucket/music", str(tmp_path / "out"), **OPTIONS)
    rejections = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    (found,) = (each for each in rejections if each["reason"] == "unreadable")
    assert found["id"] == "in/c.flac" and "Forbidden" in found["detail"]
    assert not list(temporary.iterdir())


def test_a_store_that_is_gone_stops_the_command_and_the_same_command_goes_on(
    bucket, tmp_path, temporary, monkeypatch
):
    from data_pipeline import units

    bucket.failing = 1
    with pytest.raises(Refusal, match=r"did not do .* gs://bucket/music.*nothing was written"):
        prepare("gs://bucket/music", str(tmp_path / "out"), **OPTIONS)
    bucket.failing = 0
    recording, decoded = units._recording, []

    def stops(plan, item, *rest):
        bucket.failing = int(len(decoded) == 3)
        decoded.append(item.id)
        return recording(plan, item, *rest)

    monkeypatch.setattr(units, "_recording", stops)
    with pytest.raises(Refusal, match=r"gs://bucket/music.*; gs://bucket/out is not written"):
        prepare("gs://bucket/music", "gs://bucket/out", **OPTIONS)
    assert not written(bucket)
    bucket.failing = 0
    monkeypatch.setattr(units, "_recording", recording)
    assert prepare("gs://bucket/music", "gs://bucket/out", **OPTIONS).accepted == 4


def test_an_upload_that_fails_is_done_again_without_decoding(bucket, temporary, monkeypatch):
    def fails(*arguments, **options):
        bucket.failing = 1

    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.prepare.shutil", SimpleNamespace(rmtree=fails))
        with pytest.raises(Refusal, match=r"did not do .* for gs://bucket/out"):
            prepare("gs://bucket/music", "gs://bucket/out", **OPTIONS)
    bucket.failing = 0
    monkeypatch.setattr("data_pipeline.units.cut", None)
    prepare("gs://bucket/music", "gs://bucket/out", **OPTIONS)
    assert "dataset_info.json" in written(bucket) and not list(temporary.iterdir())
    with pytest.raises(Refusal, match="gs://bucket/out already exists"):
        prepare("gs://bucket/music", "gs://bucket/out", **OPTIONS)


def test_a_manifest_names_paths_anywhere(bucket, music, tmp_path):
    paths = ["gs://bucket/music/d.mp3", "gs://bucket/none.wav", "../d.mp3", "s3://bucket/d.mp3"]
    text = "\n".join(["path", *paths, str(music / "in" / "c.flac")])
    bucket.put("bucket", "music/list.csv", text.encode())
    (tmp_path / "list.csv").write_text(text)
    bucket.put("bucket", "d.mp3", b"outside")
    for number, folder in enumerate(("gs://bucket/music", tmp_path)):
        report = prepare(f"{folder}/list.csv", str(tmp_path / str(number)), **OPTIONS)
        assert report.accepted == 2
        assert report.rejected == {"missing": 2, "unreadable": 1}


def test_what_is_read_from_local_folders_alone_is_refused(bucket, tmp_path):
    bucket.put("bucket", "fma/fma_metadata/tracks.csv", b"")
    bucket.put("bucket", "tfds/dataset_info.json", b"")
    bucket.put("bucket", "scores/a.mid", b"")
    bucket.put("bucket", "scores/a.tar", b"")
    for source in ("fma", "tfds", "shards-{00..10}.tar"):
        with pytest.raises(Refusal, match=r"is in a bucket, .* mount the bucket or copy it"):
            prepare(f"gs://bucket/{source}", str(tmp_path / "out"), **OPTIONS)
    with pytest.raises(Refusal, match=r"a\.mid: in a bucket; a\.tar: in a bucket"):
        prepare("gs://bucket/scores", str(tmp_path / "out"), **OPTIONS)
    with pytest.raises(Refusal, match="There is no gs://bucket/none"):
        prepare("gs://bucket/none", str(tmp_path / "out"), **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


def test_latents_are_written_into_a_bucket(bucket, music, tmp_path, temporary, monkeypatch):
    prepare(str(music), str(tmp_path / "data"), **OPTIONS)
    encoder = Encoder(
        lambda audio, valid: audio[:, ::1000, :1], {"autoencoder": "a"}, k=1, hop=1000
    )
    encode(str(tmp_path / "data"), str(tmp_path / "local"), encoder, progress=str)

    def fails(text):
        bucket.failing = int("1/1 units" in text)

    with pytest.raises(Refusal, match="nothing was written"):
        encode(str(tmp_path / "data"), "gs://bucket/out", encoder, progress=fails)
    bucket.failing = 10
    monkeypatch.setattr("data_pipeline.latents.encode_unit", None)  # it is not done again
    assert encode(str(tmp_path / "data"), "gs://bucket/out", encoder, progress=str)
    for each, _ in listing(tmp_path / "local"):
        assert written(bucket)[each] == (tmp_path / "local" / each).read_bytes(), each
    assert not list(temporary.iterdir())


def test_a_listing_has_many_pages_and_is_not_cut_short(bucket, monkeypatch):
    monkeypatch.setattr("jen1_jax.files.PAGE", 2)
    found = [name for name, _ in listing(anywhere("gs://bucket/music"))]
    assert found == sorted(name.split("/", 1)[1] for _, name in bucket.objects)
