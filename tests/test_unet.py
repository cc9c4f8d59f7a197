"""The U-Net's blocks, parameters and gradients; tests/models/test_denoiser.py tests the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.training.optimizer import matrices
from jen1_jax.unet import REMAT, ResidualBlock, UNet
from tests.layers.testing import normal, randomised
from tests.models.testing import FRAMES, SIZES, UNET, K, batch

# Of one level, where compiling more would be slow.
SMALL = UNet(**SIZES, multipliers=(1, 2), factors=(2,), num_blocks=(1,), attentions=(0, 1))


@pytest.mark.slow
def test_only_an_example_without_text_depends_on_the_null_token():
    inputs = batch(text_lengths=np.array([0, 4], np.int32)).values()
    params, apply = randomised(SMALL, *inputs)
    before, after = (
        np.asarray(apply(params | {"null_text": sign * params["null_text"]}, *inputs))
        for sign in (1, -1)
    )
    assert (after != before)[0].any()
    np.testing.assert_array_equal(after[1], before[1])


def test_a_residual_block_is_its_formula():
    """In numpy: norm, SiLU, convolution, norm, scale and shift, SiLU, convolution, shortcut."""
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
    """Gradients of a loss that uses every input, by remat policy.

    Those of "scan" come from the same blocks in a loop, unstacked.
    """
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
def test_each_remat_policy_keeps_what_it_states():
    """Between the passes "products" saves more than "full" and less than "none"."""
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
def test_bfloat16_is_near_float32():
    params, apply = randomised(SMALL, *batch().values())
    _, apply_half = randomised(SMALL.clone(dtype="bfloat16"), *batch().values())
    full, half = (np.asarray(f(params, *batch().values())) for f in (apply, apply_half))
    assert 0 < np.sqrt(np.mean((half - full) ** 2)) < 0.03 * np.sqrt(np.mean(full**2))


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="one entry a factor"):
        randomised(UNET.clone(attentions=(1, 1)), *batch().values())


@pytest.mark.slow
def test_any_number_of_frames_is_padded_inside():
    short = batch(frames=20)
    params, apply = randomised(UNET, *short.values())
    longer = {
        name: np.pad(value, ((0, 0), (0, 4), (0, 0)))
        if np.ndim(value) == 3 and np.shape(value)[1] == 20
        else value
        for name, value in short.items()
    }
    np.testing.assert_allclose(
        apply(params, *short.values()), apply(params, *longer.values())[:, :20], atol=1e-5
    )
