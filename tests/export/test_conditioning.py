"""Conditions are embedded as ours are."""

import numpy as np

from jen1_jax import conditioning
from jen1_torch import conditioning as torch_conditioning


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
