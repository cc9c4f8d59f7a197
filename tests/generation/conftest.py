import numpy as np
import pytest

from tests.generation import RATE


@pytest.fixture(scope="session")
def song():
    """0.2 s of two tones, one in each channel."""
    t = np.arange(round(0.2 * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * np.array([440, 660]) * t[:, None])).astype(np.float32)


@pytest.fixture
def unchecked(monkeypatch):
    """As outside the tests, nothing checks types at run time."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
