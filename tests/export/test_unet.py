"""The PyTorch layers and U-Net equal ours, in every mode, and PyTorch can compile and export it."""

import importlib

import jax
import numpy as np
import pytest
import torch

import jen1_jax.layers.attention as ours_attention
import jen1_jax.layers.conv as ours
from jen1_jax import unet as ours_unet
from jen1_jax.layers.embeddings import LogSNREmbedding
from jen1_numpy.errors import Refusal
from jen1_torch import attention, layers, unet
from tests.export.testing import distance, filled, loaded, torch_state
from tests.layers.testing import normal

BATCH, FRAMES, TOKENS, WIDTH, K = 4, 12, 5, 8, 3
MODES = {
    "bidirectional": np.zeros(BATCH, bool),
    "causal": np.ones(BATCH, bool),
    "mixed": np.array([True, False, True, False]),
}
# Two examples with padding, two without text, in all four combinations; the modes differ in each.
VALID = (np.arange(FRAMES) < np.array([[12], [12], [7], [7]]))[..., None].astype(np.float32)
LENGTHS = np.array([0, TOKENS, 2, 0], np.int32)


def tensors(inputs):
    return jax.tree.map(torch.tensor, inputs)


def assert_equal_in_every_mode(ours_module, theirs_module, *inputs):
    """With the same random parameters; both take `causal` last."""
    params = filled(ours_module, *inputs, MODES["mixed"])
    apply, twin = jax.jit(ours_module.apply), loaded(theirs_module, params)
    for mode, causal in MODES.items():
        result = twin(*tensors([*inputs, causal]))
        assert distance(result, apply({"params": params}, *inputs, causal)) < 1e-5, mode


@pytest.mark.parametrize(
    "pair",
    [
        (ours.Conv1d(6, 1), layers.Conv1d(WIDTH, 6, 1)),
        (ours.Conv1d(6, 3), layers.Conv1d(WIDTH, 6, 3)),
        (
            ours.Conv1d(6, 5, dilation=2, weight_norm=True),
            layers.Conv1d(WIDTH, 6, 5, dilation=2, weight_norm=True),
        ),
        (ours.Downsample(6, 3), layers.Downsample(WIDTH, 6, 3)),
        (
            ours.Downsample(6, 4, kernel_size=3, weight_norm=True),
            layers.Downsample(WIDTH, 6, 4, kernel_size=3, weight_norm=True),
        ),
        (
            ours.Upsample(6, 4, kernel_size=3, weight_norm=True),
            layers.Upsample(WIDTH, 6, 4, kernel_size=3, weight_norm=True),
        ),
    ],
    ids=["taps-1", "taps-3", "dilated-weight-norm", "downsample", "downsample-taps-3", "upsample"],
)
def test_a_convolution_equals_ours_in_every_mode(pair):
    assert_equal_in_every_mode(*pair, normal(0, BATCH, FRAMES, WIDTH))


@pytest.mark.parametrize("causal", [False, True])
def test_one_bool_is_the_mode_of_all_examples(causal):
    x = torch.randn(BATCH, FRAMES, WIDTH)
    for layer in (layers.Conv1d(WIDTH, 6, 5, dilation=2), layers.Downsample(WIDTH, 6, 3)):
        torch.testing.assert_close(layer(x, causal), layer(x, torch.full((BATCH,), causal)))


def test_weight_normalisation_starts_as_no_change():
    layer, x = layers.Conv1d(WIDTH, 6, 3, weight_norm=True), torch.randn(BATCH, FRAMES, WIDTH)
    normalised = layer(x)
    layer.scale = None
    torch.testing.assert_close(normalised, layer(x))


def test_the_embedding_of_the_noise_level_equals_ours():
    log_snr = np.array([-30, -3.7, 0.1, 19.9], np.float32)
    params = filled(LogSNREmbedding(32), log_snr)
    twin = loaded(layers.LogSNREmbedding(32), params)
    expected = jax.jit(LogSNREmbedding(32).apply)({"params": params}, log_snr)
    assert distance(twin(torch.from_numpy(log_snr)), expected) < 1e-5
    # In half precision the weights are rounded, but not the noise level.
    assert distance(twin.bfloat16()(torch.from_numpy(log_snr)), expected) < 0.01


