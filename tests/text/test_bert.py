"""The BERT encoder equals that of transformers in PyTorch, loaded from files of transformers."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from jen1_jax.text import bert, encoders
from jen1_numpy.errors import Refusal
from tests.text.models import load, random_batch, reference

LAYOUT = dict(
    vocab_size=1000, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    intermediate_size=40, max_position_embeddings=160,
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a BERT with random weights, also of norms and biases, and it in PyTorch."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**LAYOUT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the model for a test to change."""
    return shutil.copytree(saved[0], tmp_path / "model")


def change_config(folder, **change):
    values = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def apply(saved):
    config, params = load(saved[0])
    return jax.jit(
        lambda tokens, lengths: config.module("float32").apply({"params": params}, tokens, lengths)
    )


def test_equals_transformers(saved, apply):
    tokens, lengths = random_batch()
    theirs = reference(saved[1], tokens, lengths)
    np.testing.assert_allclose(apply(tokens, lengths), theirs, rtol=0, atol=1e-5)
    assert np.abs(theirs).max() > 1


def test_padding_changes_no_token(apply):
    tokens, lengths = random_batch()
    real = np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None]
    out = apply(tokens, lengths)
    np.testing.assert_array_equal(apply(jnp.where(real, tokens, 7), lengths), out)
    assert out[real].any(axis=-1).all() and not out[~real].any()
    assert np.isfinite(apply(tokens, 0 * lengths)).all()


def test_bfloat16_stays_close(saved, apply):
    config, params = load(saved[0])
    tokens, lengths = random_batch()
    exact = apply(tokens, lengths)
    rounded = jax.jit(config.module("bfloat16").apply)({"params": params}, tokens, lengths)
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 3e-2  # computed in bfloat16, which has 8 bits


def test_reads_shards_of_a_model_with_a_head(saved, tmp_path):
    whole = transformers.BertForMaskedLM(transformers.BertConfig(**LAYOUT))
    whole.bert.load_state_dict(saved[1].state_dict(), strict=False)
    whole.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path)[1], load(saved[0])[1])


def test_reads_the_old_names_of_norms(saved, copy):
    weights = load_file(copy / "model.safetensors")
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): weight
        for name, weight in weights.items()
    }
    assert old.keys() != weights.keys()
    save_file(old, copy / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load(copy)[1], load(saved[0])[1])


def test_the_values_that_a_configuration_leaves_out_are_those_of_transformers(copy):
    ours, theirs = load(copy)[0], transformers.BertConfig()
    (copy / "config.json").write_text(json.dumps({"model_type": "bert"} | LAYOUT))
    assert encoders.read_config(copy) == ours
    for name in ("max_position_embeddings", "type_vocab_size", "layer_norm_eps"):
        assert getattr(bert.BertConfig, name) == getattr(theirs, name)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu', but of BERT only 'gelu'"),
        ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"num_attention_heads": 5}, "hidden_size 24.*num_attention_heads 5"),
        ({"num_hidden_layers": 3}, "no weight 'encoder.layer.2"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers '2', which must be a number above 0"),
        ({"vocab_size": 0}, "vocab_size 0, which must be a number above 0"),
        ({"intermediate_size": 32}, r"intermediate.dense.*has the shape \(40"),
    ],
)
def test_an_unsupported_layout_is_named(copy, change, message):
    change_config(copy, **change)
    with pytest.raises(Refusal, match=message):
        load(copy)


def test_more_tokens_than_positions_are_refused(saved):
    config, _ = load(saved[0])
    with pytest.raises(Refusal, match=r"161 tokens.*positions for 160: set text\.max_length"):
        config.tokenizer(saved[0], 161)
    with pytest.raises(Refusal, match="is missing"):  # the length is accepted
        config.tokenizer(saved[0], 160)


def test_every_weight_of_transformers_is_read(saved):
    config, weights = encoders.load(saved[0])
    names = {config.weight_names(path)[0] for path, _ in weights}
    assert names == {name for name, _ in saved[1].named_parameters() if "pooler" not in name}
