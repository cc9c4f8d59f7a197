"""Latent statistics over several processes."""

import jax
import numpy as np

from jen1_jax.autoencoder.whitening import Moments
from jen1_jax.training import autoencoder


def test_processes_merge_their_moments_without_losing_a_bit(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = 1e4 + rng.normal(size=(1000, 3)) * [1, 1e-3, 5]  # float32 would lose the small direction beside the large mean
    parts = [Moments.of(part) for part in np.split(vectors, [100, 400])]
    packed = []
    monkeypatch.setattr(jax, "process_count", lambda: len(parts))
    monkeypatch.setattr(autoencoder.multihost_utils, "process_allgather", lambda bits: packed.append(bits) or bits[None])
    for part in parts:
        autoencoder.over_processes(part)
    monkeypatch.setattr(autoencoder.multihost_utils, "process_allgather", lambda bits: np.stack(packed))
    total, expected = autoencoder.over_processes(parts[1]), Moments.of(vectors)
    assert total.count == 1000 and packed[0].dtype == np.uint32
    np.testing.assert_allclose(total.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(total.covariance, expected.covariance, rtol=1e-6, atol=1e-9)
