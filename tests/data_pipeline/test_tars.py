"""Tars as WebDataset writes them; what is damaged in them is one rejection."""

import io
import random
import tarfile

import pytest
import soundfile

from data_pipeline.sources import Item, Rejection, Section, open_source, tars
from data_pipeline.sources.sections import opened
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import recordings, tone


def opening(source):
    return open_source(str(source), clips=1, seconds=1, seed=0)


def found(source):
    return {recording.id: recording for recording in recordings(opening(source))}


def sound(number=0):
    soundfile.write(file := io.BytesIO(), tone(0.1, frequency=300 + number), 48_000, format="FLAC")
    return file.getvalue()


def write(path, **members):
    """A tar of the members that the keywords name, with __ for the dot and $ for the slash."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        content = sound(number)
        write(
            tmp_path / f"shard-{number:03d}.tar",
            a__flac=content,
            a__json=b'{"title": "A", "split": "test"}',
            a__txt=b"a caption",
            **{"deep/b.c__txt": b"another", "deep/b.c__FLAC": content},
            a__npy=b"not read",
            c__m4a=b"not read",
            **{"._d__flac": b"not read"},
        )
    return tmp_path


@pytest.mark.parametrize(
    "pattern", ["", "shard-*.tar", "shard-{000..002}.tar", "shard-00{0..2}.tar"]
)
def test_a_tar_has_recordings_with_their_captions(shards, pattern):
    got = found(shards / pattern)
    assert len(got) == 9
    for number in range(3):
        name = f"shard-{number:03d}.tar"
        first, second = got[f"{name}/a.flac"], got[f"{name}/deep/b.c.FLAC"]
        with opened(first.audio) as file, opened(second.audio) as other:
            assert file.read() == other.read() == sound(number)
        assert first.audio.path == shards / name and first.split == "test"
        assert first.about(0, 1).captions == ("a caption",)
        assert first.about(0, 1).meta == {"title": "A"}
        assert second.about(0, 1).captions == ("another",) and second.about(0, 1).meta == {}
        assert got[f"{name}/c.m4a"].reason == "unsupported format"


def test_a_range_counts_the_tars_that_are_missing(shards):
    got = found(shards / "shard-{000..004}.tar")
    assert [id for id in got if got[id] == Rejection(id, "missing")] == [
        "shard-003.tar",
        "shard-004.tar",
    ]


def test_tars_of_several_folders_have_different_ids(shards):
    for name in ("x", "y"):
        (shards / name).mkdir()
        write(shards / name / "one.tar", a__wav=b"")
    assert set(found(shards / "?" / "*.tar")) == {"x/one.tar/a.wav", "y/one.tar/a.wav"}


def test_compressed_tars_and_other_files_are_refused(shards):
    (shards / "a.tar.gz").touch()
    with pytest.raises(Refusal, match=r"a\.tar\.gz is compressed; .* gunzip"):
        opening(shards / "a.tar.gz")
    for absent in ("absent.tar", "absent-*.tar", "absent-{0..3}.tar"):
        with pytest.raises(Refusal, match="There is no"):
            opening(shards / absent)
    for wide in ("s-{0..9999999}.tar", "s-{3..1}.tar"):
        with pytest.raises(Refusal, match="is no range"):
            opening(shards / wide)
    assert found(shards)["a.tar.gz"].reason == "compressed tar"


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "device", "sparse"])
def test_members_that_are_no_regular_files_are_rejected(tmp_path, kind):
    types = dict(zip(["symbolic link", "hard link", "pipe", "device"], "2163", strict=True))
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("../../etc/bad.wav")
        info.type, info.linkname = types.get(kind, "S").encode(), "/etc/passwd"
        tar.addfile(info)
        tar.addfile(tarfile.TarInfo("/good.wav"))
    bad, good = recordings(opening(path))[:2]
    assert (bad.id, bad.reason) == ("a.tar/../../etc/bad.wav", "no regular file")
    assert good.audio == Section(path, good.audio.offset, 0)


def test_a_tar_that_ends_early_is_one_rejection_and_the_rest_counts(shards):
    path = shards / "shard-001.tar"
    whole = path.read_bytes()
    ids = set(found(path))
    with tarfile.open(path) as tar:
        tar.getmembers()
        end = tar.offset
    draw = random.Random(0)
    for size in [*draw.sample(range(len(whole)), 40), 0, 512, len(whole) - 10_240]:
        path.write_bytes(whole[:size])
        got = found(path)
        damaged = got.pop("shard-001.tar", None)
        assert set(got) <= ids
        for recording in got.values():
            if isinstance(recording, Item):
                assert recording.audio.offset + recording.audio.size <= size
        assert damaged.reason == "damaged tar" if size < end + 512 else damaged is None
    assert len(found(shards)) >= 6


def test_a_damaged_header_ends_a_tar_with_a_rejection(shards):
    path = shards / "shard-001.tar"
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"deep/b.c.FLAC")] ^= 1
    path.write_bytes(damaged)
    got = found(path)
    assert set(got) == {"shard-001.tar/a.flac", "shard-001.tar"}
    assert got["shard-001.tar"].reason == "damaged tar"


def test_headers_are_bounded_and_names_are_untrusted(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("good.wav", "line\n.wav", "caf\udce9.wav", "x" * 300 + ".wav"):
            tar.addfile(tarfile.TarInfo(name))
        tar.addfile(tarfile.TarInfo("x" * (tars.MAX_HEADER + 1) + ".wav"))
    reasons = [getattr(each, "reason", "") for each in recordings(opening(path))]
    assert sorted(reasons) == ["", "", "damaged tar", "unreadable name", "unreadable name"]


def test_a_negative_size_ends_a_tar(tmp_path):
    path = write(tmp_path / "a.tar", a__wav=b"", b__wav=b"", c__wav=b"")
    content = bytearray(path.read_bytes())
    header = content[512:1024]
    header[124:136] = (-1024).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header)[0]
    content[512:1024] = header
    path.write_bytes(content)
    got = recordings(opening(path))
    assert sorted(each.id for each in got) == ["a.tar", "a.tar/a.wav"]


def test_several_members_of_one_name_contradict_each_other(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for content in (b"1", b"22"):
            info = tarfile.TarInfo("a.wav")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert found(tmp_path / "a.tar")["a.tar/a.wav"].reason == "contradiction"


def test_bad_sidecars_reject_their_recording_alone(tmp_path):
    write(tmp_path / "a.tar", a__wav=b"", a__txt=b"\xe9", b__wav=b"", b__json=b"[]", c__wav=b"")
    reasons = {id: getattr(each, "reason", "") for id, each in found(tmp_path).items()}
    assert reasons == {
        "a.tar/a.wav": "unreadable caption",
        "a.tar/b.wav": "unreadable caption",
        "a.tar/c.wav": "",
    }
