"""What single instructions read from a chip's main memory and write to it."""

import re

from jen1_jax.planning.hlo import COLLECTIVES, ArrayType, Computation, Instruction, Module

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


def traffic(module: Module, computation: Computation, each: Instruction) -> int:
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


def collective_traffic(computation: Computation, each: Instruction, scattered: bool) -> int:
    """Traffic to main memory of a collective within a fusion.

    Only the fusion's own operands and results say where the data lie.
    """
    sources, root = [computation[name] for name in each.operands], computation.root
    for place, source in enumerate(sources):
        while source.opcode == "bitcast":
            source = sources[place] = computation[source.operands[0]]
    read = sum(_hbm(source.types) for source in sources)
    if "AsyncCollectiveStart" in root.attributes:
        return read + _hbm(root.types[1:2])
    return (
        read if scattered else read + _hbm(each.types)
    )  # what is scattered is the fusion's result


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
        elif _hands_on(user):
            continue
        else:
            return whole
    return min(read, whole)


def _hands_on(each: Instruction) -> bool:
    """Whether it only passes buffers on, or is a collective, which counts where it is recorded."""
    return (
        each.opcode.removesuffix("-start") in COLLECTIVES
        or (each.opcode == "tuple" and each.is_root)
        or "AsyncCollective" in each.attributes
    )


def _written(
    module: Module, inner: Computation, root: Instruction, types: tuple[ArrayType, ...]
) -> int:
    """How much a fused computation writes to main memory, where its results have the `types`."""
    if root.opcode == "tuple" and len(root.operands) == len(types):
        return sum(
            _written(module, inner, inner[name], (part,))
            for name, part in zip(root.operands, types, strict=True)
        )
    if _hands_on(root):
        return 0
    if len(types) != 1:
        return _hbm(types)
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
