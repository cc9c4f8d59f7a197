"""Windows: how a piece is divided into what the network samples at once.

A window has the length of the clips in training. Windows are sampled from the left, and frames
that an earlier window generated are context for the next. In these drawings a window has 8 frames
and begins at a multiple of 4, the U-Net's resampling factor; `#` is context, `m` is a given frame
in the margin of a border, and `.` is a frame to generate. The last window ends with the piece.

Nothing is given (`generate`). After the first window, each one has half a window of context:

    piece     ..................
    window 1  ........
    window 2      ####....
    window 3          ####....
    window 4            ######..

A hole (`inpaint`). The window has the hole in its middle, as nearly as the grid allows:

    piece     ######m...m#######
    window 1      ##m...m#

A continuation (`extend`). Half of the first window is given:

    piece     #######m..........
    window 1      ###m....
    window 2          ####....
    window 3            ######..
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# By the conditioner's name and the value's; NaN stands for no value.
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Request:
    """A piece to generate, or to generate in part.

    `context` frames keep their latents, and the network always sees them. `given` frames are the
    context and the margin beside each border. The encoder saw across the border, so a margin's
    latents are slightly wrong: the network sees them only while there is much noise (see
    `MARGIN_LOG_SNR`), and corrects them in the last steps. All other frames are generated; their
    latents count only in a variation.

    The first frame lies `start` seconds into the piece, and the whole piece lasts `total` seconds.
    `conditions` has the values of the other conditioners, by their names.
    """

    latents: Float[np.ndarray, "frames k"]
    context: Bool[np.ndarray, " frames"]
    given: Bool[np.ndarray, " frames"]
    start: float
    total: float
    conditions: Values = field(default_factory=dict)

    @classmethod
    def without_given(cls, latents: Float[np.ndarray, "frames k"], total: float) -> "Request":
        """A whole piece of which nothing is given."""
        none = np.zeros(len(latents), bool)
        return cls(latents, none, none, start=0.0, total=total)


class Window(NamedTuple):
    """The network's input for one window, padded to its length, or for a stack of windows.

    Arrays are NumPy's; those of a stack may be a framework's.
    """

    latents: Float[Any, "*batch frames k"]
    context: Bool[Any, "*batch frames 1"]
    given: Bool[Any, "*batch frames 1"]
    valid: Float[Any, "*batch frames 1"]  # 0 is padding
    conditions: Any  # what `Piece` got from its function `conditions_at`
    causal: Bool[Any, "*batch"]


class Piece:
    """A piece during sampling: its latents so far, and which window is next.

    Windows have `size` frames and begin at multiples of `grid`, counted from the beginning of the
    whole piece, as in training. With `whole_windows`, a piece shorter than a window is sampled as a
    whole window, and the rest of that is cut off. `conditions_at` gives the network's conditions in
    a window, from the values at the request's first frame and the seconds from there to the window.
    """

    def __init__(
        self,
        request: Request,
        size: int,
        grid: int,
        frame_rate: float,
        whole_windows: bool,
        conditions_at: Callable[[Values, float], Any],
    ):
        self._size, self._grid, self._frame_rate = size, grid, frame_rate
        self._start, total = request.start, request.total
        self._frames = len(request.latents)
        missing = max(size - self._frames, 0) if whole_windows else 0
        if missing:
            total = max(total, self._start + size / frame_rate)
        timing = {"start": self._start, "total": total}
        self._values, self._conditions_at = {**request.conditions, "timing": timing}, conditions_at
        pad = lambda frames: np.pad(frames, (0, missing))
        self.context, self.given = pad(request.context), pad(request.given)
        # Repeated, since a variation also begins with the latents of the part that is cut off.
        self._latents = np.pad(
            request.latents.astype(np.float32), ((0, missing), (0, 0)), mode="wrap"
        )
        self.windows_done = 0

    @property
    def latents(self) -> Float[np.ndarray, "frames k"]:
        return self._latents[: self._frames]

    @property
    def window_frames(self) -> int:
        """The frames of each window without padding."""
        return min(self._size, len(self.given))

    def missing(self, window: slice = slice(None)) -> int:
        """How many frames are still to be generated, in all or within a window."""
        return int((~self.given[: self._frames][window]).sum())

    def window(self) -> slice:
        """The frames to sample next: the window around the first missing frame."""
        first, size = int(np.argmin(self.given)), self._size
        run = int(np.argmax(np.append(self.given[first:], True)))  # missing frames in a row
        is_hole = run < size and self.given[first:].any()
        lead = (size - run) // 2 if is_hole else size // 2
        offset = round(self._start * self._frame_rate)  # of the first frame, from the piece's start
        place = (offset + first - lead) / self._grid
        start = (round(place) if is_hole else math.floor(place)) * self._grid - offset
        if is_hole:  # the window holds all of it, even where it must leave the grid
            start = np.clip(start, first + run - size, first)
        start = int(np.clip(start, 0, max(len(self.given) - size, 0)))
        return slice(start, start + size)

    def inputs(self, window: slice, causal: bool | None) -> Window:
        """The network's input for a window.

        With `causal=None` it is causal if it has context before its first missing frame.
        """
        if causal is None:
            first = int(np.argmin(self.given))
            causal = self.context[window.start : first].any()
        pad = lambda x: np.pad(x, ((0, self._size - len(x)), (0, 0)))
        return Window(
            pad(self._latents[window]),
            pad(self.context[window, None]),
            pad(self.given[window, None]),
            pad(np.ones((len(self.given[window]), 1), np.float32)),
            self._conditions_at(self._values, window.start / self._frame_rate),
            np.asarray(causal),
        )

    def fill(self, window: slice, latents: Float[np.ndarray, "frames k"]) -> None:
        """Takes over a sampled window: its generated frames, and the margins beside them.

        Another margin in the window stays as it is until the window of its own border.
        """
        before, sampled = self._latents[window], latents[: len(self._latents[window])]
        missing, margin = ~self.given[window], self.given[window] & ~self.context[window]
        # Frames in a row that are all missing or in a margin have one number.
        run = np.cumsum(np.diff(missing | margin, prepend=False))
        corrected = np.isin(run, run[missing])
        self._latents[window] = np.where((margin & ~corrected)[:, None], before, sampled)
        self.context[window] |= corrected
        self.given[window] = True
        self.windows_done += 1
