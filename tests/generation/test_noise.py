"""Noise that is given takes the place of the noise that is drawn; files of noise."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from jen1_numpy.errors import Refusal
from jen1_numpy.noise import by_window, read_noise, write_noise


def test_the_noise_that_a_seed_draws_gives_the_same_music(tiny_model):
    """As a function, and as arrays in the order of sampling."""
    model, order = tiny_model, []
    seconds = 1.2 * model.sampler.window / model.codec.frame_rate

    def noise(piece, window):
        order.append((piece, window))
        return model.sampler.noise(5 + piece, window)

    prompts = ["two tones", "slow noise"]
    expected = model.generate(prompts, seconds, seed=[5, 6], steps=2)
    given = model.generate(prompts, seconds, noise=noise, steps=2)
    assert order == [(0, 0), (1, 0), (0, 1), (1, 1)]
    arrays = [model.sampler.noise(5 + piece, window) for piece, window in order]
    listed = model.generate(prompts, seconds, noise=arrays, steps=2)
    for ours, other, third in zip(expected, given, listed, strict=True):
        np.testing.assert_array_equal(ours, other)
        np.testing.assert_array_equal(ours, third)
    with pytest.raises(Refusal, match="noise ends before window 1 of piece 1; give an array of"):
        model.generate(prompts, seconds, noise=arrays[:3], steps=2)


def test_noise_of_another_shape_is_refused():
    start = by_window(lambda piece, window: np.zeros((5, window)), 5, 0)
    assert start(0, 0).shape == (5, 0)
    with pytest.raises(Refusal, match=r"window 3 of piece 1 has the shape \[5, 3\].* \[5, 0\]"):
        start(1, 3)


def test_noise_that_is_none_is_refused():
    for noise, reason in (
        ("abc", "is no noise"),
        (5, "is no noise"),
        (["abc"], "no array of numbers"),
        ([[[1.0], [2.0, 3.0]]], "no array of numbers"),
        ([[[1.0], [np.nan]]], "NaN or infinity"),
        ([[[1.0], [1e300]]], "NaN or infinity"),
    ):
        with pytest.raises(Refusal, match=reason):
            by_window(noise, 2, 1)(0, 0)


def test_a_file_holds_the_noise_of_all_windows(tmp_path):
    noise = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    write_noise(tmp_path / "noise.safetensors", noise.transpose(1, 2, 0))
    found = read_noise(tmp_path / "noise.safetensors")
    np.testing.assert_array_equal(found, noise.transpose(1, 2, 0))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "noise"
    wrong = [
        {"other": np.zeros((1, 2, 3), np.float32)},
        {"noise": np.zeros((2, 3), np.float32)},
        {"noise": np.zeros((1, 2, 3))},
    ]
    for tensors in wrong:
        save_file(tensors, path)
        with pytest.raises(Refusal, match="holds no noise"):
            read_noise(path)
    path.write_bytes(b"\xff" * 100)
    os.mkfifo(tmp_path / "pipe")
    for other in (path, tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(Refusal, match="holds no noise"):
            read_noise(other)
