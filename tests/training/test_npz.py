import pytest

from jen1_jax.errors import Refusal
from jen1_jax.training.npz import NpzData


def test_a_url_is_refused():
    with pytest.raises(Refusal, match=r"gs://bucket/a.npz is a URL \(gs:\)"):
        NpzData("gs://bucket/a.npz", 2, seed=0)
