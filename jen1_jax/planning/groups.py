"""Which chips take part in a collective, as the text of a compiled program names them."""

import math
import re

import numpy as np


def group(attributes: str) -> tuple[int, ...]:
    """The partitions of a collective's first group; all its groups have the same form.

    Reads the forms `{{0,1},{2,3}}`, `[2,8]<=[4,4]T(1,0)` and `mesh['a'=4,'b'=4] {'b'}`. Of a
    permutation it is a sender with its receiver.
    """
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    numbers = lambda text: [int(number) for number in text.split(",")]
    if pairs:
        return int(pairs[1]), int(pairs[2])
    if listed:
        return tuple(numbers(listed[1]))
    if tiled:
        sizes = numbers(tiled[2])
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        ids = ids.transpose(numbers(tiled[3])) if tiled[3] else ids
        return tuple(ids.reshape(-1, numbers(tiled[1])[-1])[0].tolist())
    if named:
        axes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])]
        ids = np.arange(math.prod(size for _, size in axes)).reshape([size for _, size in axes])
        chosen = tuple(
            slice(None) if name in re.findall(r"'([^']+)'", named[2]) else 0 for name, _ in axes
        )
        return tuple(ids[chosen].reshape(-1).tolist())
    raise ValueError(f"a collective without groups: {attributes[:200]}")
