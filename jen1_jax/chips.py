"""What a TPU chip can do, and how its network connects it with the others.

Figures: cloud.google.com/tpu/docs/v5e, v5p-training and v6e (read in November 2026). Memory is
what the compiler of libtpu 0.0.42 says it may use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jen1_numpy.errors import Refusal

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A kind of TPU chip; rates are per second, those of links in one direction.

    A dimension of a slice is a ring if it has `ring` chips or a multiple of that, and else a line.
    """

    flops: float  # in bfloat16
    hbm: int  # bytes that a program may use
    hbm_rate: float
    link_rate: float  # bytes over each of two links a dimension
    slice_rate: float  # bytes to other slices, over the data centre's network
    ring: int


CHIPS = {
    "v5e": Chip(197e12, int(15.75 * GIB), 819e9, 50e9, 3.125e9, 16),
    "v5p": Chip(459e12, int(95.74 * GIB), 2765e9, 100e9, 6.25e9, 4),
    "v6e": Chip(918e12, int(31.25 * GIB), 1600e9, 100e9, 12.5e9, 16),
}


def chip(topology: str) -> Chip:
    """The chip of a topology like `v5e:4x4`."""
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise Refusal(
            f"The speed of the chips of {topology!r} is not known; plan for one of "
            f"{', '.join(CHIPS)}, for example v5e:4x4."
        )
    return CHIPS[name]


def network_rate(kind: Chip, devices: Sequence[Any], members: Sequence[int]) -> float:
    """Bytes per second that the chip with the fewest links receives from the others of its group.

    `members` are the group's places among `devices`. A ring has two links into each chip for each
    dimension in which the group extends, and the end of a line has one.
    """
    if len({getattr(devices[each], "slice_index", 0) for each in members}) > 1:
        return kind.slice_rate
    links = 0
    for everywhere, here in zip(
        zip(*(each.coords for each in devices), strict=True),
        zip(*(devices[each].coords for each in members), strict=True),
        strict=True,
    ):
        extent, size = len(set(here)), len(set(everywhere))
        if extent > 1:
            links += 2 if extent == size and size % kind.ring == 0 else 1
    return links * kind.link_rate
