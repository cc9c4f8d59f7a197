"""The convolutions equal their definitions; tests/layers/test_contract.py tests their reach."""

import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.layers.conv import Conv1d, Downsample, Upsample, delay
from tests.layers.testing import normal, randomised

FRAMES = 12
CLOSE = dict(rtol=1e-5, atol=1e-5)


def test_convolution_equals_numpy():
    x = normal(0, 2, FRAMES, 3)
    params, apply = randomised(Conv1d(4, 5, dilation=2), x)
    padded = np.pad(x, ((0, 0), (4, 4), (0, 0)))
    expected = (
        sum(padded[:, 2 * i : 2 * i + FRAMES] @ params["kernel"][i] for i in range(5))
        + params["bias"]
    )
    np.testing.assert_allclose(apply(params, x), expected, **CLOSE)


def test_a_causal_convolution_is_the_centred_one_delayed():
    x = normal(0, 2, FRAMES, 3)
    params, apply = randomised(Conv1d(4, 3, dilation=2), x, np.array([True, True]))
    causal, centred = (apply(params, x, np.array([flag, flag])) for flag in (True, False))
    np.testing.assert_allclose(causal[:, 2:], centred[:, :-2], **CLOSE)


def test_downsample_equals_a_strided_convolution():
    x = normal(0, 2, FRAMES, 3)
    params, apply = randomised(Downsample(5, 4), x)
    kernel, bias = params["Conv1d_0"]["kernel"].reshape(4, 3, 5), params["Conv1d_0"]["bias"]
    expected = np.stack(
        [
            np.einsum("bfc,fco->bo", x[:, start : start + 4], kernel)
            for start in range(0, FRAMES, 4)
        ],
        axis=1,
    )
    np.testing.assert_allclose(apply(params, x), expected + bias, **CLOSE)


def test_upsample_equals_a_transposed_convolution():
    x = normal(0, 2, FRAMES, 3)
    params, apply = randomised(Upsample(5, 4), x)
    kernel, bias = (
        params["Conv1d_0"]["kernel"].reshape(3, 4, 5),
        params["Conv1d_0"]["bias"].reshape(4, 5),
    )
    expected = np.zeros((2, 4 * FRAMES, 5), np.float32)
    for frame in range(FRAMES):
        expected[:, 4 * frame : 4 * frame + 4] = (
            np.einsum("bc,cfo->bfo", x[:, frame], kernel) + bias
        )
    np.testing.assert_allclose(apply(params, x), expected, **CLOSE)


def test_weight_normalisation_scales_each_output_channel_to_its_parameter():
    x = normal(0, 2, FRAMES, 3)
    params, apply = randomised(Conv1d(4, 3, weight_norm=True), x)
    _, plain = randomised(Conv1d(4, 3), x)
    norms = np.sqrt((params["kernel"] ** 2).sum((0, 1)))
    np.testing.assert_allclose(
        apply(params, x),
        plain({"kernel": params["kernel"] / norms * params["scale"], "bias": params["bias"]}, x),
        **CLOSE,
    )
    np.testing.assert_allclose(
        apply({**params, "scale": norms}, x),
        plain({"kernel": params["kernel"], "bias": params["bias"]}, x),
        **CLOSE,
    )


def test_impossible_shapes_are_refused():
    x = normal(0, 2, FRAMES, 3)
    with pytest.raises(ValueError, match="odd"):
        randomised(Conv1d(4, 2), x)
    with pytest.raises(ValueError, match="12 frames are not a multiple of the factor 5"):
        randomised(Downsample(4, 5), x)


def test_delay_adds_zeros_at_the_front():
    x = normal(0, 2, FRAMES, 3)
    delayed = delay(jnp.asarray(x), 2, True)
    np.testing.assert_array_equal(delayed[:, 2:], x[:, :-2])
    np.testing.assert_array_equal(delayed[:, :2], 0)
    np.testing.assert_array_equal(delay(jnp.asarray(x), 2, False), x)
