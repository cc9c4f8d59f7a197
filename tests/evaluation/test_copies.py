"""Copies of clips are told from other music by their latents."""

import numpy as np
import pytest

from jen1_jax.evaluation import copies


def test_a_clip_from_a_second_later_is_a_copy_and_other_pieces_are_not():
    rng = np.random.default_rng(0)
    pieces = rng.standard_normal((40, 60, 16)).astype(np.float32)  # 6 s
    clips = [(f"{n}", copies.pooled(piece[:50], 50)) for n, piece in enumerate(pieces)]
    shifted = copies.pooled(0.3 * pieces[3, 10:], 50)
    noisy = copies.pooled(pieces[5, 10:] + rng.standard_normal((50, 16)), 50)
    half = pieces[7, :50] * (np.arange(50) < 20)[:, None]  # the rest is padding
    new = copies.pooled(rng.standard_normal((50, 16)), 50)
    queries = np.stack([shifted, noisy, new, clips[0][1], copies.pooled(half, 50), 0 * new])
    found = copies.nearest(queries, ["", "", "", "0", "7", ""], iter(clips))
    assert found[0] == pytest.approx(1, abs=1e-3)
    assert found[1] > 0.6 > 0.4 > found[2]
    assert found[3] < 0.4 and found[4] < 0.4  # their own pieces do not count
    assert found[5] == 0
