"""Random inputs and parameters; parameters that start at zero would hide faults."""

import jax
import numpy as np


def randomised(module, *inputs, seed=0, scale=1.0):
    """(params, jitted apply(params, *inputs)) of `module`.

    Every parameter is normal, kernels scaled by fan-in^-1/2.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        return (scale * rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(draw, shapes), jax.jit(
        lambda params, *inputs: module.apply({"params": params}, *inputs)
    )


def normal(seed, *shape):
    """Standard normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def perturbed(x, index, by=1.0):
    """A copy of `x` with `by` added at `index`.

    In numpy, because jax would compile an update for each index.
    """
    x = x.copy()
    x[index] += by
    return x
