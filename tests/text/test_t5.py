"""The T5 encoder equals that of transformers in PyTorch, loaded from files of transformers."""

import json
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from transformers.models.t5.modeling_t5 import T5Attention

from jen1_jax.text import encoders, t5
from jen1_numpy.errors import Refusal
from tests.text.models import load, random_batch, reference

# The encoders' sizes in the config.json of google/flan-t5-*; all have 64 channels a head and 32128
# pieces.
FLAN = {
    "small": dict(d_model=512, num_heads=6, d_ff=1024, num_layers=8),
    "base": dict(d_model=768, num_heads=12, d_ff=2048, num_layers=12),
    "large": dict(d_model=1024, num_heads=16, d_ff=2816, num_layers=24),
    "xl": dict(d_model=2048, num_heads=32, d_ff=5120, num_layers=24),
    "xxl": dict(d_model=4096, num_heads=64, d_ff=10240, num_layers=24),
}
LAYOUTS = {
    "small": FLAN["small"] | dict(d_kv=64),
    "large": FLAN["large"] | dict(d_kv=64, num_layers=2),
}


def save(folder, **layout):
    """Saves a FLAN-T5 with random weights, also of norms and positions; returns it in PyTorch."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=1000, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **layout
    )
    model = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name or "relative" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=[pytest.param("small", marks=pytest.mark.slow), "large"])
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


def test_equals_transformers(saved):
    folder, model = saved
    config, params = load(folder)
    tokens, lengths = random_batch()
    ours = jax.jit(t5.T5Encoder(config).apply)({"params": params}, tokens, lengths)
    theirs = reference(model, tokens, lengths)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, millions",
    [("small", 35.3), ("base", 109.6), ("large", 341.2), ("xl", 1223.5), ("xxl", 4762.3)],
)
def test_every_size_has_the_parameters_of_transformers(size, millions):
    reference = transformers.T5Config(
        vocab_size=32128, feed_forward_proj="gated-gelu", d_kv=64, **FLAN[size]
    )
    with torch.device("meta"):
        theirs = {
            name: tuple(weight.shape)
            for name, weight in transformers.T5EncoderModel(reference).named_parameters()
        }
    config = t5.T5Config.from_json(reference.to_dict(), size)
    ours = flatten_dict(encoders.abstract_params(config))
    shapes = {
        config.weight_names(path)[0]: leaf.shape[:: -1 if path[-1] == "kernel" else 1]
        for path, leaf in ours.items()
    }
    assert shapes == theirs
    assert sum(leaf.size for leaf in ours.values()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_buckets_equal_transformers(tiny):
    config, _ = load(tiny[0])
    distance = torch.arange(600)[None, :] - torch.arange(600)[:, None]
    np.testing.assert_array_equal(
        t5.position_buckets(600, config), T5Attention._relative_position_bucket(distance)
    )


@pytest.fixture(scope="module")
def apply(tiny):
    config, params = load(tiny[0])
    return jax.jit(
        lambda tokens, lengths: t5.T5Encoder(config).apply({"params": params}, tokens, lengths)
    )


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
    config, params = load(tiny[0])
    tokens, lengths = random_batch()
    exact = apply(tokens, lengths)
    rounded = jax.jit(t5.T5Encoder(config, jnp.bfloat16).apply)({"params": params}, tokens, lengths)
    assert rounded.dtype == jnp.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 2e-2  # computed in bfloat16, and no worse than its 8 bits


def test_norms_and_softmax_stay_float32_where_products_are_bfloat16(tiny):
    config, params = load(tiny[0])
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    module = t5.T5Encoder(config, "bfloat16")
    jaxpr = jax.make_jaxpr(lambda *args: module.apply({"params": half}, *args))(
        *random_batch()
    ).jaxpr
    types = {name: set() for name in ("dot_general", "exp", "rsqrt", "reduce_sum")}
    waiting = [jaxpr]
    while waiting:
        for equation in waiting.pop().eqns:
            waiting += jax.core.jaxprs_in_params(equation.params)
            if equation.primitive.name in types:
                types[equation.primitive.name] |= {
                    str(x.aval.dtype) for x in equation.invars if x.aval.ndim > 1
                }
    assert types.pop("dot_general") == {"bfloat16"}
    assert all(seen == {"float32"} for seen in types.values()), types
    inside = lambda *args: module.apply(
        {"params": half}, *args, capture_intermediates=True, mutable="intermediates"
    )
    _, state = jax.eval_shape(inside, *random_batch())
    assert (
        state["intermediates"]["block_1"]["__call__"][0].dtype == jnp.float32
    )  # the sum through the blocks


@pytest.mark.slow
def test_reads_shards_and_a_whole_model(tiny, tmp_path):
    """The hub's FLAN-T5 folders also hold the decoder; some are sharded, some bfloat16."""
    config, expected = load(tiny[0])
    layout = transformers.T5Config.from_pretrained(tiny[0])
    layout.num_decoder_layers, layout.is_encoder_decoder = 300, True
    whole = transformers.T5ForConditionalGeneration(layout)
    whole.load_state_dict(tiny[1].state_dict(), strict=False)
    whole.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (
        len(list(tmp_path.glob("*.safetensors"))) > 3
        and not (tmp_path / "model.safetensors").exists()
    )
    tracemalloc.start()
    for _ in encoders.load(tmp_path)[1]:  # the decoder's weights, most of the files, are not read
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    same_config, params = load(tmp_path)
    assert same_config == config
    jax.tree.map(np.testing.assert_array_equal, params, expected)

    whole.bfloat16().save_pretrained(tmp_path / "half")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8),
        load(tmp_path / "half")[1],
        expected,
    )


