"""The number of operations follows the formula, also in nested programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.flops import flops
from jen1_jax.layers.attention import attention
from jen1_jax.layers.conv import Conv1d

A, B = np.zeros((3, 4, 5)), np.zeros((3, 5, 6))
PRODUCT = 2 * 3 * 4 * 5 * 6
product = lambda a, b: a @ b


def test_products_and_convolutions_have_the_operations_of_the_formula():
    assert flops(product, A, B) == PRODUCT
    conv, x = Conv1d(8, 3), np.zeros((2, 10, 4), np.float32)
    params = jax.eval_shape(conv.init, jax.random.key(0), x)
    assert flops(conv.apply, params, x) == 2 * (2 * 10 * 8) * (3 * 4)


longer = lambda a, b: product(a, b) @ np.ones((3, 6, 6))


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (jax.jit(product), 1),
        (jax.checkpoint(product), 1),
        (lambda a, b: jax.lax.scan(lambda x, _: (x, product(a, b)), 0.0, length=7), 7),
        (lambda a, b: jax.lax.cond(True, product, longer, a, b), 2.2),
        (lambda a, b: jax.lax.platform_dependent(a, b, tpu=longer, default=product), 1),
        (lambda a, b: jax.grad(lambda a: product(a, b).sum())(a), 2),
    ],
)
def test_nested_programs_are_counted_as_often_as_they_run(function, times):
    assert flops(function, A, B) == pytest.approx(times * PRODUCT)


def test_attention_by_cudnn_has_the_operations_of_attention_by_xla(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # Tests have no GPU, so that cuDNN cannot report its version.
    check = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(check, lambda: 91000)
    for dtype in (jnp.bfloat16, jnp.float32):  # cuDNN, XLA
        query, keys = (jax.ShapeDtypeStruct((2, frames, 3, 16), dtype) for frames in (8, 6))
        by_cudnn = "attention_fwd" in str(jax.make_jaxpr(attention)(query, keys, keys))
        assert by_cudnn == (dtype == jnp.bfloat16)
        assert flops(attention, query, keys, keys) == 2 * 2 * (2 * 3 * 8 * 6 * 16)


def test_a_loop_with_an_unknown_number_of_iterations_is_refused():
    with pytest.raises(ValueError, match="unknown length"):
        flops(lambda a: jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, a), 0.0)
