"""The kernel for TPUs equals the attention elsewhere (it is interpreted on the CPU here)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.layers.attention import attention
from jen1_jax.layers.splash import splash_attention
from tests.devices import run_on
from tests.layers.testing import normal

pytestmark = pytest.mark.slow  # interpreted
BATCH, FRAMES, KEYS, HEADS, CHANNELS = 2, 1280, 1408, 1, 128


def values_and_gradients(attend, query, key, value, weights, valid, lengths, causal):
    """The attention, and the gradients of its sum with `weights` by query, key and value."""
    y, gradients = jax.vjp(
        lambda *inputs: attend(*inputs, valid=valid, lengths=lengths, causal=causal),
        query,
        key,
        value,
    )
    return y, *gradients(weights)


def interpreted(*inputs, **masks):
    return splash_attention(*inputs, **masks, interpret=True)


# Several blocks of queries and of keys, or one of each; the queries belong to the last keys.
@pytest.fixture(scope="module", params=[(FRAMES, KEYS), (384, 512)], ids=["blocks", "one"])
def both(request):
    """Both attentions of random inputs, and their gradients, as a function of the masks."""
    frames, keys = request.param
    shapes = (frames, keys, keys, frames)
    inputs = [
        jnp.asarray(normal(seed, BATCH, length, HEADS, CHANNELS))
        for seed, length in enumerate(shapes)
    ]
    compiled = [jax.jit(values_and_gradients, static_argnums=0) for _ in range(2)]
    return lambda valid, lengths, causal: [
        f(attend, *inputs, valid[:, :keys], np.minimum(lengths, keys), causal)
        for f, attend in zip(compiled, (interpreted, attention), strict=True)
    ]


@pytest.mark.parametrize(
    "causal",
    [[False, False], [True, True], [True, False]],
    ids=["bidirectional", "causal", "mixed"],
)
@pytest.mark.parametrize("length", [KEYS, 1000], ids=["whole", "padded"])
def test_values_and_gradients_equal_those_elsewhere(both, causal, length):
    valid = np.ones((BATCH, KEYS), bool)
    valid[0, 20:128] = valid[1, 1200:] = False
    for ours, theirs in zip(*both(valid, np.array([KEYS, length]), np.array(causal)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_query_without_any_key_is_finite_and_so_is_its_gradient(both):
    ours, _ = both(np.zeros((BATCH, KEYS), bool), np.array([0, KEYS]), np.array([True, False]))
    assert all(np.isfinite(x).all() for x in ours)


def test_softmax_is_float32_in_half_precision():
    query, key, value = (
        jnp.asarray(normal(seed, 1, 128, 1, CHANNELS), jnp.bfloat16) for seed in range(3)
    )
    exact = attention(*(x.astype(jnp.float32) for x in (query, key, value)))
    np.testing.assert_allclose(interpreted(query, key, value).astype(np.float32), exact, atol=2**-6)


@pytest.mark.parametrize(
    "platform, frames, kernel", [("tpu", 384, True), ("tpu", 256, False), ("cpu", 384, False)]
)
def test_the_kernel_is_chosen_for_long_sequences_on_a_tpu_wherever_it_is_compiled(
    platform, frames, kernel
):
    x = jax.ShapeDtypeStruct((BATCH, frames, HEADS, CHANNELS), jnp.bfloat16)
    lowered = jax.jit(attention).trace(x, x, x).lower(lowering_platforms=(platform,))
    assert ("tpu_custom_call" in lowered.as_text()) == kernel


PROGRAM = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jen1_jax.layers.attention import attention
from tests.layers.test_splash import interpreted, values_and_gradients
from tests.layers.testing import normal

axes = {"data": 2, "fsdp": 1, "tensor": 2}
auto = (jax.sharding.AxisType.Auto,) * 3
mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=auto)
for batch, heads in ((4, 2), (3, 1)):
    inputs = [normal(seed, batch, 128, heads, 128) for seed in range(4)]
    masks = np.arange(128) < np.arange(60, 60 + batch)[:, None], None, np.arange(batch) % 2 == 0
    expected = jax.jit(values_and_gradients, static_argnums=0)(attention, *inputs, *masks)
    with jax.set_mesh(mesh):
        if batch % 2 == 0:
            split = NamedSharding(mesh, P(("data", "fsdp")))
            inputs, masks = jax.device_put((inputs, masks), split)
        results = jax.jit(values_and_gradients, static_argnums=0)(interpreted, *inputs, *masks)
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    print({ours.sharding.shard_shape(ours.shape) for ours in results})
"""


def test_a_mesh_splits_examples_and_heads_where_it_divides_them():
    """And the program checks that the result equals that of one device."""
    assert run_on(4, PROGRAM).splitlines() == ["{(2, 128, 1, 128)}", "{(3, 128, 1, 128)}"]
