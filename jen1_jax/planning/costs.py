"""What a compiled program costs one chip: arithmetic, traffic to main memory, collectives.

- A loop's body counts as often as it runs.
- A fusion reads its operands and writes its results, except for what lies in vector memory. Of an
  array that it only slices, it reads the slice; where it updates a part in place, it writes that.
- An asynchronous collective appears up to three times (its start, fusions that run beside it, and
  its end) under one channel id, and counts once.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from jen1_jax.planning.groups import group
from jen1_jax.planning.hlo import ArrayType, Computation, Instruction, Module

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "collective-broadcast",
)
_FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
}
# They name buffers and move nothing.
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound"}
# Matrix products of [queries, keys] x channels in the kernels of splash attention.
KERNELS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    `operands` are the arrays that each chip gives, `members` the places on the mesh of one group of
    chips that exchange them, `times` how often it runs in a step, `op_name` where it comes from.
    """

    kind: str
    operands: tuple[ArrayType, ...]
    members: tuple[int, ...]
    times: int
    op_name: str

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def operand_bytes(self) -> int:
        """Of all its runs in a step."""
        return self.times * sum(each.plain_bytes for each in self.operands)

    @property
    def received_bytes(self) -> float:
        """What a chip has to receive in a step, by the best algorithm (a ring)."""
        size = self.size
        share = {
            "all-gather": size - 1.0,
            "all-reduce": 2 * (size - 1) / size,
            "reduce-scatter": (size - 1) / size,
            "all-to-all": (size - 1) / size,
            "ragged-all-to-all": (size - 1) / size,
        }
        return share.get(self.kind, 1.0) * self.operand_bytes


@dataclass
class Costs:
    """Of one step on one chip: FLOPs, bytes of main memory by the block that moves them."""

    flops: int = 0
    traffic: Counter[str] = field(default_factory=Counter)
    collectives: dict[str, Collective] = field(default_factory=dict)  # by channel
    unknown_kernels: set[str] = field(default_factory=set)


def costs(module: Module) -> Costs:
    total = Costs()
    _run(module, module.entry, 1, total)
    return total


def _run(module: Module, computation: Computation, times: int, total: Costs) -> None:
    """Adds what `times` runs of a computation cost."""
    for each in computation.values():
        if each.opcode == "while":
            body = module.computations[each.called("body")]
            _run(module, body, times * module.trips(each), total)
        elif each.opcode == "call":
            _run(module, module.computations[each.called("to_apply")], times, total)
        elif each.opcode == "conditional":
            raise ValueError(f"the program branches at {each.name}: its costs are unknown")
        else:
            moved = times * _bytes(module, computation, each)
            total.traffic[block(_origin(computation, each))] += moved
            _compute(module, computation, each, times, total)


def _compute(
    module: Module, computation: Computation, each: Instruction, times: int, total: Costs
) -> None:
    """Adds the arithmetic and the collectives of one instruction, also of those it has fused."""
    kind = each.opcode.removesuffix("-start")
    if each.opcode in ("fusion", "async-start"):
        inner = module.computations[each.called("calls")]
        for part in inner.values():
            _compute(module, inner, part, times, total)
    elif kind in COLLECTIVES:
        channel = re.search(r"channel_id=(\d+)", each.attributes)
        key = channel[1] if channel else each.name
        if key not in total.collectives:
            scattered = kind == "all-reduce" and any(
                user.opcode == "dynamic-slice" for user in _readers(computation, each)
            )
            total.collectives[key] = Collective(
                "reduce-scatter" if scattered else kind,
                tuple(computation.types(each)),
                group(each.attributes),
                times,
                each.op_name,
            )
    elif each.opcode == "convolution":
        total.flops += times * _convolution(computation, each)
    elif each.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
        left = computation.types(each)[0].shape
        axes = [int(axis) for axis in contracted[1].split(",")] if contracted else []
        products = math.prod(each.types[0].shape) * math.prod(left[axis] for axis in axes)
        total.flops += times * 2 * products
    elif 'custom_call_target="tpu_custom_call"' in each.attributes:
        found = [count for name, count in KERNELS.items() if each.name.startswith(name)]
        if found:
            query, key = computation.types(each)[:2]
            keys, channels = key.shape[-2:]
            products = math.prod(query.shape[:-1]) * keys * channels
            total.flops += times * 2 * found[0] * products
        else:
            total.unknown_kernels.add(each.name)


def _readers(computation: Computation, each: Instruction) -> list[Instruction]:
    """Its users, also behind bitcasts and parts of tuples."""
    found = []
    for user in computation.users[each.name]:
        passes = user.opcode in ("bitcast", "get-tuple-element")
        found += _readers(computation, user) if passes else [user]
    return found


