"""A run's text encoder is recorded and reopened, and another one is refused."""

import shutil
import zipfile
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from jen1_jax.text import prompts
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.text.vocabulary import train
from jen1_numpy.errors import Refusal

CAPTIONS = [
    "slow piano",
    "fast drums and a loud bass",
    "warm strings in the left channel over a very long and slow crescendo",
    "",
]
LAYOUT = dict(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=3)


def text_config(encoder=""):
    return ConfigDict(dict(encoder=str(encoder), max_length=32, dtype="float32", **LAYOUT)).lock()


def save_model(folder, vocab_size=60):
    config = transformers.T5Config(
        feed_forward_proj="gated-gelu", **(LAYOUT | {"vocab_size": vocab_size})
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    train(CAPTIONS, folder / "spiece.model", vocab_size=60)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def frozen(model):
    return TextEncoder.frozen(str(model), max_length=32)


def test_embeddings_equal_the_modules_and_are_zero_beyond_the_caption(frozen):
    embedding, lengths = frozen.embed(CAPTIONS)
    tokens, same_lengths = frozen.tokenize(CAPTIONS)
    expected = jax.jit(frozen.module.apply)(
        {"params": frozen.params}, jnp.asarray(tokens), jnp.asarray(lengths)
    )
    np.testing.assert_array_equal(lengths, same_lengths)
    assert (
        embedding.shape == (len(CAPTIONS), frozen.max_length, frozen.features) and lengths[-1] == 0
    )
    np.testing.assert_allclose(embedding, expected, atol=2e-3)  # float16 keeps 11 bits
    assert not embedding[np.arange(32) >= lengths[:, None]].any()


def test_embeddings_do_not_depend_on_other_captions(model, frozen):
    others = [f"piano {i}" for i in range(18)]
    together, lengths = TextEncoder.frozen(str(model), 32).embed([*others, *CAPTIONS, *CAPTIONS])
    alone, alone_lengths = frozen.embed(CAPTIONS)
    for rows in (slice(18, 22), slice(22, 26)):
        np.testing.assert_allclose(together[rows], alone, atol=1e-3)
        np.testing.assert_array_equal(lengths[rows], alone_lengths)
    assert all((row != together[18]).any() for row in together[:18])


def test_a_caption_is_computed_once(model, monkeypatch):
    text = TextEncoder.frozen(str(model), 32)
    first, _ = text.embed(CAPTIONS)
    monkeypatch.setattr(prompts, "_embed", lambda *_: pytest.fail("computed again"))
    again, _ = text.embed(CAPTIONS[::-1])
    np.testing.assert_array_equal(again[::-1], first)


def test_a_frozen_encoder_in_bfloat16_is_near_float32_and_has_another_fingerprint(
    model, frozen, tmp_path
):
    config = text_config(model).unlock()
    config.dtype = "bfloat16"
    text = TextEncoder.create(config, tmp_path / "text", CAPTIONS)
    held = {path[-1]: str(leaf.dtype) for path, leaf in flatten_dict(text.params).items()}
    assert held == {"embedding": "bfloat16", "kernel": "bfloat16", "scale": "float32"}
    half, exact = (encoder.embed(CAPTIONS)[0].astype(np.float32) for encoder in (text, frozen))
    # Computed in bfloat16, which has 8 bits.
    assert 1e-3 < np.linalg.norm(half - exact) / np.linalg.norm(exact) < 2e-2
    assert text.fingerprint != frozen.fingerprint
    assert TextEncoder.open(tmp_path / "text").fingerprint == text.fingerprint
    with pytest.raises(Refusal, match=r"another text encoder.*bfloat16.*float32"):
        TextEncoder.create(text_config(model), tmp_path / "text", CAPTIONS)
    with pytest.raises(Refusal, match=r"'float16'; set text\.dtype"):
        TextEncoder.frozen(str(model), 32, "float16")


def test_a_run_reopens_its_frozen_encoder_and_refuses_another(model, frozen, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    text = TextEncoder.create(text_config(copy), tmp_path / "text", CAPTIONS)
    assert text.fingerprint == frozen.fingerprint and not text.trainable
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == ["source.json"]
    reopened = TextEncoder.open(tmp_path / "text")
    np.testing.assert_array_equal(reopened.embed(CAPTIONS)[0], text.embed(CAPTIONS)[0])

    save_model(copy)  # other random weights
    other = TextEncoder.frozen(str(copy), 32).fingerprint
    with pytest.raises(Refusal, match=f"{other}.*{text.fingerprint}"):
        TextEncoder.open(tmp_path / "text")
    shutil.rmtree(copy)
    with pytest.raises(Refusal, match=f"{copy} does not exist"):
        TextEncoder.open(tmp_path / "text")


def test_the_fingerprint_covers_weights_vocabulary_and_length(model, frozen, tmp_path):
    assert TextEncoder.frozen(str(model), 31).fingerprint != frozen.fingerprint
    copy = shutil.copytree(model, tmp_path / "copy")
    train(["other words"], copy / "spiece.model", vocab_size=60)
    assert TextEncoder.frozen(str(copy), 32).fingerprint != frozen.fingerprint


@pytest.mark.slow
def test_a_run_trains_its_own_encoder(tmp_path):
    text = TextEncoder.create(text_config(), tmp_path, CAPTIONS)
    assert text.trainable and text.params is None and text.features == LAYOUT["d_model"]
    transformers.T5Config.from_pretrained(tmp_path)
    tokens, lengths = map(jnp.asarray, text.tokenize(CAPTIONS))

    loss = lambda params: jnp.sum(jnp.sin(text.module.apply({"params": params}, tokens, lengths)))
    gradients = jax.jit(jax.grad(loss))(text.init_params(jax.random.key(0)))
    assert all(np.isfinite(g).all() and g.any() for g in jax.tree.leaves(gradients))
    with pytest.raises(ValueError, match="trained with the diffusion model"):
        text.embed(CAPTIONS)


def test_a_trained_vocabulary_is_kept_when_the_run_goes_on(tmp_path, caplog):
    with caplog.at_level("WARNING", "jen1_jax"):
        first = TextEncoder.create(text_config(), tmp_path, [*CAPTIONS, "x " * 40])
    assert "2 of 5 captions are longer than 32 tokens" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "jen1_jax"):
        again = TextEncoder.create(text_config(), tmp_path, ["other captions", "x " * 40])
    assert "1 of 2 captions are longer than 32 tokens" in caplog.text
    assert again.fingerprint == first.fingerprint == TextEncoder.open(tmp_path).fingerprint
    other = text_config().copy_and_resolve_references()
    with other.unlocked():
        other.d_ff = 32
    with pytest.raises(Refusal, match="another text encoder"):
        TextEncoder.create(other, tmp_path, CAPTIONS)
    train(["other captions"], tmp_path / "spiece.model", vocab_size=60)
    with pytest.raises(Refusal, match=first.fingerprint):
        TextEncoder.open(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"source\.json is missing"):
        TextEncoder.open(tmp_path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_a_run_uses_a_bert_as_it_does_a_t5(bert, tmp_path):
    text = TextEncoder.create(text_config(bert), tmp_path / "text", CAPTIONS)
    embedding, lengths = text.embed(CAPTIONS)
    model = transformers.BertModel.from_pretrained(bert).eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(bert)
    with torch.no_grad():
        expected = model(**tokenizer(CAPTIONS[2], return_tensors="pt")).last_hidden_state[0]
    np.testing.assert_allclose(embedding[2, : lengths[2]], expected, atol=2e-3)  # float16
    assert text.features == 16 and embedding.shape == (4, 32, 16)
    assert lengths.tolist() == [4, 8, 15, 0]  # with [CLS] and [SEP]; the empty caption has neither
    assert not embedding[np.arange(32) >= lengths[:, None]].any()
    reopened = TextEncoder.open(tmp_path / "text")
    np.testing.assert_array_equal(reopened.embed(CAPTIONS)[0], embedding)
    with pytest.raises(Refusal, match="another text encoder"):
        TextEncoder.create(text_config(), tmp_path / "text", CAPTIONS)


def test_the_fingerprint_of_a_bert_covers_weights_vocabulary_and_length(bert, tmp_path):
    fingerprints = [TextEncoder.frozen(str(bert), length).fingerprint for length in (31, 32)]
    copy = shutil.copytree(bert, tmp_path / "copy")
    (copy / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    fingerprints.append(TextEncoder.frozen(str(copy), 32).fingerprint)
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] += 1
    save_file(weights, copy / "model.safetensors")
    fingerprints.append(TextEncoder.frozen(str(copy), 32).fingerprint)
    assert len(set(fingerprints)) == 4


def test_the_fingerprint_of_a_run_with_a_t5_is_the_recorded_one(tmp_path):
    """Runs that exist keep their fingerprint."""
    with zipfile.ZipFile(Path(__file__).parents[1] / "fixtures" / "run.zip") as archive:
        archive.extractall(tmp_path)
    text = TextEncoder.open(tmp_path / "run" / "text")
    assert text.fingerprint == "ebc7b8f2a31915bb6d07ea8e1984982b6933603afde8b9f6f857ceba19e1d947"


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path):
    save_model(tmp_path, vocab_size=10)
    with pytest.raises(Refusal, match="different models"):
        TextEncoder.frozen(str(tmp_path), 32)


def test_a_hub_name_is_found_locally_then_downloaded(model, frozen, monkeypatch):
    calls = []

    def snapshot_download(name, allow_patterns, local_files_only=False):
        calls.append((name, local_files_only))
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    text = TextEncoder.frozen("someone/flan", 32)
    assert text.encoder == "someone/flan" and text.fingerprint == frozen.fingerprint
    assert calls == [("someone/flan", True), ("someone/flan", False)]


def test_the_hubs_cache_is_read_offline_and_missing_files_are_named(
    model, frozen, tmp_path, monkeypatch
):
    """With the real client of the hub, in the layout of its cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        Refusal,
        match=r"lacks its config\.json, and the hub.*hf download someone/flan",
    ):
        TextEncoder.frozen("someone/flan", 32)
    folder = tmp_path / "models--someone--flan" / "snapshots" / ("0" * 40)
    sharded = transformers.T5EncoderModel.from_pretrained(model)
    sharded.save_pretrained(folder, max_shard_size="3KB")
    shutil.copy(model / "spiece.model", folder)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(folder.name)
    assert TextEncoder.frozen("someone/flan", 32).fingerprint == frozen.fingerprint
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    (folder / "spiece.model").unlink()
    with pytest.raises(Refusal, match=f"lacks its {shard.name}, spiece.model, and the hub"):
        TextEncoder.frozen("someone/flan", 32)


def test_a_bert_of_the_hub_needs_one_of_two_tokenizer_files(bert, tmp_path, monkeypatch):
    asked = []
    folder = shutil.copytree(bert, tmp_path / "hub")

    def snapshot_download(name, allow_patterns, local_files_only):
        asked.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    text = TextEncoder.frozen("someone/bert", 32)
    assert text.fingerprint == TextEncoder.frozen(str(bert), 32).fingerprint
    assert {"spiece.model", "tokenizer.json", "vocab.txt", "tokenizer_config.json"} <= set(asked)
    (folder / "vocab.txt").unlink()
    with pytest.raises(Refusal, match=r"lacks its tokenizer\.json or vocab\.txt, and the hub"):
        TextEncoder.frozen("someone/bert", 32)


def test_an_unreachable_hub_is_refused_in_one_sentence_with_a_way_out(tmp_path, monkeypatch):
    def snapshot_download(*_, **__):
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        Refusal,
        match=r"'someone/flan' is not a folder.*lacks its config.json.*\(no network\): "
        r".*hf download someone/flan",
    ):
        TextEncoder.create(text_config("someone/flan"), tmp_path / "text", CAPTIONS)
    assert not (tmp_path / "text" / "source.json").exists()
    with pytest.raises(Refusal, match="no/such/folder does not exist"):
        TextEncoder.frozen("./no/such/folder", 32)
