"""The U-Net hears what it may hear and nothing else: no future, no padding, no neighbour, no text beyond its length.

Parameters are random everywhere, since the output layer starts at zero; every network is tiny and compiled once a shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.training.optimizer import matrices
from jen1_jax.unet import REMAT, ResidualBlock, UNet
from tests.layers.testing import normal, perturbed, randomised

FRAMES, K, TOKENS, D = 24, 3, 4, 6
TINY = dict(out_channels=K, channels=8, head_dim=4, ff_multiplier=2, text_features=5)
# every factor, level and kind of block; the last level of each and the bottleneck have transformers
NETS = {
    "factors_1_4": UNet(
        **TINY, multipliers=(1, 2, 1), factors=(1, 4), num_blocks=(1, 1), attentions=(1, 0, 1)
    ),
    "factors_2_3": UNet(
        **TINY, multipliers=(1, 1, 2), factors=(2, 3), num_blocks=(1, 2), attentions=(0, 1, 0)
    ),
    "null_text": UNet(
        **TINY,
        multipliers=(1, 1, 2),
        factors=(1, 2),
        num_blocks=(1, 1),
        attentions=(1, 1, 1),
        null_text="self_attention",
    ),
}
SMALL = UNet(
    **TINY, multipliers=(1, 2), factors=(2,), num_blocks=(1,), attentions=(0, 1)
)  # where compiling more would be dear
CAUSAL, BIDIRECTIONAL = 0, 1  # the batch's two examples


def batch(frames=FRAMES, valid=None, **changed):
    """Inputs of two examples: one causal, one bidirectional, the first `valid` frames real."""
    inputs = dict(
        noisy=normal(0, 2, FRAMES, K)[:, :frames],
        context=normal(1, 2, FRAMES, K)[:, :frames],
        mask=(normal(2, 2, FRAMES, 1)[:, :frames] > 0).astype(np.float32),
        log_snr=np.array([-1.0, 2.0], np.float32),
        text=normal(3, 2, TOKENS, D),
        text_lengths=np.array([2, 4], np.int32),
        valid=np.broadcast_to(
            (np.arange(frames) < (valid or frames)).astype(np.float32)[:, None], (2, frames, 1)
        ),
        causal=np.array([True, False]),
    )
    return inputs | changed


@pytest.fixture(
    scope="module",
    params=[
        "factors_2_3",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("factors_1_4", "null_text")),
    ],
)
def net(request):
    """The outputs of a network with random parameters for a batch with the given changes."""
    params, apply = randomised(NETS[request.param], *batch().values())
    call = lambda frames=FRAMES, valid=None, params=params, **changed: np.asarray(
        apply(params, *batch(frames, valid, **changed).values())
    )
    call.params, call.name = params, request.param
    return call


@pytest.mark.parametrize("name", ["noisy", "context", "mask"])
def test_a_causal_example_hears_no_later_frame_and_a_bidirectional_one_does(net, name):
    before = net()
    for frame in range(FRAMES):
        after = net(**{name: perturbed(batch()[name], np.s_[:, frame])})
        np.testing.assert_array_equal(after[CAUSAL, :frame], before[CAUSAL, :frame])
        assert (after[CAUSAL, frame] != before[CAUSAL, frame]).any()
        assert (after[BIDIRECTIONAL] != before[BIDIRECTIONAL]).any(axis=-1).all()


def test_an_example_gives_the_same_whatever_its_batch_mates_and_their_modes(net):
    mixed = net()
    for mode in (True, False):
        alone = net(causal=np.array([mode, mode]))
        example = CAUSAL if mode else BIDIRECTIONAL
        np.testing.assert_array_equal(mixed[example], alone[example])
        assert (mixed[1 - example] != alone[1 - example]).any()
    for name in ("noisy", "context", "mask", "log_snr", "text"):
        changed = net(**{name: perturbed(batch()[name], np.s_[CAUSAL])})
        np.testing.assert_array_equal(changed[BIDIRECTIONAL], mixed[BIDIRECTIONAL])
        assert (changed[CAUSAL] != mixed[CAUSAL]).any(), name


def test_the_content_of_padding_changes_nothing_and_its_output_is_zero(net):
    inputs = batch()
    for valid in range(1, FRAMES):
        garbage = {
            name: perturbed(inputs[name], np.s_[:, valid:], by=7.0)
            for name in ("noisy", "context", "mask")
        }
        clean, dirty = net(valid=valid), net(valid=valid, **garbage)
        np.testing.assert_array_equal(clean, dirty)
        np.testing.assert_array_equal(clean[:, valid:], 0)
        # a low-rate frame that real frames share with padding is real: through it the text reaches them
        other_text = net(valid=valid, text=-inputs["text"])
        assert (other_text != clean)[:, :valid].any(axis=-1).all()


def test_the_amount_of_padding_changes_nothing(net):
    for valid in (7, 10, 12):
        np.testing.assert_allclose(
            net(frames=12, valid=valid)[:, :valid],
            net(valid=valid)[:, :valid],
            rtol=1e-5,
            atol=1e-5,
        )
    assert not np.allclose(
        net(frames=12)[:, :12], net()[:, :12], atol=1e-2
    )  # as real frames they would have counted


def test_only_the_first_text_lengths_tokens_matter(net):
    text = batch()["text"]
    np.testing.assert_array_equal(net(text=perturbed(text, np.s_[0, 2:], by=7.0)), net())
    assert (net(text=perturbed(text, np.s_[0, 1])) != net())[0].any()


def test_without_text_an_example_sees_no_token_and_the_others_nothing_new(net):
    lengths, text = np.array([0, 4], np.int32), batch()["text"]
    np.testing.assert_array_equal(
        net(text_lengths=lengths), net(text_lengths=lengths, text=perturbed(text, np.s_[0], by=7.0))
    )
    np.testing.assert_array_equal(net(text_lengths=lengths)[1], net()[1])


def test_without_text_an_example_hears_no_later_frame_either(net):
    lengths = np.array([0, 0], np.int32)
    before = net(text_lengths=lengths)
    for frame in (1, 7, 13, FRAMES - 1):
        after = net(text_lengths=lengths, noisy=perturbed(batch()["noisy"], np.s_[:, frame]))
        np.testing.assert_array_equal(after[CAUSAL, :frame], before[CAUSAL, :frame])
        assert (after[BIDIRECTIONAL] != before[BIDIRECTIONAL]).any(axis=-1).all()
    garbage = perturbed(batch()["noisy"], np.s_[:, 13:], by=7.0)
    np.testing.assert_array_equal(
        net(valid=13, text_lengths=lengths), net(valid=13, text_lengths=lengths, noisy=garbage)
    )


@pytest.mark.parametrize("net", ["factors_2_3"], indirect=True)
def test_the_null_token_is_seen_without_text_alone(net):
    lengths = np.array([0, 4], np.int32)
    other = net(text_lengths=lengths, params=net.params | {"null_text": -net.params["null_text"]})
    assert (other != net(text_lengths=lengths))[0].any()
    np.testing.assert_array_equal(other[1], net(text_lengths=lengths)[1])


def test_the_noise_level_matters_within_its_limits(net):
    at = lambda log_snr: net(log_snr=np.full(2, log_snr, np.float32))
    assert (at(0.0) != at(0.5)).any(axis=-1).all()
    np.testing.assert_array_equal(at(20.0), at(1000.0))


def test_a_residual_block_is_its_formula():
    """Norm, SiLU, convolution, norm, scale and shift, SiLU, convolution, projected shortcut, in numpy."""
    x, embedding = normal(0, 1, 5, 4), normal(1, 1, 6)
    params, apply = randomised(ResidualBlock(8), x, embedding, np.ones((1, 5, 1), np.float32))
    silu = lambda x: x / (1 + np.exp(-x))
    norm = lambda x, scale: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    conv = lambda x, p: (
        sum(np.pad(x, ((0, 0), (1, 1), (0, 0)))[:, i : i + 5] @ p["kernel"][i] for i in range(3))
        + p["bias"]
    )
    scale, shift = np.split(
        silu(embedding) @ params["modulation"]["kernel"] + params["modulation"]["bias"], 2, axis=-1
    )
    h = conv(silu(norm(x, params["norm_in"]["scale"])), params["conv_in"])
    h = conv(silu(norm(h, params["norm_out"]["scale"]) * (1 + scale) + shift), params["conv_out"])
    expected = x @ params["shortcut"]["kernel"] + params["shortcut"]["bias"] + h
    np.testing.assert_allclose(
        apply(params, x, embedding, np.ones((1, 5, 1), np.float32)), expected, rtol=1e-4, atol=1e-4
    )


def test_starts_at_zero():
    output = jax.jit(lambda: SMALL.init(jax.random.key(0), **arrays(batch()))["params"]["output"])()
    assert not np.any(output["kernel"]) and not np.any(output["bias"])


def arrays(inputs):
    return {name: jax.tree.map(jnp.asarray, value) for name, value in inputs.items()}


@pytest.fixture(scope="module")
def gradients():
    """Gradients of a loss with every input in use, by remat policy; `scan` are those of the same blocks in a loop, unstacked."""
    inputs = arrays(
        batch(text_lengths=np.array([0, 4], np.int32), conditioning={"timing": normal(4, 2, 2)})
    )
    module = SMALL.clone(num_blocks=(2,), attentions=(0, 2))
    params, _ = randomised(module, *inputs.values())
    loss = lambda params, module: jnp.mean(
        (module.apply({"params": params}, **inputs) - normal(5, 2, FRAMES, K)) ** 2
    )
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    found = {remat: gradient(params, module.clone(remat=remat)) for remat in REMAT}
    for remat in REMAT:
        found[f"scan, {remat}"] = unstacked(
            gradient(stacked(params), module.clone(scan=True, remat=remat))
        )
    return found


RUNS = ("down_1_residual", "up_1_residual", "middle_transformer")  # of two blocks each


def stacked(params):
    """Parameters of two blocks each as a scanned network holds them."""
    single = {name: value for name, value in params.items() if not name.startswith(RUNS)}
    return single | {
        run: jax.tree.map(
            lambda *blocks: jnp.stack(blocks), *(params[f"{run}_{i}"] for i in (0, 1))
        )
        for run in RUNS
    }


def unstacked(params):
    blocks = {
        f"{run}_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params[run])
        for run in RUNS
        for i in (0, 1)
    }
    return {name: value for name, value in params.items() if name not in RUNS} | blocks


@pytest.mark.slow
def test_every_parameter_gets_a_gradient(gradients):
    without = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree.leaves_with_path(gradients["none"])
        if not np.abs(g).max() > 0
    ]
    assert without == []
    assert "conditioning_timing" in gradients["none"]


@pytest.mark.slow
@pytest.mark.parametrize("other", ["products", "full", *(f"scan, {remat}" for remat in REMAT)])
def test_neither_remat_nor_scanned_blocks_change_the_gradient(gradients, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradients["none"],
        gradients[other],
    )


def test_weights_decay_and_biases_and_scales_do_not_whether_stacked_or_not():
    for scan in (False, True):
        module = SMALL.clone(num_blocks=(2,), attentions=(0, 2), scan=scan)
        decayed = matrices(
            jax.eval_shape(module.init, jax.random.key(0), **arrays(batch()))["params"]
        )
        names = {(path[-1].key, decays) for path, decays in jax.tree.leaves_with_path(decayed)}
        assert names == {("kernel", True), ("bias", False), ("scale", False), ("null_text", False)}


def test_a_level_may_have_no_blocks_of_its_own():
    for scan in (False, True):
        module = SMALL.clone(num_blocks=(0,), attentions=(0, 0), scan=scan)
        params = jax.eval_shape(module.init, jax.random.key(0), **arrays(batch()))["params"]
        assert (
            all(leaf.size for leaf in jax.tree.leaves(params)) and "down_1_residual" not in params
        )


@pytest.mark.slow
def test_each_remat_policy_keeps_what_it_says():
    """Saved between the passes: a policy's products of weights, and neither norms nor attention weights."""
    inputs = arrays(batch())

    def saved(remat):
        module = SMALL.clone(remat=remat)
        params, _ = randomised(module, *inputs.values())
        _, backward = jax.eval_shape(
            lambda params: jax.vjp(lambda p: module.apply({"params": p}, **inputs), params), params
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    everything, products, nothing = map(saved, ("none", "products", "full"))
    assert nothing < products < everything


@pytest.mark.slow
def test_bfloat16_is_near_float32_and_comes_out_as_float32():
    params, apply = randomised(SMALL, *batch().values())
    _, apply_half = randomised(SMALL.clone(dtype="bfloat16"), *batch().values())
    full, half = (np.asarray(f(params, *batch().values())) for f in (apply, apply_half))
    assert half.dtype == np.float32
    assert 0 < np.sqrt(np.mean((half - full) ** 2)) < 0.03 * np.sqrt(np.mean(full**2))


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="one entry a factor"):
        randomised(NETS["factors_2_3"].clone(attentions=(1, 1)), *batch().values())


@pytest.mark.slow
def test_any_number_of_frames_is_padded_inside():
    short = batch(frames=20)
    params, apply = randomised(NETS["factors_2_3"], *short.values())
    longer = {
        name: np.pad(value, ((0, 0), (0, 4), (0, 0)))
        if np.ndim(value) == 3 and np.shape(value)[1] == 20
        else value
        for name, value in short.items()
    }
    np.testing.assert_allclose(
        apply(params, *short.values()), apply(params, *longer.values())[:, :20], atol=1e-5
    )
