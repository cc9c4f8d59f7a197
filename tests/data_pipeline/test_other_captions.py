"""Captions that do not come with the recordings: templates, and a table apart from the audio."""

import itertools
import json
import shutil

import numpy as np
import pytest
import soundfile

from data_pipeline import stream
from data_pipeline.embeddings import open_embeddings
from data_pipeline.latents import Encoder, add_embeddings, encode
from data_pipeline.prepare import prepare
from data_pipeline.shard_data import ShardData
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, SECONDS, tone


def test_captions_are_written_only_where_none_are_given(tmp_path):
    for name, fields in {
        "given": {"caption": "mine", "genre": "jazz"},
        "filled": {"genre": "jazz", "bpm": 96},
        "composed": {"genre": "rock"},
        "unknown": {"stem": "3"},
    }.items():
        soundfile.write(
            tmp_path / f"{name}.wav", tone(SECONDS, frequency=200 + 9 * len(name)), 48_000
        )
        (tmp_path / f"{name}.json").write_text(json.dumps(fields))
    (tmp_path / "templates").write_text("{genre} at {bpm} BPM\n")
    out, options = str(tmp_path / "out"), dict(seconds=SECONDS, test_fraction=0)
    prepare(str(tmp_path), out, captions=str(tmp_path / "templates"), **options)
    (batch,) = stream.batches(out, "train", 4, shuffle=False, epochs=1)
    said = {
        json.loads(m).get("bpm") or c: c
        for m, c in zip(batch["meta"], batch["caption"], strict=True)
    }
    assert said.pop(96) == "jazz at 96 BPM" and "mine" in said and "" in said
    assert any("rock" in caption.lower() for caption in said)
    (tmp_path / "templates").write_text("{genre!r}\n")
    with pytest.raises(Refusal, match="line 1, is no template"):
        prepare(str(tmp_path), out + "2", captions=str(tmp_path / "templates"), **options)


@pytest.fixture
def latents(shards, tmp_path):
    length = lambda said: np.array([[[len(text)]] for text in said])
    embed = lambda said: (length(said), np.ones(len(said), int))
    means = lambda audio, valid: audio.reshape(len(audio), -1, 1000, 2).mean(2)
    encoder = Encoder(means, {"autoencoder": "a", "text": "t"}, k=2, hop=1000, embed=embed)
    encode(shards, str(tmp_path / "latents"), encoder)
    return tmp_path / "latents", embed


def test_a_table_replaces_captions_and_their_embeddings_are_added(shards, latents, tmp_path):
    folder, embed = latents
    lines = [{"id": f"{n}.wav", "caption": f"another tone {n}"} for n in range(8)]
    lines[3] |= {"add": True}
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "table.jsonl").write_text(text)
    table = str(tmp_path / "table.jsonl")
    (batch, *_) = ShardData(shards, 30, 0, captions=table).sweep("train")
    assert all(c == "tone number 3" or c.startswith("another tone") for c in batch["caption"])
    data = ShardData(shards, 4, seed=0, captions=table)
    drawn = {c for b in itertools.islice(data.batches(0), 20) for c in b["caption"]}
    assert ("another tone 3" in drawn) == ("tone number 3" in drawn)
    assert set(data.captions()) >= drawn and data.description["captions"][0]

    (folder / "captions.jsonl").write_text(text)  # beside the shards it is found
    with pytest.raises(Refusal, match=r"lacks the embedding .*jen1 data embed"):
        list(itertools.islice(stream.batches(str(folder), "train", 4), 9))
    files = len(list(folder.glob("embeddings-*")))
    add_embeddings(str(folder), "t", embed)
    assert len(list(folder.glob("embeddings-*"))) == files + 1
    for batch in itertools.islice(stream.batches(str(folder), "train", 4), 9):
        lengths = [len(caption) for caption in batch["caption"]]
        assert batch["text_embedding"][:, 0, 0].tolist() == lengths
    add_embeddings(str(folder), "t", None)  # nothing is missing
    with pytest.raises(Refusal, match="another text encoder"):
        add_embeddings(str(folder), "other", embed)
    with pytest.raises(Refusal, match="holds no latents"):
        add_embeddings(shards, "t", embed)


def test_embeddings_that_were_deleted_can_be_made_anew(latents):
    folder, embed = latents
    for path in folder.glob("embeddings-*"):
        path.unlink()
    shutil.copy(folder / "fingerprint.json", folder / "kept.json")
    add_embeddings(str(folder), "t", embed)
    assert open_embeddings(str(folder))("tone number 1").tolist() == [[len("tone number 1")]]
    assert (folder / "fingerprint.json").read_text() == (folder / "kept.json").read_text()
    assert SAMPLES % 1000 == 0
