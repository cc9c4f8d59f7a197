"""Which chips take part in a collective, as the text of a compiled program names them."""

import math
import re

import numpy as np


def group(attributes: str) -> tuple[int, ...]:
    """The partitions of a collective's first group; all its groups have the same form.

    Reads the forms `{{0,1},{2,3}}`, `[2,8]<=[4,4]T(1,0)` and `mesh['a'=4,'b'=4] {'b'}`, the last
    also with `device_ids=([4,4]T(1,0))`. Of a permutation it is a sender with its receiver.
    """
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\]"
        r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}",
        attributes,
    )
    numbers = lambda text: [int(number) for number in re.findall(r"\d+", text or "")]
    if pairs:
        return int(pairs[1]), int(pairs[2])
    if listed:
        return tuple(numbers(listed[1]))
    if tiled:
        places = _places(numbers(tiled[2]), numbers(tiled[3]))
        return tuple(places.reshape(-1, numbers(tiled[1])[-1])[0].tolist())
    if named and ":" not in named[4]:  # a part of an axis
        axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])]
        sizes, within = [size for _, size in axes], re.findall(r"'([^']+)'", named[4])
        places = _places(numbers(named[2]) or sizes, numbers(named[3]))
        chosen = tuple(slice(None) if name in within else 0 for name, _ in axes)
        return tuple(places.reshape(sizes)[chosen].reshape(-1).tolist())
    raise ValueError(f"a collective without groups that can be read: {attributes[:300]}")


def _places(sizes: list[int], order: list[int]) -> np.ndarray:
    places = np.arange(math.prod(sizes)).reshape(sizes)
    return places.transpose(order) if order else places
