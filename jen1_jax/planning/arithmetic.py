"""The floating-point operations of single instructions."""

import math
import re

import numpy as np

from jen1_jax.planning.hlo import Computation, Instruction

# Matrix products of [queries, keys] x channels in the kernels of splash attention.
KERNELS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}


def operations(computation: Computation, each: Instruction) -> int:
    """FLOPs of one run of an instruction: of matrix products, which a TPU does as convolutions.

    Raises KeyError for a kernel that is not in `KERNELS`.
    """
    if each.opcode == "convolution":
        return _convolution(computation, each)
    if each.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
        left = computation.types(each)[0].shape
        axes = [int(axis) for axis in contracted[1].split(",")] if contracted else []
        return 2 * math.prod(each.types[0].shape) * math.prod(left[axis] for axis in axes)
    if 'custom_call_target="tpu_custom_call"' in each.attributes:
        kernel = re.match(r"splash_mha_[a-z]+", each.name)
        products = KERNELS[kernel[0] if kernel else each.name]
        query, key = computation.types(each)[:2]
        return 2 * products * math.prod(query.shape[:-1]) * math.prod(key.shape[-2:])
    return 0


def _convolution(computation: Computation, each: Instruction) -> int:
    """Of a convolution; products with padding, or with the holes of a dilation, do not count."""
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", each.attributes)
    assert labels is not None, each.name
    left, right = computation.types(each)[:2]
    out = each.types[0]
    window = dict(re.findall(r"(\w+)=([\w\-]+)", _within(each.attributes, "window={")))
    groups = re.search(r"feature_group_count=(\d+)", each.attributes)
    batches = re.search(r"batch_group_count=(\d+)", each.attributes)
    products = left.shape[labels[1].index("f")] // int(groups[1] if groups else 1)
    products *= right.shape[labels[2].index("o")]
    products *= left.shape[labels[1].index("b")] // int(batches[1] if batches else 1)
    spatial = [axis for axis in labels[3] if axis.isdigit()]
    entries = {name: value.split("x") for name, value in window.items()}
    for axis in spatial:
        n = int(axis)
        pick = lambda name, default, n=n: entries[name][n] if name in entries else default
        low = int(re.match(r"-?\d+", pick("pad", "0_0"))[0])  # type: ignore[index]
        places = np.arange(out.shape[labels[3].index(axis)])[:, None] * int(pick("stride", 1))
        taps = np.arange(right.shape[labels[2].index(axis)]) * int(pick("rhs_dilate", 1))
        hole, length = int(pick("lhs_dilate", 1)), left.shape[labels[1].index(axis)]
        place = places + taps - low
        products *= int(((place >= 0) & (place % hole == 0) & (place // hole < length)).sum())
    return 2 * products


def _within(text: str, opening: str) -> str:
    _, _, rest = text.partition(opening)
    return rest.partition("}")[0]
