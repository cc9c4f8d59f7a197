"""What every layer along time states about itself: how far it reads, its output rate, its padding.

After sequence-layers (github.com/google/sequence-layers), whose layers do so too.
"""

from fractions import Fraction
from typing import NamedTuple


class Reach(NamedTuple):
    """Input frames that an output frame depends on, before and after its own; `math.inf` for all.

    The frame of its own that output frame j has in the input is floor(j / rate). `after` is the
    layer's look-ahead, and so its latency in a stream.
    """

    before: float
    after: float

    @classmethod
    def window(cls, frames: float, causal: bool) -> "Reach":
        """Of a window of `frames` to each side; causal, it ends at the current frame."""
        return cls(2 * frames, 0) if causal else cls(frames, frames)


class Layer:
    """Base of the layers along time; by itself it states that each frame is read alone.

    `rate` is the number of output frames per input frame. `padding` says what a layer needs so that
    frames behind the end of an example do not change the real ones: "none" (nothing), "zeros" (they
    must be zero; beyond both ends of its input the layer adds zeros itself) or "valid" (it takes
    `valid`, which is 1 on real frames).
    """

    rate = Fraction(1)
    padding = "none"

    def reach(self, causal: bool) -> Reach:
        """The reach in one of the two modes; in causal mode `after` is 0."""
        return Reach(0, 0)
