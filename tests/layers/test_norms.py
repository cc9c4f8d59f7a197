"""The norm equals its definition, with statistics in float32."""

import jax
import jax.numpy as jnp
import numpy as np

from jen1_jax.layers.norms import RMSNorm
from tests.layers.testing import normal

SCALE = np.arange(1, 9, dtype=np.float32)


@jax.jit
def apply(x):
    return RMSNorm(dtype=x.dtype).apply({"params": {"scale": SCALE}}, x)


def test_equals_numpy():
    x = normal(0, 2, 5, 8)
    np.testing.assert_allclose(
        apply(x), x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * SCALE, rtol=1e-5
    )


def test_statistics_are_float32_whatever_comes_in():
    x = np.full((1, 1, 8), 300, np.float16)  # its square overflows float16
    result = apply(x)
    assert result.dtype == jnp.float16
    np.testing.assert_allclose(result[0, 0], SCALE, rtol=2**-10)


def test_a_frame_of_zeros_stays_zero_with_a_finite_gradient():
    x = np.zeros((1, 2, 8), np.float32)
    np.testing.assert_array_equal(apply(x), 0)
    assert np.isfinite(jax.grad(lambda x: apply(x).sum())(x)).all()
