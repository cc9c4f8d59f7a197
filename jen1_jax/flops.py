"""Counts the floating-point operations of a traced program."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def flops(function: Callable, *args) -> int:
    """Floating-point operations of the matrix products and convolutions in `function(*args)`.

    A multiplication with its addition counts as two. `args` may be shapes. In model FLOPs
    utilisation (Chowdhery et al. 2022, appendix B) a training step counts as three forward passes,
    without what rematerialisation computes again. A loop counts with all its iterations. Of several
    branches the most expensive one counts, but of those for several platforms the default. Raises
    ValueError for a loop whose number of iterations is unknown.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:  # a Jaxpr; its types do not say what its arrays have
    total, platforms = 0, []
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            products = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * products * equation.outvars[0].aval.size
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * kernel.size // outputs * equation.outvars[0].aval.size
        elif name.startswith("dot_product_attention_fwd"):
            # Attention by cuDNN on [batch, frames, heads, channels]: two matrix products.
            query, keys = equation.invars[0].aval, equation.invars[1].aval.shape[1]
            total += 2 * 2 * keys * query.size
        elif name == "platform_index":
            platforms += equation.outvars
        elif name == "while":
            raise ValueError("the operations of a loop of unknown length cannot be counted")
        else:
            parts = jax.tree.leaves(list(parameters.values()), is_leaf=_is_program)
            inner = [_count(getattr(part, "jaxpr", part)) for part in parts if _is_program(part)]
            iterations = parameters["length"] if name == "scan" else 1
            if name == "cond":
                total += inner[-1] if equation.invars[0] in platforms else max(inner)
            else:
                total += iterations * sum(inner)
    return total


def _is_program(part) -> bool:
    return isinstance(part, core.Jaxpr | core.ClosedJaxpr)
