"""Prompts become the same embeddings in PyTorch as in ours."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from jen1_jax.generation.prompts import PromptEncoder
from jen1_jax.text import t5 as our_t5
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.text.vocabulary import train
from jen1_numpy.errors import Refusal
from jen1_numpy.prompts import embed_prompts
from jen1_numpy.tokenizer import SentencePiece
from jen1_torch.t5 import T5Encoder, position_buckets
from jen1_torch.text import FrozenText, TrainedText
from tests.export.testing import distance, loaded

CAPTIONS = [
    "Slow piano over warm strings, 90 bpm",
    "",
    "naïve café [SEP] </s>",
    "drums & bass! " * 9,
]
LAYOUT = dict(vocab_size=80, d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
MAX_LENGTH = 24


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentencepiece")
    train(CAPTIONS, folder / "spiece.model", vocab_size=80)
    return folder


def write_wordpiece(folder):
    characters = sorted(set("".join(CAPTIONS)) - {" "})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "piano", "##ano", "slow", *characters]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"strip_accents": False}))


@pytest.fixture(scope="module")
def trained():
    """Our small T5 with random parameters, and its twin."""
    module = our_t5.T5Encoder(our_t5.T5Config(**LAYOUT))
    rng = np.random.default_rng(0)
    shapes = module.init(
        np.zeros(2, np.uint32), jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    )["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    return module, params, loaded(T5Encoder(**LAYOUT), params)


def test_buckets_equal():
    config = our_t5.T5Config(**LAYOUT)
    np.testing.assert_array_equal(position_buckets(300), our_t5.position_buckets(300, config))


def test_the_small_t5_equals(trained):
    """With padding, and in an example without tokens."""
    module, params, twin = trained
    tokens = np.random.default_rng(0).integers(0, 80, (3, 150))
    lengths = np.array([150, 40, 0])
    expected = module.apply(
        {"params": params}, jnp.asarray(tokens, jnp.int32), jnp.asarray(lengths, jnp.int32)
    )
    result = twin(torch.tensor(tokens), torch.tensor(lengths))
    assert distance(result, expected) < 1e-5
    assert not result[2].any() and not result[1, 40:].any()


@pytest.mark.parametrize("dtype, limit", [(torch.bfloat16, 0.05), (torch.half, 0.01)])
def test_the_small_t5_computes_in_half_precision(trained, dtype, limit):
    _, params, twin = trained
    tokens, lengths = torch.arange(20)[None], torch.tensor([20])
    half = loaded(T5Encoder(**LAYOUT), params).to(dtype)(tokens, lengths)
    assert half.dtype == torch.float32
    assert distance(half, twin(tokens, lengths)) < limit


@pytest.mark.parametrize("guided", [True, False])
def test_prompts_are_embedded_alike(trained, sentencepiece, guided, caplog):
    module, params, twin = trained
    tokenizer = SentencePiece(sentencepiece, MAX_LENGTH)
    ours = PromptEncoder(TextEncoder("", module.config, tokenizer, "float32", ""), params)
    theirs = TrainedText(tokenizer, twin)
    prompts = [*CAPTIONS, CAPTIONS[0]]
    result = embed_prompts(theirs, prompts, "slow bass", guided)
    assert len(caplog.records) == 3 - guided  # an empty prompt, a long one, and no guidance
    expected = embed_prompts(ours, prompts, "slow bass", guided)
    for part, other in zip(result, expected, strict=True):
        assert part.shape == other.shape
        assert distance(part, other) < 1e-5
    assert result.text.dtype == torch.float32


def save_t5(folder, sentencepiece):
    config = transformers.T5Config(
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, **LAYOUT
    )
    save(transformers.T5EncoderModel(config), folder)
    (folder / "spiece.model").write_bytes((sentencepiece / "spiece.model").read_bytes())


def save_bert(folder, _):
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=MAX_LENGTH,
    )
    save(transformers.BertModel(config), folder)
    write_wordpiece(folder)


def save(model, folder):
    """Saves a model with random weights, also of norms and biases."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1)
    model.save_pretrained(folder)


@pytest.fixture(scope="module", params=[save_t5, save_bert], ids=["t5", "bert"])
def frozen(request, tmp_path_factory, sentencepiece):
    folder = tmp_path_factory.mktemp("frozen")
    request.param(folder, sentencepiece)
    return folder


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-4), ("bfloat16", 0.03)])
def test_frozen_encoders_equal(frozen, dtype, limit):
    expected, lengths = TextEncoder.frozen(str(frozen), MAX_LENGTH, dtype).embed(CAPTIONS)
    text = FrozenText(str(frozen), MAX_LENGTH, dtype)
    result, found = text.embed(CAPTIONS)
    np.testing.assert_array_equal(found, lengths)
    assert result.dtype == torch.float32 and result.shape == expected.shape
    assert distance(result, expected) < limit
    assert torch.equal(result, result.half().float())  # rounded as in training
    alone, _ = text.embed(CAPTIONS[:1])
    assert torch.equal(alone[0], result[0])


def test_a_frozen_encoder_that_cannot_be_used_is_refused(frozen, tmp_path):
    with pytest.raises(Refusal, match="cannot be computed in 'float16'"):
        FrozenText(str(frozen), MAX_LENGTH, "float16")
    with pytest.raises(Refusal, match="is not a folder, and the Hugging Face hub did not give it"):
        FrozenText("nobody/nothing", MAX_LENGTH, "float32")
    with pytest.raises(Refusal, match=r"config\.json is missing"):
        FrozenText(str(tmp_path), MAX_LENGTH, "float32")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(Refusal, match="model_type 'gpt2', but only 't5', 'mt5', 'bert'"):
        FrozenText(str(tmp_path), MAX_LENGTH, "float32")
    for path in frozen.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = safetensors.torch.load_file(frozen / "model.safetensors")
    missing = next(name for name in state if "0" in name)
    del state[missing]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refusal, match=f"has no weight '{missing}'"):
        FrozenText(str(tmp_path), MAX_LENGTH, "float32")
    weights = (frozen / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(Refusal, match="cannot be loaded"):
        FrozenText(str(tmp_path), MAX_LENGTH, "float32")
