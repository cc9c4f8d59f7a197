"""How windows are laid over a piece, and what a window leaves behind in it."""

import re

import numpy as np
import pytest

from jen1_numpy import windows
from jen1_numpy.windows import Piece, Request

WINDOW, K = 8, 2
GRID = 4  # frames; windows begin at its multiples
FRAME_RATE = 4.0


def piece_of(context, given, start=0.0, total=100.0, whole_windows=True):
    latents = np.zeros((len(given), K), np.float32)
    request = Request(latents, np.array(context), np.array(given), start, total)
    conditions_at = lambda values, seconds: (values["timing"], seconds)
    return Piece(request, WINDOW, GRID, FRAME_RATE, whole_windows, conditions_at)


def test_windows_lie_as_the_module_draws_them():
    drawings = re.findall(r"piece +(\S+)\n((?: +window \d.*\n)+)", windows.__doc__)
    assert len(drawings) == 3
    for frames, rows in drawings:
        frames = np.array(list(frames))
        piece = piece_of(frames == "#", frames != ".")
        for row in rows.splitlines():
            drawn = row.split("window ")[1][3:]
            window = piece.window()
            seen = np.where(piece.context, "#", np.where(piece.given, "m", "."))[window]
            assert drawn == " " * window.start + "".join(seen)
            piece.fill(window, np.zeros((WINDOW, K), np.float32))
        assert not piece.missing()


@pytest.mark.parametrize("start", [0.0, 30.0, 30.25, 31.75])
def test_windows_begin_on_the_grid_and_hold_their_hole(start):
    """Also in a request that begins in the middle of its piece.

    Only the request's ends and long holes move a window from the grid.
    """
    frames, before = 5 * WINDOW, round(start * FRAME_RATE)
    for first in range(1, frames):
        for run in range(1, frames - first + 1):
            given = np.ones(frames, bool)
            given[first : first + run] = False
            piece = piece_of(given, given, start)
            missing = piece.missing()
            window = piece.window()
            assert 0 <= window.start <= first < window.stop <= frames
            assert window.stop - window.start == WINDOW
            hole = run < WINDOW and first + run < frames
            assert not hole or first + run <= window.stop
            inside = 0 < window.start < frames - WINDOW
            on_grid = (before + window.start) % GRID == 0
            assert not inside or on_grid or (hole and run > WINDOW - GRID)
            assert not inside or hole or WINDOW // 2 <= first - window.start < WINDOW // 2 + GRID
            here = piece.missing(window)
            piece.fill(window, np.zeros((WINDOW, K)))
            assert here > 0 and piece.missing() == missing - here


def test_a_margin_is_corrected_with_its_own_hole_and_not_before():
    given = np.ones(WINDOW, bool)
    given[3], given[6] = False, False
    context = np.zeros(WINDOW, bool)
    context[0] = True
    piece = piece_of(context, given)
    # As if the second hole lay in another window, with a margin of one frame at 5 and 7.
    piece.given[6] = True
    piece.context[4] = True
    piece.fill(slice(0, WINDOW), np.ones((WINDOW, K), np.float32))
    np.testing.assert_array_equal(piece.latents[:, 0], [1, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(piece.context, [1, 1, 1, 1, 1, 0, 0, 0])


def test_a_window_in_place_of_a_short_piece_has_its_own_length_as_total():
    for whole_windows, total in ((True, 30 + WINDOW / FRAME_RATE), (False, 30.75)):
        piece = piece_of([False] * 3, [False] * 3, 30.0, 30.75, whole_windows)
        timing, _ = piece.inputs(piece.window(), None).conditions
        assert timing == {"start": 30, "total": total}


def test_conditions_are_those_at_the_beginning_of_a_window():
    piece = piece_of([False] * 20, [False] * 20)
    for seconds in (0, 1, 2, 3):  # half a window later each time
        window = piece.window()
        assert piece.inputs(window, None).conditions[1] == seconds
        piece.fill(window, np.zeros((WINDOW, K), np.float32))


def test_a_window_is_causal_where_it_has_context_before_it_unless_told_otherwise():
    for context, causal in (([False] * 3, False), ([True, True, False], True)):
        piece = piece_of(context + [False] * 5, [True] * 3 + [False] * 5)
        window = piece.window()
        assert piece.inputs(window, None).causal == causal
        assert piece.inputs(window, not causal).causal != causal
