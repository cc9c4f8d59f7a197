"""Fuzzed names, sidecars and manifests: no crash, no hang, and every file is in the report."""

import io
import json
import os
import random
import tarfile

import pytest
import soundfile

from data_pipeline.prepare import prepare
from data_pipeline.sources import Entry, Item, open_source
from data_pipeline.sources.items import SUFFIXES, UNSUPPORTED
from tests.data_pipeline.conftest import recordings, tone
from tests.data_pipeline.test_sources import no_hang

__all__ = ["no_hang"]
CASES = 100
TEXTS = ["", "a", "é" * 60, "夜　曲", "\ud800", "\n", '"', ",", "\0", "\u202e", "\\", "x" * 140_000]
SPLITS = [None, "train", "test", "dev", 1, ["train"]]


def value(draw: random.Random, depth: int = 3):
    """JSON of any kind."""
    if depth and draw.random() < 0.4:
        inner = [value(draw, depth - 1) for _ in range(draw.randrange(3))]
        return inner if draw.random() < 0.5 else dict(zip(map(str, inner), inner, strict=True))
    return draw.choice([None, True, 0, -1.5, float("nan"), 10**400, *TEXTS])


def fields(draw: random.Random) -> dict:
    known = ["caption", "captions", "title", "genre", "licence", "license", "territory", "expires"]
    known += ["group", "artist", "album", "start", "end", "start_s", "end_s"]
    found = {name: value(draw) for name in draw.sample(known, draw.randrange(3))}
    return found | ({"split": draw.choice(SPLITS)} if draw.random() < 0.2 else {})


def damaged(draw: random.Random, text: str) -> bytes:
    """The text in UTF-8, mostly whole, else with a mark, other bytes, or deep inside lists."""
    content = text.encode(errors="surrogatepass")
    place = draw.randrange(len(content) + 1)
    return draw.choice(
        [content] * 4
        + [
            b"\xef\xbb\xbf" + content,
            content[:place],
            content[:place] + draw.randbytes(3) + content[place:],
            b"[" * 100_000 + content,
        ]
    )


def place(draw: random.Random, path: str, content: bytes) -> bool:
    """Makes a file, or something else with its name; whether it could be made."""
    kinds = [lambda: os.mkfifo(path), lambda: os.symlink("/dev/zero", path)]
    kinds += [lambda: os.symlink(__file__, path), lambda: os.symlink("nothing", path)]
    try:
        if draw.random() < 0.2:
            draw.choice(kinds)()
        else:
            with open(path, "xb") as file:
                file.write(content)
    except (OSError, ValueError):  # the name is taken, too long, or impossible
        return False
    return True


@pytest.fixture
def audio(tmp_path):
    soundfile.write(tmp_path / "good.wav", tone(0.5), 48_000)
    return (tmp_path / "good.wav").read_bytes()


def reconciles(source, out, lines: int) -> None:
    """All lines of the listing are in the report; several with one id are one recording."""
    listed = list(open_source(str(source), clips=1, seconds=1, seed=0).entries())
    ids = [entry.id for entry in listed if isinstance(entry, Entry)]
    assert len(listed) == lines
    files = len(listed) - len(ids) + len(set(ids))
    report = prepare(str(source), str(out), seconds=0.25, progress=lambda text: None)
    rejected = (out / "rejected.jsonl").read_bytes().decode().split("\n")[:-1]
    assert report.files == files
    assert files == report.accepted + sum(report.rejected.values()) + report.not_needed
    assert [json.loads(line)["reason"] for line in rejected] and report.accepted
    assert len(rejected) == sum(report.rejected.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_folder_of_fuzzed_names_and_sidecars(tmp_path, audio, seed):
    draw, folder = random.Random(seed), tmp_path / "music"
    folder.mkdir()
    (folder / "good.wav").write_bytes(audio)
    (folder / "other.wav").write_bytes(audio + b"\0")  # so that both splits have a file
    files = 2
    while files < CASES:
        stem = "a" + "".join(draw.choice([*TEXTS[:-1], "b", "\udce9"]) for _ in range(3))
        suffix = draw.choice([*SUFFIXES, *UNSUPPORTED[:3], ".WAV"])
        name = os.path.join(os.fsencode(folder), (stem + str(files)).encode(errors="replace"))
        name += b"\xe9" if draw.random() < 0.1 else b""
        content = audio + draw.randbytes(2) if draw.random() < 0.7 else draw.randbytes(100)
        files += place(draw, name + suffix.encode(), content)
        for kind in (b".json", b".txt"):
            if draw.random() < 0.4:
                place(draw, name + kind, damaged(draw, json.dumps(fields(draw))))
    reconciles(folder, tmp_path / "out", files)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_fuzzed_tars(tmp_path, audio, form):
    draw, items = random.Random(form), 0
    for number in range(CASES):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for stem in ("a", "é" * 60, "x" * 150):
                metadata = damaged(draw, json.dumps(fields(draw)))
                for suffix, content in ((".wav", audio[:2000]), (".json", metadata)):
                    member = tarfile.TarInfo(stem + suffix)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        content = bytearray(path.read_bytes())
        headers = [at - 257 for at in range(257, len(content), 512) if content[at:][:5] == b"ustar"]
        for _ in range(draw.randrange(4)):
            at = draw.choice(headers)
            content[at + draw.randrange(512)] = draw.randrange(256)
            checksum = tarfile.calc_chksums(content[at : at + 512])[0]
            content[at + 148 : at + 156] = b"%06o\0 " % checksum
        del content[draw.choice([len(content)] * 3 + [draw.randrange(len(content))]) :]
        path.write_bytes(content)
        found = recordings(open_source(str(path), clips=1, seconds=1, seed=0))
        assert found
        for item in (each for each in found if isinstance(each, Item)):
            assert 0 <= item.audio.offset <= item.audio.offset + item.audio.size <= len(content)
            items += 1
    assert items > CASES // 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_a_fuzzed_manifest(tmp_path, audio, kind, seed):
    draw, comma = random.Random(seed), b"\t" if kind == "tsv" else b","
    lines = [comma.join([b"path", b"caption", b"start"])] if kind != "jsonl" else []
    (tmp_path / "other.wav").write_bytes(audio + b"\0")
    os.mkfifo(tmp_path / "pipe.wav")
    paths = ["good.wav", "../good.wav", "pipe.wav", "/dev/zero", "absent.m4a", *TEXTS[1:]]
    for number in range(CASES):
        (tmp_path / f"{number}.wav").write_bytes(audio + number.to_bytes(2, "big"))
        path = f"{number}.wav" if draw.random() < 0.5 else draw.choice(paths)
        if kind == "jsonl":
            line = damaged(draw, json.dumps(fields(draw) | {"path": path}))
        else:
            cells = (damaged(draw, cell) for cell in (path, *draw.choices(TEXTS, k=2)))
            line = comma.join(b'"' + cell.replace(b'"', b'""') + b'"' for cell in cells)
        lines.append(line.replace(b"\n", b" ").replace(b"\r", b" ") or b" ")
    (tmp_path / f"list.{kind}").write_bytes(b"\n".join([*lines, b""]))
    blank = sum(not line.strip() for line in lines) if kind == "jsonl" else 0
    reconciles(tmp_path / f"list.{kind}", tmp_path / "out", CASES - blank)
