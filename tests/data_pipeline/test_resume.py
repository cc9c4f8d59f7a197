"""A preparation that is interrupted goes on where it has saved its state."""

import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import prepare as module
from data_pipeline import shards, stream
from data_pipeline.latents import Encoder
from data_pipeline.prepare import prepare
from data_pipeline.shards import decoder, records
from data_pipeline.sources import About, Entry, Item, Rejection
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, SECONDS

PIECES = 12


class Source:
    """Pieces of one to three clips, of which every fifth refuses; it notes who renders what."""

    def __init__(self):
        self.rendered, self.threads = [], set()

    def open(self, *_, **__):
        return self

    def entries(self):
        yield Rejection("x", "missing")
        yield from (Entry(f"{n}", n) for n in range(PIECES))

    def item(self, id, entries):
        n = entries[0].place
        return Item(id, lambda: self.render(n), lambda start, stop: said(n, start))

    def render(self, number):
        self.rendered.append(number)
        self.threads.add(threading.current_thread())
        if number % 5 == 4:
            raise Refusal("No notes.")
        rng = np.random.default_rng(number)
        length = SAMPLES * (1 + number % 3) + (1000 if number % 2 else 0)  # some with a tail
        return rng.uniform(-0.5, 0.5, (length, 2)).astype(np.float32)


def said(number, start):
    return About(
        (f"piece {number}", f"from {start}"), {"number": number, "licence": "AB"[number % 2]}
    )


def encoder(fail_at=None, fingerprint="a"):
    """Means of 100 samples; call number `fail_at` is interrupted, or embedding if that is 0."""
    calls = []

    def encode(audio, valid):
        calls.append(len(audio))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return audio.reshape(len(audio), -1, 100, 2).mean(2)

    def embed(captions):
        if fail_at == 0:
            raise KeyboardInterrupt
        return np.array([[[len(caption)]] for caption in captions]), np.ones(len(captions))

    identity = {"autoencoder": fingerprint}
    return Encoder(encode, identity, k=2, hop=100, around=2, batch_size=2, embed=embed)


def content(folder):
    """All records in order, by split, and the files beside them but for the shards."""
    rows = {
        split: [
            {name: np.asarray(value).tolist() for name, value in decoder(folder)(record).items()}
            for record in records(folder, split)(list(range(size)))
        ]
        for split, size in stream.info(folder).examples.items()
    }
    others = {
        path.name: path.read_bytes()
        for path in Path(folder).iterdir()
        if "array_record" not in path.name and path.suffix != ".json"
    }
    return rows, others


@pytest.fixture
def source(monkeypatch):
    source = Source()
    monkeypatch.setattr(module, "open_source", source.open)
    monkeypatch.setattr(module, "SAVE_SECONDS", 3 * SECONDS)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    return source


OPTIONS = dict(seconds=SECONDS, test_fraction=0.3)


@pytest.mark.parametrize("limit", [None, 15 * SECONDS / 3600])
@pytest.mark.parametrize("fail_at", [6, 9, 0])
def test_an_interrupted_encode_goes_on_and_gives_the_same(source, tmp_path, fail_at, limit):
    whole, parts, options = str(tmp_path / "whole"), str(tmp_path / "parts"), dict(OPTIONS)
    options["limit_hours"] = limit
    report = prepare("here", whole, encoder=encoder(), **options)
    assert report.rejected["cannot be rendered"] and report.dropped_seconds["tail"] > 0
    in_all = len(source.rendered)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        prepare("here", parts, encoder=encoder(fail_at=fail_at), **options)
    assert interrupted.tb and not any(thread.is_alive() for thread in source.threads)
    assert [path.name for path in tmp_path.iterdir() if path.name[:7] == ".parts."]
    source.rendered.clear()
    heard = []
    again = prepare("here", parts, encoder=encoder(), progress=heard.append, **options)
    assert "continues after" in heard[0] and len(source.rendered) < in_all
    assert replace(again, out=whole) == report and content(parts) == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


