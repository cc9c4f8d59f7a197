"""What a compiled program costs one chip: arithmetic, traffic to main memory, collectives.

- A loop's body counts as often as it runs.
- A fusion reads its operands and writes its results, except for what lies in vector memory. Of an
  array that it only slices, it reads the slice; where it updates a part in place, it writes that.
- An asynchronous collective appears three times: in a fusion that starts it, in those that run
  beside it, and in one that ends it. It counts once. (Its channel is no key: others share it.)
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from jen1_jax.planning.arithmetic import operations
from jen1_jax.planning.groups import group
from jen1_jax.planning.hlo import COLLECTIVES, ArrayType, Computation, Instruction, Module
from jen1_jax.planning.traffic import collective_traffic, traffic


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
    collectives: list[Collective] = field(default_factory=list)
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
            moved = times * traffic(module, computation, each)
            total.traffic[block(_origin(computation, each))] += moved
            _compute(module, computation, each, times, total)


def _compute(
    module: Module,
    computation: Computation,
    each: Instruction,
    times: int,
    total: Costs,
    fusion: str = "",
) -> None:
    """Adds the arithmetic and the collectives of one instruction, also of those it has fused.

    `fusion` is the name of the computation, if it is a fused one.
    """
    kind = each.opcode.removesuffix("-start")
    if each.opcode in ("fusion", "async-start"):
        name = each.called("calls")
        for part in module.computations[name].values():
            _compute(module, module.computations[name], part, times, total, name)
    elif kind in COLLECTIVES:
        if (
            fusion.startswith("async_collective_fusion")
            or "AsyncCollectiveDone" in computation.root.attributes
        ):
            return  # the collective runs on, or ends here
        scattered = kind == "all-reduce" and any(
            user.opcode == "dynamic-slice" for user in _readers(computation, each)
        )
        total.collectives.append(
            Collective(
                "reduce-scatter" if scattered else kind,
                tuple(computation.types(each)),
                group(each.attributes),
                times,
                each.op_name,
            )
        )
        if fusion:
            moved = times * collective_traffic(computation, each, scattered)
            total.traffic[block(each.op_name)] += moved
    else:
        try:
            total.flops += times * operations(computation, each)
        except KeyError:
            total.unknown_kernels.add(each.name)


def _readers(computation: Computation, each: Instruction) -> list[Instruction]:
    """Its users, also behind bitcasts and parts of tuples."""
    found = []
    for user in computation.users[each.name]:
        passes = user.opcode in ("bitcast", "get-tuple-element")
        found += _readers(computation, user) if passes else [user]
    return found


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

    In a network it is the first module below the network, or `between blocks`: skips, and the
    loops' stacks. Outside it is the `loss`, or the rest: `optimiser, EMA, draws`. The compiler's
    own instructions, which have no path, are `copies`.
    """
    if "/" not in op_name:
        return "copies"
    network = re.search(r"\(([A-Z]\w*)\)\)?/(.*)", op_name)
    if network:
        path = [part for part in network[2].split("/") if not _WRAPPED.fullmatch(part)]
        if len(path) < 2:
            return "between blocks"
        return re.sub(r"_\d+$", "", path[0].removesuffix(".block"))
    return "loss" if "jvp(" in op_name else "optimiser, EMA, draws"
