"""What the benchmark of latents takes from a prepared data set."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from benchmarks.features import encode_all
from benchmarks.learnability import HeldOut, draw_captions
from data_pipeline.prepare import prepare
from jen1_numpy.errors import Refusal

SAMPLES, SHORT = 12_000, 9000


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten recordings: six held out, of which the first is short and two have one caption.

    Of the four for training the last is short.
    """
    folder = tmp_path_factory.mktemp("data")
    rng, lines = np.random.default_rng(0), []
    for number in range(10):
        length = SHORT if number in (0, 9) else SAMPLES
        audio = rng.uniform(-0.5, 0.5, (length, 2))
        soundfile.write(folder / f"{number}.wav", audio, 48_000, subtype="PCM_16")
        captions = ["piano", f"a piano, number {max(number, 2)}"]
        split = "test" if number < 6 else "train"
        lines.append(dict(path=f"{number}.wav", captions=captions, split=split))
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare(str(folder / "list.jsonl"), str(folder / "out"), seconds=SAMPLES / 48_000)
    return folder


def test_held_out_clips_are_long_and_differ_in_their_longest_captions(data):
    held_out = HeldOut.of(data / "out", 4, 4000, 6000)
    assert sorted(held_out.captions) == [f"a piano, number {number}" for number in range(2, 6)]
    (wrong,) = held_out.wrong.values()
    assert all(map(str.__ne__, held_out.captions, wrong)) and {*wrong} <= {*held_out.captions}
    for caption, real, later in zip(held_out.captions, held_out.real, held_out.later, strict=True):
        names = "12" if caption[-1] == "2" else caption[-1]
        audio = [soundfile.read(data / f"{name}.wav", dtype="float32")[0] for name in names]
        near = [np.abs(real - each[:4000]).max() < 1e-4 for each in audio]
        assert any(near)
        np.testing.assert_allclose(later, audio[near.index(True)][6000:10_000], atol=1e-4)
    with pytest.raises(Refusal, match="only 4 held-out clips"):
        HeldOut.of(data / "out", 5, 4000, 6000)


def test_training_clips_have_all_captions_and_no_padding(data):
    feature = SimpleNamespace(hop=5000, encode=lambda audio: audio.reshape(len(audio), 2, -1))
    latents, captions = encode_all(feature, data / "out")
    assert latents.shape == (3, 2, 10_000)
    assert sorted(captions) == [["piano", f"a piano, number {n}"] for n in (6, 7, 8)]


def test_each_step_takes_one_of_the_captions_of_each_clip():
    captions = [["a"], ["b", "c", "d"]]
    drawn = [tuple(draw_captions(captions, 0, step)) for step in range(300)]
    counts = Counter(drawn)
    assert set(counts) == {("a", "b"), ("a", "c"), ("a", "d")} and min(counts.values()) > 70
    assert drawn[7] == tuple(draw_captions(captions, 0, 7))
    assert drawn != [tuple(draw_captions(captions, 1, step)) for step in range(300)]