def test_another_command_starts_anew_and_a_refusal_leaves_nothing(source, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        prepare("here", out, encoder=encoder(fail_at=9), **OPTIONS)
    for other in (dict(encoder=encoder(fingerprint="b")), dict(encoder=encoder(), seed=1)):
        heard, target = [], tmp_path / "out"
        prepare("here", out, progress=heard.append, **OPTIONS, **other)
        assert not any("continues" in text for text in heard)
        for path in [*target.iterdir()]:
            path.unlink()
    (kept,) = (path for path in tmp_path.iterdir() if path.name != "out")
    state = json.loads((kept / module.SAVED).read_text())
    assert state["tally"]["done"] > 0
    broken = replace(encoder(), encode=lambda audio, valid: audio[:, ::100] * np.nan)
    with pytest.raises(Refusal, match="not finite"):
        prepare("here", out, encoder=broken, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_interrupted_waveforms_go_on_too(source, tmp_path, monkeypatch):
    report = prepare("here", str(tmp_path / "whole"), **OPTIONS)
    cut, count = module.cut, []

    def interrupted(*arguments):
        count.append(1)
        if len(count) == 9:
            raise KeyboardInterrupt
        return cut(*arguments)

    monkeypatch.setattr(module, "cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("here", str(tmp_path / "parts"), **OPTIONS)
    again = prepare("here", str(tmp_path / "parts"), **OPTIONS)
    assert replace(again, out=report.out) == report and len(count) < 9 + PIECES
    assert content(str(tmp_path / "parts")) == content(str(tmp_path / "whole"))


class Full(OSError):
    """The disk is full."""

    def __init__(self):
        super().__init__(errno.ENOSPC, "No space left on device")


def fails(original, at, error):
    """`original`, but call number `at` raises `error`."""
    calls = iter(range(1, 1_000_000))

    def call(*arguments, **options):
        if next(calls) == at:
            raise error
        return original(*arguments, **options)

    return call


@pytest.mark.parametrize(
    "full", ["a shard", "the state", "the metadata", "the licences", "the rejections", "the name"]
)
@pytest.mark.parametrize("encoding", [False, True])
def test_a_full_disk_costs_no_finished_work(source, tmp_path, monkeypatch, full, encoding):
    given = lambda: dict(OPTIONS, encoder=encoder() if encoding else None)
    report = prepare("here", str(tmp_path / "whole"), **given())
    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        if full == "a shard":

            class Writer(shards.ArrayRecordWriter):
                # This is what a full disk makes it raise.
                close = fails(shards.ArrayRecordWriter.close, 6, RuntimeError("write() failed"))

            patch.setattr(shards, "ArrayRecordWriter", Writer)
        elif full == "the state":
            patch.setattr(module, "write_text", fails(module.write_text, 3, Full()))
        elif full == "the metadata":
            place = shards.tfds.folder_dataset
            patch.setattr(place, "write_metadata", fails(place.write_metadata, 1, Full()))
        elif full == "the name":
            rename = os.replace

            def renamed(old, new):
                if Path(new) == parts:
                    raise Full
                rename(old, new)

            patch.setattr(os, "replace", renamed)
        else:
            name = {"the licences": shards.LICENCES, "the rejections": "rejected.jsonl"}[full]
            write = Path.open

            def opened(path, mode="r", *more, **options):
                if path.name == name and "w" in mode:
                    raise Full
                return write(path, mode, *more, **options)

            patch.setattr(Path, "open", opened)
        with pytest.raises(Refusal, match=r"Writing .* failed"):
            prepare("here", str(parts), **given())
    assert not parts.exists()
    done = len(source.rendered)
    again = prepare("here", str(parts), **given())
    assert replace(again, out=report.out) == report and content(parts) == content(report.out)
    rendered = len(source.rendered) - done
    assert rendered < PIECES if full in ("a shard", "the state") else rendered == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]
