"""The comparisons of the benchmark of composing models, on measurements that are known."""

import numpy as np
import pytest

from benchmarks.composing import Clip, Job, agreement, directions, generate, moved, true_directions

RATE = 48_000


def clip(piece: str, **truth) -> Clip:
    return Clip(piece, "", np.zeros((1, 2)), truth, (0.0, 1.0))


def test_results_that_follow_their_captions_agree_more_often_than_shuffled_ones():
    rng = np.random.default_rng(0)
    clips = [clip(f"{n // 2}", tempo=70.0 + 8 * (n // 2), drums=n % 4 > 1) for n in range(24)]
    clips.append(clip("12", drums=True))
    right = [{"tempo": each.truth.get("tempo", 1.0), "drums": 1.0} for each in clips]
    random = [{"tempo": float(70 + 8 * rng.integers(12)), "drums": 1.0} for _ in clips]
    found = agreement([right, right], clips)
    assert found["tempo"]["clips"] == 24 and found["drums"]["clips"] == 25
    assert found["tempo"]["right"] == 1 and found["tempo"]["difference_interval"][0] > 0.5
    assert abs(found["drums"]["difference"]) < 0.05  # a constant answer
    chance = agreement([random], clips)["tempo"]["difference_interval"]
    assert chance[0] <= 0 <= chance[1]
    assert "key" not in found


def test_requests_are_compared_with_those_that_do_not_ask_for_the_same():
    asks = [{"tempo": [0, 80]}] * 4 + [{"tempo": [130, 1000]}] * 4 + [{"drums": False}] * 4
    signs = [directions(each) for each in asks]
    names = [f"{n}" for n in range(12)]
    values = [{"tempo": tempo, "meter": 0.0, "drums": 1.0} for tempo in 4 * [70] + 4 * [150]]
    values += [{"tempo": 100, "meter": 0.0, "drums": -1.0}] * 4
    found = moved([values, values], signs, names)
    assert found["tempo"] == {"asked": 8, "share": 1.0, "share_interval": [1.0, 1.0]}
    assert found["drums"]["share"] == 1 and found["all"]["asked"] == 12 and "meter" not in found
    equal = [{"tempo": 100, "meter": 0.0, "drums": 0.0}] * 12
    assert moved([equal], signs, names)["all"]["share"] == pytest.approx(0.5)
    assert directions({"meter": "4/4", "drums": True}) == {"meter": -1, "drums": 1}
    assert true_directions({"tempo": 79.0, "meter": True}) == {"tempo": -1, "meter": 1}
    assert true_directions({"tempo": 100.0}) == true_directions({}) == {}


def test_only_missing_clips_are_generated(tmp_path):
    class Silent:
        sample_rate = RATE

        def __init__(self):
            self.asked = []

        class sampler:
            class unet:
                conditioning = ("timing",)

        def generate(self, prompts, seconds, seeds, start, total):
            self.asked += zip(prompts, seeds, start, total, strict=True)
            return [np.full((480, 2), 0.25, np.float32)] * len(prompts)

    jobs = [Job("a", "piano", 0), Job("b", "flute", 7, (20.0, 60.0))]
    model = Silent()
    generate(model, jobs[:1], 480, tmp_path)
    audio = generate(model, jobs, 480, tmp_path)
    assert model.asked == [("piano", 0, 0.0, 0.01), ("flute", 7, 20.0, 60.0)]
    assert len(audio) == 2 and audio[0].shape == (480, 2) and np.allclose(audio, 0.25, atol=1e-4)
