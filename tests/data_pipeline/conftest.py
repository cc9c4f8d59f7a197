import json

import numpy as np
import pytest
import soundfile

from data_pipeline.sources import Rejection

SECONDS = 0.25
SAMPLES = 12_000


def tone(seconds, rate=48_000, frequency=440.0, channels=2):
    x = 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.stack([x * (1 - 0.5 * c) for c in range(channels)], axis=-1)


def recordings(source):
    """All recordings of a source, opened, and the rejections."""
    listed, found = {}, []
    for entry in source.entries():
        if isinstance(entry, Rejection):
            found.append(entry)
        else:
            listed.setdefault(entry.id, []).append(entry)
    return found + [source.item(id, entries) for id, entries in listed.items()]


@pytest.fixture(scope="session")
def music(tmp_path_factory):
    """A folder of eight recordings of different length and loudness, one caption each."""
    folder = tmp_path_factory.mktemp("music")
    for i in range(8):
        soundfile.write(folder / f"{i}.wav", tone(0.6 + 0.1 * i, frequency=200 + 50 * i), 48_000)
        (folder / f"{i}.txt").write_text(f"tone number {i}")
    return folder


@pytest.fixture(scope="session")
def shards(music, tmp_path_factory):
    from data_pipeline.prepare import prepare

    out = tmp_path_factory.mktemp("data") / "shards"
    prepare(str(music), str(out), seconds=SECONDS, test_fraction=0.3)
    return str(out)


WORDS = {"many.wav": ("slow piano", "a piano", "piano, 60 bpm"), "one.wav": ("fast drums",)}


@pytest.fixture(scope="session")
def worded(tmp_path_factory):
    """Two recordings of one clip each; the first has three captions and the second has one."""
    from data_pipeline.prepare import prepare

    folder = tmp_path_factory.mktemp("worded")
    for number, name in enumerate(WORDS):
        soundfile.write(folder / name, tone(SECONDS, frequency=300 + 100 * number), 48_000)
    lines = [dict(path=name, captions=captions) for name, captions in WORDS.items()]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare(str(folder / "list.jsonl"), str(folder / "out"), seconds=SECONDS, test_fraction=0)
    return str(folder / "out")


def write_data_set(folder, features, clips):
    """A data set of clips by split, as `clips.cut` gives them; they may be damaged on purpose."""
    from data_pipeline.commit import PIECES, name_shards
    from data_pipeline.layout import blocks_of
    from data_pipeline.units import in_blocks
    from data_pipeline.writing import Shards, serialise

    shards, blocks = {}, blocks_of(len(next(iter(clips.values()))[0]["audio"]))
    (folder / PIECES).mkdir()
    for split, those in clips.items():
        parts = Shards(folder, split)
        for clip in those:
            parts.write([serialise(block) for block in in_blocks(clip)])
        rows = [
            {"id": clip["id"].rpartition("@")[0], "captions": clip["captions"]}
            | {"split": split, "first": first, "clips": 1}
            for first, clip in enumerate(those)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / PIECES / f"{split}.jsonl").write_text(text)
        shards[split] = parts.close()
    name_shards(folder, folder, shards, blocks, features, "made for a test")