def test_rotary_angles_stay_exact_over_long_windows():
    frames, channels = 20_000, 4
    frequencies = 10_000.0 ** -np.array([0, 0.5])
    angles = np.arange(frames)[:, None] * frequencies
    x = torch.zeros(1, frames, 1, channels)
    x[..., : channels // 2] = 1
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(
        attention.Rotary(channels).bfloat16()(x)[0, :, 0], expected, atol=1e-6
    )


@pytest.mark.parametrize("features", [WIDTH, 6], ids=["same-width", "shortcut"])
def test_a_residual_block_equals_ours_in_every_mode(features):
    inputs = normal(0, BATCH, FRAMES, WIDTH), normal(1, BATCH, 10), VALID
    blocks = ours_unet.ResidualBlock(features), unet.ResidualBlock(WIDTH, features, 10)
    assert_equal_in_every_mode(*blocks, *inputs)


@pytest.mark.parametrize("replace_text", [False, True], ids=["token", "self_attention"])
@pytest.mark.parametrize("qk_norm", [False, True], ids=["plain", "qk_norm"])
def test_a_transformer_block_equals_ours_in_every_mode(replace_text, qk_norm):
    text_width = WIDTH if replace_text else 6
    lengths = LENGTHS if replace_text else np.maximum(LENGTHS, 1)
    inputs = (
        normal(0, BATCH, FRAMES, WIDTH),
        normal(1, BATCH, TOKENS, text_width),
        lengths,
        VALID,
    )
    options = dict(head_dim=4, ff_multiplier=2, replace_text=replace_text, qk_norm=qk_norm)
    blocks = (
        ours_attention.TransformerBlock(**options),
        attention.TransformerBlock(WIDTH, text_width, **options),
    )
    assert_equal_in_every_mode(*blocks, *inputs)


def test_a_query_without_any_key_attends_to_all():
    """So that no softmax is that of nothing, which is not a number."""
    x, none = torch.randn(2, FRAMES, 2, 4), torch.zeros(2, FRAMES, dtype=torch.bool)
    result = attention.attention(x, x, x, none, causal=torch.tensor([True, False]))
    torch.testing.assert_close(result, attention.attention(x, x, x, ~none))


SMALL = dict(
    out_channels=K,
    channels=4,
    multipliers=(1, 2),
    factors=(2,),
    num_blocks=(1,),
    attentions=(0, 1),
    head_dim=4,
    ff_multiplier=2,
    text_features=16,
)


def inputs_of(conditioning, frames=11):
    """Both modes, with and without padding and text; 11 frames are no multiple of the factors."""
    return dict(
        noisy=normal(0, BATCH, frames, K),
        context=normal(1, BATCH, frames, K),
        mask=(normal(2, BATCH, frames, 1) > 0).astype(np.float32),
        log_snr=np.array([-12, -1, 2, 9], np.float32),
        text=normal(3, BATCH, TOKENS, SMALL["text_features"]),
        text_lengths=LENGTHS,
        valid=VALID[:, :frames],
        causal=MODES["mixed"],
        conditioning={name: normal(4, BATCH, 6) for name in conditioning},
    )


class Preset:
    """Our U-Net of a preset's depth and 1/64 of its width with random parameters, and its twin."""

    def __init__(self, name):
        config = importlib.import_module(f"configs.{name}").get_config().unet.to_dict()
        sizes = {field: SMALL[field] for field in ("channels", "head_dim", "text_features")}
        config |= sizes | dict(out_channels=K, dtype="float32")
        self.inputs = inputs_of(config["conditioning"])
        module = ours_unet.UNet(**config)
        self.params = filled(module, *self.inputs.values())
        self.expected = jax.jit(module.apply)({"params": self.params}, **self.inputs)
        config["conditioning"] = dict.fromkeys(config["conditioning"], 6)
        self.fields = {
            name: value for name, value in config.items() if name not in ("dtype", "remat", "scan")
        }

    def twin(self):
        return loaded(unet.UNet(**self.fields), self.params)


@pytest.fixture(scope="module", params=["jen1", "jen1_fast"])
def preset(request):
    return Preset(request.param)


def test_the_network_equals_ours_at_the_depth_of_the_presets(preset):
    result = preset.twin()(**tensors(preset.inputs))
    assert result.shape == preset.expected.shape and result.dtype == torch.float32
    for i in range(BATCH):  # no example's error hides behind the size of another
        assert distance(result[i], preset.expected[i]) < 1e-4


def test_a_network_built_without_memory_takes_its_parameters(preset):
    """A loader that must not hold the weights twice builds on the device `meta`."""
    with torch.device("meta"):
        network = unet.UNet(**preset.fields)
    network.load_state_dict(torch_state(preset.params), assign=True)
    assert distance(network(**tensors(preset.inputs)).detach(), preset.expected) < 1e-4


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.005)])
def test_half_precision_is_close_to_float32(preset, dtype, tolerance):
    result = preset.twin().to(dtype)(**tensors(preset.inputs))
    assert result.dtype == torch.float32 and result.isfinite().all()
    assert distance(result, preset.expected) < tolerance


def small(null_text):
    network = unet.UNet(**SMALL, null_text=null_text, conditioning={"timing": 6})
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("null_text", unet.NULL_TEXTS)
def test_pytorch_compiles_it_as_one_graph(null_text):
    network, inputs = small(null_text), tensors(inputs_of(["timing"]))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs), network(**inputs))


def test_pytorch_exports_it_for_any_number_of_examples_and_frames():
    network, inputs = small("self_attention"), tensors(inputs_of(["timing"]))
    auto = torch.export.Dim.AUTO
    dynamic = {name: {0: auto} for name in inputs} | {"conditioning": {"timing": {0: auto}}}
    dynamic |= {name: {0: auto, 1: auto} for name in ("noisy", "context", "mask", "valid")}
    program = torch.export.export(network, (), inputs, dynamic_shapes=dynamic).module()
    fewer = jax.tree.map(lambda x: x[:3], tensors(inputs_of(["timing"], frames=8)))
    for batch in (inputs, fewer):
        torch.testing.assert_close(program(**batch), network(**batch))


def test_fields_that_do_not_fit_are_refused():
    for changed, message in (
        (dict(attentions=(1,)), "unet.attentions"),
        (dict(head_dim=3), "head_dim 3"),
        (dict(head_dim=1), "head_dim must be even"),
        (dict(null_text="zeros"), "token, self_attention"),
    ):
        with pytest.raises(Refusal, match=message):
            unet.UNet(**SMALL | changed)
    with pytest.raises(Refusal, match="odd"):
        layers.Conv1d(2, 2, 4)
