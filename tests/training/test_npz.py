import numpy as np
import pytest

from jen1_jax.training.npz import NpzData
from jen1_numpy.errors import Refusal


def test_a_url_is_refused():
    with pytest.raises(Refusal, match=r"gs://bucket/a.npz is a URL \(gs:\)"):
        NpzData("gs://bucket/a.npz", 2, seed=0)


def test_examples_have_no_audio_before_and_after_them(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        audio=np.zeros((3, 8, 2), np.float32),
        valid_samples=np.full(3, 8),
        caption=["a", "b", "c"],
        test=[False, False, True],
    )
    data = NpzData(str(tmp_path / "a.npz"), 2, seed=0)
    for take in (lambda around: data.batches(0, around), lambda around: data.sweep("test", around)):
        assert next(take(4)).keys() == next(take(0)).keys()