def _convolution(computation: Computation, each: Instruction) -> int:
    """FLOPs of a convolution, by which a TPU computes every matrix product.

    Products with padding, or with the holes of a dilation, do not count, as in XLA's own analysis.
    """
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


def _bytes(module: Module, computation: Computation, each: Instruction) -> int:
    """What one run of an instruction reads from main memory and writes to it."""
    target = re.search(r'custom_call_target="([^"]*)"', each.attributes)
    if each.opcode in _FREE or (target and target[1] in _FREE_CALLS):
        return 0
    if each.opcode.endswith("-done"):
        return 0  # counted at the start
    if each.opcode in ("copy-start", "slice-start", "dynamic-slice-start"):
        # Its result holds source, destination and a flag; what moves has the smaller one's size.
        source = computation.types(each)[:1]
        moved = [part for part in each.types if part.shape and part not in source] or source
        size = min(part.bytes for part in moved + source)
        return sum(size for part in (moved[0], source[0]) if part.in_hbm)
    if each.opcode == "fusion":
        inner = module.computations[each.called("calls")]
        reads = sum(
            _read(module, inner, inner.parameter(number))
            for number, name in enumerate(each.operands)
            if name in computation and computation[name].types[0].in_hbm
        )
        return reads + _written(module, inner, inner.root, each.types)
    if each.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * _hbm(each.types)
    if each.opcode == "dynamic-update-slice":
        return 2 * _hbm(computation[each.operands[1]].types)
    types = each.types[1:2] if each.opcode.endswith("-start") else each.types
    return _hbm(computation.types(each)) + _hbm(types)


def _hbm(types: list[ArrayType] | tuple[ArrayType, ...]) -> int:
    return sum(each.bytes for each in types if each.in_hbm)


def _read(module: Module, inner: Computation, source: Instruction) -> int:
    """How much a fused computation reads of `source`, which lies in main memory."""
    whole, read = sum(each.bytes for each in source.types), 0
    for user in inner.users[source.name]:
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == source.name:
            read += sum(each.bytes for each in user.types)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == source.name:
            continue
        elif user.opcode == "bitcast":
            read += _read(module, inner, user)
        elif user.opcode == "fusion":
            nested = module.computations[user.called("calls")]
            numbers = [n for n, name in enumerate(user.operands) if name == source.name]
            read += sum(_read(module, nested, nested.parameter(n)) for n in numbers)
        elif user.opcode == "custom-call" and "AsyncCollective" in user.attributes:
            continue  # handed on
        elif user.opcode == "tuple" and user.is_root:
            continue
        else:
            return whole
    return min(read, whole)


def _written(
    module: Module, inner: Computation, root: Instruction, types: tuple[ArrayType, ...]
) -> int:
    """How much a fused computation writes to main memory, where its results have the `types`."""
    if root.opcode == "tuple" and len(root.operands) == len(types):
        return sum(
            _written(module, inner, inner[name], (part,))
            for name, part in zip(root.operands, types, strict=True)
        )
    if len(types) != 1:  # the results of an asynchronous collective count where it is fused
        return 0 if "AsyncCollective" in root.attributes else _hbm(types)
    if not types[0].in_hbm or root.opcode == "parameter":
        return 0
    if root.opcode == "dynamic-update-slice":
        return sum(each.bytes for each in inner[root.operands[1]].types)
    if root.opcode == "bitcast":
        return _written(module, inner, inner[root.operands[0]], types)
    if root.opcode == "fusion":
        nested = module.computations[root.called("calls")]
        return _written(module, nested, nested.root, types)
    return types[0].bytes


def _origin(computation: Computation, each: Instruction) -> str:
    """The `op_name` of an instruction; a copy without one gets that of its first reader."""
    for _ in range(8):
        readers = computation.users[each.name]
        if each.op_name or not readers:
            break
        each = readers[0]
    return each.op_name


_WRAPPED = re.compile(r"\w+\(.*\)|while|body|cond|closed_call|checkpoint|rematted_computation")


def block(op_name: str) -> str:
    """The kind of block that an instruction belongs to, from the path of its JAX operation.

    Within a network it is the first module below the network; of the rest of the step, `loss`
    (differentiated, outside of the networks), or `optimiser and EMA`, or `draw`.
    """
    if not op_name:
        return "copies"
    network = re.search(r"\(([A-Z]\w*)\)\)?/(.*)", op_name)
    if network:
        path = [part for part in network[2].split("/") if not _WRAPPED.fullmatch(part)]
        name = path[0].removesuffix(".block") if len(path) > 1 else "other"
        return re.sub(r"_\d+$", "", name)
    if "jvp(" in op_name:
        return "loss"
    return "optimiser and EMA" if op_name.count("/") <= 1 else "draw"
