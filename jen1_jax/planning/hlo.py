"""Reads the text of a compiled program: its computations and their instructions.

Only the TPU compiler's text says what a TPU will do. Layouts stand in it: how an array is tiled,
which pads it, and in which memory it lies.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "collective-broadcast",
)
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_START = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_HEAD = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclass(frozen=True)
class ArrayType:
    """An array with its layout, like `bf16[32,384,1280]{2,1,0:T(8,128)(2,1)S(1)}`."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in the chip's main memory; `S(1)` for example is the vector memory."""
        space = re.search(r"S\((\d+)\)", self.layout)
        return space is None or space[1] == "0"

    @cached_property
    def bytes(self) -> int:
        """Its size, with what the tiles of the layout pad."""
        order, _, tiling = self.layout.partition(":")
        sizes = [self.shape[int(axis)] for axis in order.split(",") if axis]  # the minor one first
        sizes = sizes or list(reversed(self.shape))
        tile = re.match(r"T\(([\d,]+)\)", tiling)
        if tile:
            for axis, step in enumerate(reversed(tile[1].split(","))):
                if axis < len(sizes):
                    sizes[axis] = -(-sizes[axis] // int(step)) * int(step)
        return math.prod(sizes) * bits(self.dtype) // 8

    @property
    def plain_bytes(self) -> int:
        """Its size without padding."""
        return math.prod(self.shape) * bits(self.dtype) // 8


def bits(dtype: str) -> int:
    found = BITS.get(dtype) or int(re.match(r"[a-z]+(\d+)", dtype)[1])  # type: ignore[index]
    return found


@dataclass(frozen=True)
class Instruction:
    """One instruction; `types` are those of its result, several for a tuple."""

    name: str
    opcode: str
    types: tuple[ArrayType, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @cached_property
    def op_name(self) -> str:
        """Where in the JAX program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self, attribute: str) -> str:
        """The name of the computation under `attribute`, like `calls` or `body`."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    @property
    def constant(self) -> int | None:
        """The value of an integer constant."""
        value = self.operands[0] if self.opcode == "constant" and self.operands else ""
        return int(value) if re.fullmatch(r"-?\d+", value) else None


class Computation(dict[str, Instruction]):
    """The instructions of a computation by name, in the order in which they run."""

    @property
    def root(self) -> Instruction:
        return next(each for each in self.values() if each.is_root)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = {name: [] for name in self}
        for each in self.values():
            for operand in dict.fromkeys(each.operands):
                if operand in users:
                    users[operand].append(each)
        return users

    def parameter(self, number: int) -> Instruction:
        return next(
            each
            for each in self.values()
            if each.opcode == "parameter" and each.operands == (str(number),)
        )

    def types(self, instruction: Instruction) -> list[ArrayType]:
        """The types of its operands; of a tuple the types of its parts."""
        return [part for name in instruction.operands if name in self for part in self[name].types]


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: Computation

    def trips(self, loop: Instruction) -> int:
        """How often the body of a `while` runs.

        The TPU compiler does not say it. Its condition compares a counter with a constant; the
        counters of JAX's scans and of the partitioner's own loops start at 0 and step by 1.
        """
        waiting, limits = [loop.called("condition")], []
        while waiting:
            for each in self.computations[waiting.pop()].values():
                limits += [] if each.constant is None else [each.constant]
                waiting += [each.called("calls")] if each.opcode == "fusion" else []
        if not limits:
            raise ValueError(f"the loop {loop.name} has no constant number of iterations")
        return max(limits)


def parse(text: str) -> Module:
    """The computations of a module's text."""
    computations: dict[str, Computation] = {}
    entry, current = Computation(), Computation()
    for line in _statements(text):
        head = _HEAD.match(line)
        if head:
            current = computations[head[1]] = Computation()
            if line.startswith("ENTRY"):
                entry = current
        elif _START.match(line):
            instruction = _instruction(line)
            current[instruction.name] = instruction
    return Module(computations, entry)


def _statements(text: str) -> Iterator[str]:
    """Lines; a call of a Mosaic kernel has several, which are joined."""
    pending = ""
    for line in text.splitlines():
        if _START.match(line) or _HEAD.match(line) or line in ("", "}"):
            if pending:
                yield pending
            pending = line
        else:
            pending += line
    yield pending


def _instruction(line: str) -> Instruction:
    start = _START.match(line)
    assert start is not None
    rest = line[start.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    types = tuple(
        ArrayType(dtype, tuple(int(size.strip("<=")) for size in sizes.split(",") if size), layout)
        for dtype, sizes, layout in _ARRAY.findall(rest[:end])
    )
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    inside = re.sub(r"/\*.*?\*/|\{.*?\}|\[.*?\]", "", rest[opening + 1 : closing])
    operands = tuple(part.split("%")[-1].strip() for part in inside.split(",") if part.strip())
    return Instruction(
        start[2], rest[end:opening].strip(), types, operands, rest[closing + 1 :], bool(start[1])
    )


def _closing(text: str, opening: int) -> int:
    """The place of the bracket that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"an instruction without an end: {text[:200]}")
