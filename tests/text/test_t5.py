"""Our T5 encoder equals transformers' PyTorch one, from the files that transformers writes."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

from jen1_jax.errors import Refusal
from jen1_jax.text import t5

LAYOUTS = {  # FLAN-T5 small and large with fewer layers and pieces
    "small": dict(d_model=512, num_heads=6, d_kv=64, d_ff=1024, num_layers=3),
    "large": dict(d_model=1024, num_heads=16, d_kv=64, d_ff=2816, num_layers=2),
}
LENGTHS = [40, 1, 150]  # 150 tokens reach beyond the largest distance told apart


def save(folder, **layout):
    """A random FLAN-T5 in `folder`; returns the PyTorch encoder. Norms and position biases are made to matter."""
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=1000, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **layout)
    model = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name or "relative" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=LAYOUTS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save(folder, **LAYOUTS[request.param])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return folder, save(folder, d_model=16, num_heads=3, d_kv=8, d_ff=24, num_layers=2)


@pytest.fixture
def broken(tiny, tmp_path):
    """A copy of the tiny model for a test to break."""
    return shutil.copytree(tiny[0], tmp_path / "model")


def random_batch():
    tokens = np.random.default_rng(0).integers(3, 1000, (len(LENGTHS), max(LENGTHS)))
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(LENGTHS, jnp.int32)


def reference(model, tokens, lengths):
    mask = np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None]
    with torch.no_grad():
        out = model(input_ids=torch.tensor(np.asarray(tokens), dtype=torch.long), attention_mask=torch.tensor(mask))
    return out.last_hidden_state.numpy() * mask[..., None]


def test_equals_transformers(saved):
    folder, model = saved
    config, params = t5.load(folder)
    tokens, lengths = random_batch()
    ours = jax.jit(t5.T5Encoder(config).apply)({"params": params}, tokens, lengths)
    theirs = reference(model, tokens, lengths)
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_buckets_equal_transformers(tiny):
    config, _ = t5.load(tiny[0])
    distance = torch.arange(600)[None, :] - torch.arange(600)[:, None]
    np.testing.assert_array_equal(t5.position_buckets(600, config), T5Attention._relative_position_bucket(distance))


@pytest.fixture(scope="module")
def apply(tiny):
    config, params = t5.load(tiny[0])
    return jax.jit(lambda tokens, lengths: t5.T5Encoder(config).apply({"params": params}, tokens, lengths))


def test_padding_changes_no_token(apply):
    tokens, lengths = random_batch()
    real = np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None]
    other = jnp.where(real, tokens, 7)
    assert (other != tokens).any()
    out = apply(tokens, lengths)
    np.testing.assert_array_equal(apply(other, lengths), out)
    assert out[real].any(axis=-1).all() and not out[~real].any()
    assert np.isfinite(apply(tokens, 0 * lengths)).all()


def test_bfloat16_stays_close(tiny, apply):
    config, params = t5.load(tiny[0])
    tokens, lengths = random_batch()
    exact = apply(tokens, lengths)
    rounded = jax.jit(t5.T5Encoder(config, jnp.bfloat16).apply)({"params": params}, tokens, lengths)
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 2e-2  # computed in bfloat16, and no worse than its 8 bits


def test_reads_shards_and_a_whole_model(tiny, tmp_path):
    """The hub's FLAN-T5 folders also hold the decoder; large ones are sharded; some are bfloat16."""
    config, expected = t5.load(tiny[0])
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config.from_pretrained(tiny[0]))
    whole.load_state_dict(tiny[1].state_dict(), strict=False)
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    same_config, params = t5.load(tmp_path)
    assert same_config == config
    jax.tree.map(np.testing.assert_array_equal, params, expected)

    whole.bfloat16().save_pretrained(tmp_path / "half")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), t5.load(tmp_path / "half")[1], expected)


def test_our_configuration_is_transformers(tiny, tmp_path):
    config, _ = t5.load(tiny[0])
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    theirs = transformers.T5EncoderModel(transformers.T5Config.from_pretrained(tmp_path))
    theirs.load_state_dict(tiny[1].state_dict())
    assert t5.T5Config.from_json(config.to_json(), "here") == config


@pytest.mark.slow
def test_a_block_starts_out_adding_about_as_much_as_a_token():
    config = t5.T5Config(vocab_size=1000, d_model=128, d_kv=32, d_ff=256, num_layers=1, num_heads=4)
    module = t5.T5Encoder(config)

    @jax.jit
    def stream(key):
        tokens, lengths = random_batch()
        variables = module.init(key, tokens, lengths)
        _, state = module.apply(variables, tokens, lengths, capture_intermediates=True, mutable="intermediates")
        return [state["intermediates"][name]["__call__"][0] for name in ("token", "block_0")]

    token, after = stream(jax.random.key(0))
    assert 0.3 < np.std(after - token) / np.std(token) < 1.5


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(broken, name):
    (broken / name).unlink()
    with pytest.raises(Refusal, match=f"{name} is missing in {broken}"):
        t5.load(broken)


def test_a_missing_shard_is_named(broken):
    (broken / "model.safetensors").unlink()
    index = {"weight_map": {"shared.weight": "model-00001-of-00001.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refusal, match=r"model-00001-of-00001\.safetensors is missing"):
        t5.load(broken)


def test_pickled_weights_are_not_opened(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(Refusal, match=r"pytorch_model\.bin.*save_pretrained"):
        t5.load(broken)


def test_a_damaged_file_is_named(broken):
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(Refusal, match=r"model\.safetensors is damaged"):
        t5.load(broken)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj 'relu'"),
        ({"model_type": "bert"}, "model_type 'bert'"),
        ({"d_ff": 32}, "wi_0.weight.*shape.*24, 16"),
        ({"num_layers": 3}, "no weight 'encoder.block.2"),
        ({"d_kv": None}, "d_kv"),
    ],
)
def test_an_unsupported_layout_is_named(broken, change, message):
    values = json.loads((broken / "config.json").read_text()) | change
    (broken / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(Refusal, match=message):
        t5.load(broken)
