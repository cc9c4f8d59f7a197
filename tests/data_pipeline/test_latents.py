import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from data_pipeline import embeddings, stream
from data_pipeline.latents import Encoder, encode
from data_pipeline.layout import EMBEDDINGS
from data_pipeline.layout import FINGERPRINT as FINGERPRINT_FILE
from data_pipeline.prepare import prepare
from data_pipeline.reading import examples
from data_pipeline.validate import validate
from jen1_numpy.errors import Refusal
from tests.data_pipeline.conftest import SAMPLES, WORDS

HOP, K, TOKENS, WIDTH = 320, 3, 6, 4
FRAMES = -(-SAMPLES // HOP)
FINGERPRINT = {"autoencoder": "abc", "sample_rate": 48_000, "hop": HOP}


def means(audio, valid=None):
    """An encoder: each frame's mean of both channels, and its power."""
    frames = audio.reshape(len(audio), -1, HOP, 2)
    return np.concatenate([frames.mean(2), (frames**2).mean((2, 3))[..., None]], -1)


def letters(captions):
    """A text encoder: token t repeats the code of the caption's character t from its end."""
    lengths = np.array(
        [min(TOKENS, int(caption[-1])) for caption in captions]
    )  # "tone number 0" has none
    rows = np.array([[ord(c) for c in caption[::-1][:TOKENS]] for caption in captions])
    return np.repeat(rows[..., None], WIDTH, -1).astype(np.float32), lengths


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def latents(shards, said, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("latents") / "set")
    encoder = Encoder(means, FINGERPRINT, k=K, hop=HOP, embed=letters, batch_size=4)
    encode(shards, out, encoder, said.append)
    return out


def test_latents_are_those_of_the_clips_in_the_same_order(shards, latents):
    about = stream.info(latents)
    assert (about.kind, about.shape, about.fingerprint) == ("latents", (FRAMES, K), FINGERPRINT)
    assert about.examples == stream.info(shards).examples
    assert about.licences == stream.info(shards).licences != {}
    for split in about.examples:
        for clip, latent in zip(
            stream.batches(shards, split, 1, shuffle=False, epochs=1),
            stream.batches(latents, split, 1, shuffle=False, epochs=1),
            strict=True,
        ):
            pcm = np.pad(clip["audio"], ((0, 0), (0, FRAMES * HOP - SAMPLES), (0, 0)))
            audio = pcm / np.float32(32767)
            np.testing.assert_array_equal(latent["latents"], means(audio).astype(np.float16))
            np.testing.assert_array_equal(latent["valid_frames"], -(-clip["valid_samples"] // HOP))
            assert latent["caption"][0] == clip["caption"][0]
            assert latent["start"] == clip["start"] and latent["total"] == clip["total"] > 0


def smeared(audio, valid=None):
    """An encoder whose receptive field is two frames on each side; it adds 1 where audio is."""
    frames = means(audio) + 1
    if valid is not None:
        frames *= (np.arange(frames.shape[1]) * HOP < valid[:, None])[..., None]
    frames = np.pad(frames, ((0, 0), (2, 2), (0, 0)))
    return sum(
        0.3 ** abs(shift) * frames[:, 2 + shift : frames.shape[1] - 2 + shift]
        for shift in range(-2, 3)
    )


@pytest.mark.parametrize("around, error", [(2, 2e-3), (1, 1)])
def test_clips_have_the_latents_of_their_piece(tmp_path, around, error):
    """Clips have whole hops, and a dropped clip is an edge. Fewer frames around are not enough."""
    rng, clip = np.random.default_rng(0), 40 * HOP
    loud = rng.uniform(-0.9, 0.9, (12 * clip + clip // 2, 2))
    loud[5 * clip : 6 * clip] = 0  # dropped
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music" / "long.wav", loud, 48_000, subtype="FLOAT")
    soundfile.write(
        tmp_path / "music" / "short.wav", loud[::-1][: 2 * clip], 48_000, subtype="FLOAT"
    )
    prepare(str(tmp_path / "music"), str(tmp_path / "data"), seconds=clip / 48_000, test_fraction=0)
    shapes = []
    record = lambda audio, valid: shapes.append(audio.shape) or smeared(audio, valid)
    encoder = Encoder(record, FINGERPRINT, k=K, hop=HOP, around=around, batch_size=2)
    encode(str(tmp_path / "data"), str(tmp_path / "out"), encoder)
    assert len(set(shapes)) <= 4
    clips = list(stream.batches(str(tmp_path / "data"), "train", 1, shuffle=False, epochs=1))
    latents = list(stream.batches(str(tmp_path / "out"), "train", 1, shuffle=False, epochs=1))
    assert len(clips) == 11 + 1 + 2
    pieces, expected, run, before = {}, [], 0, 0.0
    for number, each in enumerate(clips):  # runs of clips that follow each other
        run = run if 0 < each["start"] - before < 1.5 * clip / 48_000 else number
        before = each["start"]
        pieces.setdefault(run, []).append(each["audio"][0, : int(each["valid_samples"][0])] / 32767)
    for run in pieces.values():
        whole = smeared(np.concatenate(run)[None])[0]  # one of them ends within its last clip
        expected += np.split(whole, np.cumsum([len(part) // HOP for part in run[:-1]]))
    worst = max(
        np.abs(found["latents"][0, : len(right)] - right).max()
        for found, right in zip(latents, expected, strict=True)
    )
    assert worst < error if error < 1 else worst > 1e-2


def everything(folder):
    """All records of a data set in order, by split, and its other files."""
    found = {
        split: list(examples(folder, split)) for split, size in stream.info(folder).examples.items()
    }
    read = embeddings.open_embeddings(folder)
    stored = {text: read(text) for text in stream.captions(folder, "train")} if read else {}
    return found, stored, Path(folder, FINGERPRINT_FILE).read_text()


def test_a_source_is_encoded_as_its_shards_are(music, tmp_path):
    """Also at a limit, with rejected files, and in groups that do not divide the clips."""
    given = shutil.copytree(music, tmp_path / "music")
    for name in "abcd":
        (given / f"{name}.wav").write_bytes(b"nothing")
    shapes = []
    record = lambda audio, valid: shapes.append(audio.shape) or smeared(audio, valid)
    encoder = Encoder(record, FINGERPRINT, k=K, hop=HOP, around=2, embed=letters, batch_size=2)
    options = dict(seconds=0.12, test_fraction=0.3, limit_hours=7 / 3600)
    data, stored, direct = (str(tmp_path / name) for name in ("data", "stored", "direct"))
    report = prepare(str(given), data, **options)
    encode(data, stored, encoder)
    assert replace(prepare(str(given), direct, encoder=encoder, **options), out=data) == report
    assert len(set(shapes)) == 2  # rows of one clip, and of two
    (clips, *others), (expected, *other) = everything(direct), everything(stored)
    assert min(map(len, expected.values())) > 2 * 4
    assert report.rejected["undecodable"] > 0 and report.clips["train"] % 8
    differing = 0
    for split, rows in expected.items():
        for row, right in zip(clips[split], rows, strict=True):
            assert row.keys() == right.keys() and row["id"] == right["id"]
            for field in row.keys() - {"latents"}:
                np.testing.assert_array_equal(row[field], right[field])
            differing += not np.array_equal(row["latents"], right["latents"])
    assert differing == 1  # beyond the clip at the limit, the source has audio and the shards none
    (found, fingerprint), (right, as_stored) = others, other
    assert fingerprint == as_stored and found.keys() == right.keys()
    assert all(np.array_equal(found[key], right[key]) for key in right)
    rejected = Path(direct, "rejected.jsonl").read_text()
    assert rejected == Path(data, "rejected.jsonl").read_text()
    assert json.loads(Path(direct, "report.json").read_text())["clips"] == report.clips


def test_every_caption_comes_with_its_embedding(latents):
    for batch in stream.batches(latents, "train", 4, epochs=1):
        expected, lengths = letters(batch["caption"])
        np.testing.assert_array_equal(batch["text_lengths"], lengths)
        assert (
            batch["text_embedding"].shape == (len(lengths), TOKENS, WIDTH)
            and batch["text_embedding"].dtype == np.float16
        )
        for row, right, length in zip(batch["text_embedding"], expected, lengths, strict=True):
            np.testing.assert_array_equal(row[:length], right[:length])
            assert not row[length:].any()


def test_all_captions_are_kept_and_embedded(worded, tmp_path):
    out = str(tmp_path / "out")
    embed = lambda captions: (np.array([[[len(c)]] for c in captions]), np.ones(len(captions)))
    encode(worded, out, Encoder(means, FINGERPRINT, k=K, hop=HOP, embed=embed))
    assert stream.captions(out, "train") == stream.captions(worded, "train")
    seen = {}
    for batch in itertools.islice(stream.batches(out, "train", 2), 20):
        seen |= zip(batch["caption"], batch["text_embedding"][:, 0, 0].tolist(), strict=True)
    assert seen == {caption: len(caption) for caption in sum(WORDS.values(), ())}


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(embeddings, "IN_FILE", 3)
    monkeypatch.setattr(embeddings, "AT_ONCE", 2)


def test_embeddings_are_the_same_in_several_files(shards, latents, said, small_files, tmp_path):
    out, heard, calls = str(tmp_path / "out"), [], []
    embed = lambda captions: calls.append(len(captions)) or letters(captions)
    encoder = Encoder(means, FINGERPRINT, k=K, hop=HOP, embed=embed)
    encode(shards, out, encoder, heard.append)
    files = sorted(Path(out).glob(EMBEDDINGS))
    assert [len(load_file(path)["keys"]) for path in files] == [3, 3, 2] and calls == [
        2,
        1,
        2,
        1,
        2,
    ]
    assert files[0].stat().st_mode == Path(out, FINGERPRINT_FILE).stat().st_mode
    (_, found, _), (_, whole, _) = everything(out), everything(latents)
    assert {key: row.tobytes() for key, row in found.items()} == {
        key: row.tobytes() for key, row in whole.items()
    }
    assert heard[-1] == said[-1]
    options = dict(shuffle=False, epochs=1)
    batches = (stream.batches(folder, "train", 2, **options) for folder in (out, latents))
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one["text_embedding"], other["text_embedding"])
        np.testing.assert_array_equal(one["text_lengths"], other["text_lengths"])
    files[1].unlink()
    with pytest.raises(Refusal, match="lacks the embedding of the caption 'tone number"):
        list(stream.batches(out, "train", 2, **options))


def test_embedding_goes_on_with_the_file_at_which_it_was_interrupted(small_files, tmp_path):
    captions = sorted((f"caption {n}" for n in range(8)), key=embeddings.hashed)
    whole, parts = tmp_path / "a", tmp_path / "b"
    for folder in (whole, parts):
        folder.mkdir()
    heard, calls = [], []

    def interrupted(chosen):
        if captions[5] in chosen:
            raise KeyboardInterrupt
        return letters(chosen)

    embeddings.write_embeddings(whole, captions, letters, heard.append)
    with pytest.raises(KeyboardInterrupt):
        embeddings.write_embeddings(parts, captions, interrupted, print)
    assert len(list(parts.iterdir())) == 1
    counted = lambda chosen: calls.extend(chosen) or letters(chosen)
    embeddings.write_embeddings(parts, captions, counted, heard.append)
    assert calls == captions[3:] and heard[-1].startswith("8 captions embedded")
    content = lambda folder: {path.name: path.read_bytes() for path in folder.iterdir()}
    assert content(parts) == content(whole)


def test_embedding_overwrites_no_file_where_an_earlier_one_is_lost(small_files, tmp_path):
    captions = [f"caption {n}" for n in range(8)]
    embeddings.write_embeddings(tmp_path, captions, letters, print)
    (tmp_path / EMBEDDINGS.replace("*", "00000")).unlink()
    embeddings.write_embeddings(tmp_path, captions, letters, print)
    stored = embeddings.open_embeddings(str(tmp_path))
    assert all(caption in stored for caption in captions)


def test_captions_of_the_maximum_length_are_counted(latents, said):
    assert (
        said[-1]
        == f"8 captions embedded, 2 of them with all of {TOKENS} tokens, where longer ones are cut"
    )


def test_latents_pass_validation(latents):
    report = validate(latents)
    assert report.problems == [] and report.kind == "latents"


def test_wrong_latents_are_refused_and_leave_nothing(shards, latents, tmp_path):
    out = str(tmp_path / "out")
    for wrong in (
        lambda a, valid: means(a)[:, :-1],
        lambda a, valid: means(a) * np.nan,
        lambda a, valid: means(a) + 1e6,
    ):
        with pytest.raises(Refusal):
            encode(shards, out, Encoder(wrong, FINGERPRINT, k=K, hop=HOP))
    with pytest.raises(Refusal, match="holds latents"):
        encode(latents, out, Encoder(means, FINGERPRINT, k=K, hop=HOP))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A data set of 48 recordings in three units."""
    out = tmp_path_factory.mktemp("several") / "data"
    prepare("synthetic", str(out), seconds=0.25, clips=48, jobs=1)
    return str(out)


def test_an_interrupted_encode_goes_on_with_the_unit_at_which_it_was(several, tmp_path):
    whole, parts, calls = str(tmp_path / "whole"), str(tmp_path / "parts"), []

    def interrupted(audio, valid):
        calls.append(len(audio))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return means(audio)

    encoder = Encoder(means, FINGERPRINT, k=K, hop=HOP)
    encode(several, whole, encoder)
    with pytest.raises(KeyboardInterrupt):
        encode(several, parts, replace(encoder, encode=interrupted))
    heard = []
    counted = lambda audio, valid: calls.append(len(audio)) or means(audio)
    encode(several, parts, replace(encoder, encode=counted), heard.append)
    assert heard[0] == "continues after 2 units that are finished" and calls == [8] * 7
    assert same(parts, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


def test_clips_that_pieces_does_not_list_are_refused(several, tmp_path):
    data = shutil.copytree(several, tmp_path / "data")
    (data / "pieces" / "00001.jsonl").unlink()
    with pytest.raises(Refusal, match="does not list all clips"):
        encode(str(data), str(tmp_path / "out"), Encoder(means, FINGERPRINT, k=K, hop=HOP))


def test_a_refusal_keeps_the_units_that_are_finished(several, tmp_path):
    out, calls = str(tmp_path / "out"), []

    def one(audio, valid):
        """In the second unit: the same command again, and then latents that are refused."""
        calls.append(len(audio))
        if len(calls) == 3:
            with pytest.raises(Refusal, match="Another command is writing"):
                encode(several, out, Encoder(means, FINGERPRINT, k=K, hop=HOP))
        return means(audio) * (np.nan if len(calls) > 3 else 1)

    with pytest.raises(Refusal, match="not finite"):
        encode(several, out, Encoder(one, FINGERPRINT, k=K, hop=HOP))
    heard = []
    encode(several, out, Encoder(means, FINGERPRINT, k=K, hop=HOP), heard.append)
    assert heard[0] == "continues after 1 units that are finished"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_processes_encode_the_units_together(several, tmp_path):
    whole, shared, rows = str(tmp_path / "whole"), str(tmp_path / "shared"), []
    encoder = Encoder(
        lambda audio, valid: rows.append(len(audio)) or means(audio), FINGERPRINT, k=K, hop=HOP
    )
    encode(several, whole, encoder)
    in_all = len(rows)
    assert encode(several, shared, encoder, process=1, processes=2) is None
    assert not Path(shared).exists() and len(rows) == in_all + 2
    assert encode(several, shared, encoder, process=0, processes=2).examples
    assert len(rows) == 2 * in_all and same(shared, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shared", "whole"]
    with pytest.raises(Refusal, match="no process 2 of 2"):
        encode(several, str(tmp_path / "other"), encoder, process=2, processes=2)


def same(one, other):
    """Whether all files are equal but JSON, of which TFDS writes other bytes each time."""
    read = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file() and path.suffix != ".json"
        }
        for folder in (one, other)
    ]
    assert any("array_record" in str(name) for name in read[0])
    return read[0] == read[1]


def test_few_frames_are_wasted(tmp_path):
    """Rows of eight clips: of 61 clips 56, four and one, with a quarter of a clip on both sides."""
    clip, frames = 40 * HOP, []
    (tmp_path / "music").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (61 * clip, 2))
    soundfile.write(tmp_path / "music" / "long.wav", noise, 48_000)
    prepare(str(tmp_path / "music"), str(tmp_path / "data"), seconds=clip / 48_000, test_fraction=0)
    count = lambda audio, valid: frames.append(int((valid > 0).sum()) * audio.shape[1] // HOP)
    encoder = Encoder(
        lambda audio, valid: count(audio, valid) or means(audio),
        FINGERPRINT,
        k=K,
        hop=HOP,
        around=10,
    )
    encode(str(tmp_path / "data"), str(tmp_path / "out"), encoder)
    assert sum(frames) == 61 * 40 + 9 * 20  # 7 % more; with each clip's own 50 % more