def test_our_configuration_is_transformers(tiny, tmp_path):
    config, _ = load(tiny[0])
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    theirs = transformers.T5EncoderModel(transformers.T5Config.from_pretrained(tmp_path))
    theirs.load_state_dict(tiny[1].state_dict())
    assert t5.T5Config.from_json(config.to_json(), "here") == config


@pytest.mark.slow
def test_an_initial_block_adds_about_as_much_as_a_token():
    config = t5.T5Config(vocab_size=1000, d_model=128, d_kv=32, d_ff=256, num_layers=1, num_heads=4)
    module = t5.T5Encoder(config)

    @jax.jit
    def stream(key):
        tokens, lengths = random_batch()
        variables = module.init(key, tokens, lengths)
        _, state = module.apply(
            variables, tokens, lengths, capture_intermediates=True, mutable="intermediates"
        )
        return [state["intermediates"][name]["__call__"][0] for name in ("token", "block_0")]

    token, after = stream(jax.random.key(0))
    assert 0.3 < np.std(after - token) / np.std(token) < 1.5


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(broken, name):
    (broken / name).unlink()
    with pytest.raises(Refusal, match=f"{name} is missing in {broken}"):
        load(broken)


def test_a_missing_shard_is_named(broken):
    (broken / "model.safetensors").unlink()
    index = {"weight_map": {"shared.weight": "model-00001-of-00001.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refusal, match=r"model-00001-of-00001\.safetensors is missing"):
        load(broken)


@pytest.mark.parametrize("name", ["../model.safetensors", 1])
def test_an_index_that_names_no_file_of_its_folder_is_refused(broken, name):
    (broken / "model.safetensors").rename(broken.parent / "model.safetensors")
    index = {"weight_map": {"shared.weight": name}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Refusal, match=r"index\.json does not list files of its folder"):
        load(broken)


def test_pickled_weights_are_not_opened(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(Refusal, match=r"pytorch_model\.bin.*save_pretrained"):
        load(broken)


def test_a_damaged_file_is_named(broken):
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(Refusal, match=r"model\.safetensors is damaged"):
        load(broken)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj 'relu'"),
        ({"model_type": "roberta"}, "model_type 'roberta', but only 't5', 'mt5', 'bert' are"),
        ({"model_type": ["t5"]}, "model_type"),
        ({"num_heads": "3"}, "num_heads '3', which must be a number above 0"),
        ({"d_ff": 32}, "wi_0.weight.*shape.*24, 16"),
        ({"num_layers": 3}, "no weight 'encoder.block.2"),
        ({"d_kv": None}, "d_kv"),
    ],
)
def test_an_unsupported_layout_is_named(broken, change, message):
    values = json.loads((broken / "config.json").read_text()) | change
    (broken / "config.json").write_text(
        json.dumps({key: value for key, value in values.items() if value is not None})
    )
    with pytest.raises(Refusal, match=message):
        load(broken)
