"""The regression of `benchmarks.predictable` on latents that follow their scores, or do not."""

import numpy as np
import pytest

from benchmarks.predictable import explained, features


def clips(rng, count):
    metas = [
        {
            "instruments": [{"name": name} for name in rng.choice(["Flute", "Oboe", "Viola"], 2)],
            "drums": bool(rng.integers(2)),
            "tempo": float(rng.uniform(60, 160)),
            "density": 3.0,
        }
        for _ in range(count)
    ]
    return [features(meta) for meta in metas]


def test_latents_that_follow_the_score_are_predicted_and_others_are_not():
    rng = np.random.default_rng(0)
    known, held_out = clips(rng, 2000), clips(rng, 300)
    follow = lambda each: [each.get("instrument Oboe", 0.0), 2 * each["drums"], each["tempo"]]
    noisy = lambda each: (
        np.array([follow(one) for one in each]) + rng.normal(0, 0.1, (len(each), 3))
    )
    assert explained(known, noisy(known), held_out, noisy(held_out)) > 0.85
    random = lambda count: rng.normal(size=(count, 3))
    assert explained(known, random(2000), held_out, random(300)) == pytest.approx(0, abs=0.05)


def test_features_name_what_the_score_says():
    found = features({"style": "polka", "tempo": 120.0, "density": 2.5, "instruments": None})
    assert found["style polka"] == 1 and found["tempo"] == pytest.approx(0.2)
    assert found["density"] == 0.25 and found["drums"] == 0 and "mode" not in found
