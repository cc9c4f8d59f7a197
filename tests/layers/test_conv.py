"""Causal layers hear no future, centred ones do, and strides and polyphases are the convolutions they claim to be."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.layers.conv import Conv1d, Downsample, Upsample, delay
from tests.layers.testing import normal, perturbed, randomised

FRAMES = 12
CLOSE = dict(rtol=1e-5, atol=1e-5)


class Resample(nn.Module):
    """Down and up again: the two must agree on which frames a low-rate frame may know."""

    factor: int
    kernel_size: int

    @nn.compact
    def __call__(self, x, causal):
        return Upsample(3, self.factor, self.kernel_size)(
            Downsample(5, self.factor, self.kernel_size)(x, causal), causal
        )


LAYERS = {
    "conv": Conv1d(4, 3),
    "dilated": Conv1d(4, 3, dilation=3),
    "weight_norm": Conv1d(4, 3, weight_norm=True),
    **{f"resample_{factor}x_k{k}": Resample(factor, k) for factor in (1, 2, 3, 4) for k in (1, 3)},
}


@pytest.fixture(scope="module", params=LAYERS)
def layer(request):
    params, apply = randomised(
        LAYERS[request.param], normal(0, 2, FRAMES, 3), np.array([True, False])
    )
    return request.param, lambda x, causal: np.asarray(apply(params, x, np.array(causal)))


def test_a_causal_example_hears_no_later_frame_and_a_centred_one_does(layer):
    name, apply = layer
    x = normal(0, 2, FRAMES, 3)
    before = apply(x, [True, False])
    reached, heard_future = 0, 0
    for frame in range(FRAMES):
        after = apply(perturbed(x, np.s_[:, frame]), [True, False])
        np.testing.assert_array_equal(after[0, :frame], before[0, :frame])
        reached += (after[0, frame:] != before[0, frame:]).any()
        heard_future += (after[1, :frame] != before[1, :frame]).any()
    # Strictness must not be bought with deafness: all frames are heard but those that a low-rate frame behind the end would read.
    assert reached == FRAMES - (getattr(LAYERS[name], "factor", 1) - 1)
    assert heard_future > 0 or name == "resample_1x_k1"


def test_each_example_follows_its_own_flag(layer):
    _, apply = layer
    x = normal(0, 2, FRAMES, 3)
    mixed, causal, centred = (
        apply(x, flags) for flags in ([True, False], [True, True], [False, False])
    )
    np.testing.assert_array_equal(mixed[0], causal[0])
    np.testing.assert_array_equal(mixed[1], centred[1])


def test_a_causal_example_hears_the_current_frame():
    """Also at the end; and in a group of four the first frame reaches all four outputs."""
    x, flags = normal(0, 2, FRAMES, 3), np.array([True, True])
    for module, frames in [
        (Conv1d(4, 3), [FRAMES - 1]),
        (Resample(4, 1), [4, 5, 6, 7]),
        (Resample(4, 3), [8, 9, 10, 11]),
    ]:
        params, apply = randomised(module, x, flags)
        before, after = (
            np.asarray(apply(params, y, flags)) for y in (x, perturbed(x, np.s_[:, frames[0]]))
        )
        assert (after[:, frames] != before[:, frames]).any(axis=-1).all()


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


def test_delay_pushes_zeros_in_at_the_front():
    x = normal(0, 2, FRAMES, 3)
    delayed = delay(jnp.asarray(x), 2, True)
    np.testing.assert_array_equal(delayed[:, 2:], x[:, :-2])
    np.testing.assert_array_equal(delayed[:, :2], 0)
    np.testing.assert_array_equal(delay(jnp.asarray(x), 2, False), x)
