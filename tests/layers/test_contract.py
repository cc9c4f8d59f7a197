"""What every layer along time states of itself is true: its reach, rate, padding and dtype."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.layers.attention import Attention, FeedForward, TransformerBlock
from jen1_jax.layers.conv import Conv1d, Downsample, Upsample
from jen1_jax.layers.dense import Dense
from jen1_jax.layers.norms import RMSNorm
from jen1_jax.unet import ResidualBlock
from tests.layers.testing import normal, perturbed, randomised

FRAMES, WIDTH, REAL = 12, 4, 8  # both are multiples of every factor
CAUSAL, BIDIRECTIONAL = 0, 1  # the batch's two examples
TEXT, EMBEDDING = jnp.asarray(normal(1, 2, 3, WIDTH)), jnp.asarray(normal(2, 2, 6))
SOME, NONE = jnp.array([3, 2]), jnp.array([0, 0])

# Name -> a layer, and what it is called with.
ALONE = lambda x, valid, causal: (x,)
CONVOLUTION = lambda x, valid, causal: (x, causal)
LAYERS = {
    "dense": (Dense(5), ALONE),
    "norm": (RMSNorm(), ALONE),
    "feed_forward": (FeedForward(2), ALONE),
    "conv_k1": (Conv1d(5, 1), CONVOLUTION),
    "conv_k3": (Conv1d(5, 3), CONVOLUTION),
    "conv_k5_dilated": (Conv1d(5, 5, dilation=2, use_bias=False), CONVOLUTION),
    "conv_weight_norm": (Conv1d(5, 3, weight_norm=True), CONVOLUTION),
    **{f"down_{f}x_k{k}": (Downsample(5, f, k), CONVOLUTION) for f, k in ((2, 3), (4, 1))},
    **{f"up_{f}x_k{k}": (Upsample(5, f, k), CONVOLUTION) for f, k in ((2, 3), (4, 1))},
    "residual_block": (
        ResidualBlock(5),
        lambda x, valid, causal: (x, EMBEDDING, valid, causal),
    ),
    "attention": (Attention(2), lambda x, valid, causal: (x, valid[..., 0] > 0, causal)),
    "transformer_block": (
        TransformerBlock(2, 2),
        lambda x, valid, causal: (x, TEXT, SOME, valid, causal),
    ),
    "transformer_block_without_text": (
        TransformerBlock(2, 2, replace_text=True),
        lambda x, valid, causal: (x, TEXT, NONE, valid, causal),
    ),
}
X = normal(0, 2, FRAMES, WIDTH)
MIXED = np.array([True, False])
MODES = pytest.mark.parametrize("mode", [CAUSAL, BIDIRECTIONAL], ids=["causal", "bidirectional"])


class Case:
    """A layer with random parameters, called with two examples: one causal, one bidirectional."""

    def __init__(self, name: str, dtype: str):
        module, inputs = LAYERS[name]
        self.layer = module.clone(dtype=dtype)
        x, valid = jnp.asarray(X, dtype), jnp.asarray(valid_frames(FRAMES))
        self.params, _ = randomised(self.layer, *inputs(x, valid, MIXED))

        def call(params, x, valid, causal):
            x = x.astype(dtype)
            return self.layer.apply({"params": params}, *inputs(x, valid, causal))

        self.any_mode, self.one_mode = jax.jit(call), jax.jit(call, static_argnums=3)

    def __call__(self, x, valid=None, causal=MIXED):
        """The output, float32; a `causal` that is a bool is known when the layer is compiled."""
        valid = valid_frames(FRAMES) if valid is None else valid
        call = self.one_mode if isinstance(causal, bool) else self.any_mode
        return np.asarray(call(self.params, x, valid, causal)).astype(np.float32)

    def place(self, frame: int) -> int:
        """The input frame that is an output frame's own."""
        return math.floor(frame / self.layer.rate)


def valid_frames(real: int) -> np.ndarray:
    return np.broadcast_to(np.float32(np.arange(FRAMES) < real)[:, None], (2, FRAMES, 1))


@pytest.fixture(
    scope="module", params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
def dtype(request):
    return request.param


SLOW = {"transformer_block", "conv_weight_norm"}  # others test most of the same lines


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in LAYERS],
)
def case(request, dtype):
    return Case(request.param, dtype)


def test_the_output_has_the_stated_rate_and_dtype(case, dtype):
    output = jax.eval_shape(case.any_mode, case.params, X, valid_frames(FRAMES), MIXED)
    assert output.shape[:2] == (2, FRAMES * case.layer.rate)
    assert output.dtype == dtype


@MODES
def test_the_reach_is_exact(case, mode):
    """No input beyond the reach changes an output frame, and those at both of its edges do."""
    before = case(X)
    changed = np.array(
        [
            (case(perturbed(X, np.s_[:, frame], by=3.0)) != before)[mode].any(axis=-1)
            for frame in range(FRAMES)
        ]
    )
    reach = case.layer.reach(causal=mode == CAUSAL)
    for frame, depends in enumerate(changed.T):
        first = max(case.place(frame) - reach.before, 0)
        last = min(case.place(frame) + reach.after, FRAMES - 1)
        read = np.flatnonzero(depends)
        if case.place(frame) - reach.before >= 0 or math.isinf(reach.before):
            assert read.min() == first
        if case.place(frame) + reach.after < FRAMES or math.isinf(reach.after):
            assert read.max() == last
        assert first <= read.min() and read.max() <= last


def test_a_causal_example_does_not_depend_on_the_future(case):
    assert case.layer.reach(causal=True).after == 0
    before = case(X)
    for frame in range(FRAMES):
        after = case(perturbed(X, np.s_[:, frame:], by=3.0))
        past = [case.place(n) < frame for n in range(after.shape[1])]
        np.testing.assert_array_equal(after[CAUSAL, past], before[CAUSAL, past])


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_padding_does_not_change_the_real_frames(case, dtype):
    """Neither zeros nor, unless the layer states that it needs them, anything else."""
    valid, real = valid_frames(REAL), int(REAL * case.layer.rate)
    alone = case(X[:, :REAL], valid[:, :REAL])
    zeros = case(X * valid, valid)[:, :real]
    np.testing.assert_allclose(zeros, alone, rtol=1e-5, atol=1e-5)
    if case.layer.padding != "zeros":
        np.testing.assert_array_equal(case(X * valid + 7 * (1 - valid), valid)[:, :real], zeros)


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_examples_of_both_modes_equal_each_mode_alone(case, dtype):
    mixed = case(X)
    for example, mode in ((CAUSAL, True), (BIDIRECTIONAL, False)):
        for alone in (case(X, causal=np.array([mode] * 2)), case(X, causal=mode)):
            np.testing.assert_array_equal(mixed[example], alone[example])
