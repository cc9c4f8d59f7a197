"""Windows lie as ours do, and see and leave behind the same."""

import numpy as np
import pytest

from jen1_jax import conditioning
from jen1_jax.generation import windows
from jen1_torch import conditioning as torch_conditioning
from jen1_torch import windows as torch_windows

SIZE, GRID, FRAME_RATE, K = 8, 4, 4.0, 2


def random_request(rng):
    """The arguments of a request with holes and margins at random places."""
    frames = rng.integers(1, 40)
    given = rng.random(frames) < rng.choice([0, 0.3, 0.8])
    if rng.random() < 0.5:  # in runs
        given = np.repeat(given, 6)[:frames]
    given[rng.integers(frames)] = False
    context = given & (rng.random(frames) < 0.7)
    latents = rng.standard_normal((frames, K)).astype(np.float32)
    return latents, context, given, float(rng.integers(0, 30) / 4), 60.0


@pytest.mark.parametrize("whole_windows", [True, False])
@pytest.mark.parametrize("causal", [None, True])
def test_windows_equal(whole_windows, causal):
    rng = np.random.default_rng(0)
    for _ in range(150):
        request = random_request(rng)
        rest = SIZE, GRID, FRAME_RATE, whole_windows
        ours = windows.Piece(windows.Request(*request), *rest, conditioning.chosen(["timing"]))
        theirs = torch_windows.Piece(
            torch_windows.Request(*request), *rest, torch_conditioning.chosen(["timing"])
        )
        assert theirs.window_frames == ours.window_frames
        while ours.missing():
            assert theirs.missing() == ours.missing()
            place = ours.window()
            assert theirs.window() == place
            expected, inputs = ours.inputs(place, causal), theirs.inputs(place, causal)
            for name in ("latents", "context", "given", "valid", "causal"):
                np.testing.assert_array_equal(getattr(inputs, name), getattr(expected, name))
            for name, value in inputs.conditions["timing"].items():
                assert value == pytest.approx(expected.conditions["timing"][name], rel=1e-6)
            sampled = rng.standard_normal((SIZE, K)).astype(np.float32)
            for piece in (ours, theirs):
                piece.fill(place, sampled)
            np.testing.assert_array_equal(theirs.latents, ours.latents)
            np.testing.assert_array_equal(theirs.context, ours.context)
        assert not theirs.missing() and theirs.windows_done == ours.windows_done > 0


def test_conditions_are_embedded_alike():
    """An example with an unknown value gives zeros."""
    values = {"start": [0.0, 12.5, 4000.0, np.nan], "total": [10.0, 3600.0, 5000.0, 20.0]}
    expected = conditioning.conditioner.embed(
        conditioning.chosen(["timing"]),
        {"timing": {name: np.float32(value) for name, value in values.items()}},
    )
    rows = zip(*values.values(), strict=True)
    examples = [{"timing": dict(zip(values, row, strict=True))} for row in rows]
    result = torch_conditioning.embed(torch_conditioning.chosen(["timing"]), examples)
    np.testing.assert_allclose(result["timing"], expected["timing"], atol=2e-6)
    assert not result["timing"][3].any()
