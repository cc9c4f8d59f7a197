"""What every layer along time states about itself: its reach, its rate and its padding.

The habit is that of sequence-layers (github.com/google/sequence-layers).
"""

from fractions import Fraction
from typing import NamedTuple


class Reach(NamedTuple):
    """Input frames that an output frame depends on, before and after its own; `math.inf` for all.

    The own input frame of output frame j is floor(j / rate). `after` is the look-ahead, and so the
    latency of the layer in a stream.
    """

    before: float
    after: float

    @classmethod
    def window(cls, frames: float, causal: bool) -> "Reach":
        """Of a window of `frames` to each side; causal, it ends at the current frame."""
        return cls(2 * frames, 0) if causal else cls(frames, frames)


class Layer:
    """Base of all layers along time; by default an output frame reads its own input frame only.

    `rate` is the number of output frames per input frame. `padding` states what the layer needs so
    that padding does not change the real frames: "none" for nothing, "zeros" if padding must be
    zero (the layer itself adds zeros at both ends), or "valid" if it takes `valid`, which is 1 on
    real frames.
    """

    padding = "none"

    @property
    def rate(self) -> Fraction:
        return Fraction(1)

    def reach(self, causal: bool) -> Reach:
        """The reach in one of the two modes; in causal mode `after` is 0."""
        return Reach(0, 0)
