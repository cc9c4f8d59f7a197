"""What models/denoiser.py states, for each denoiser in tests/models/testing.py.

Parameters are random everywhere, since an output layer may start at zero.
"""

import hashlib

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jen1_jax.models.denoiser import Denoiser
from tests.layers.testing import perturbed, randomised
from tests.models.testing import BIDIRECTIONAL, CAUSAL, DENOISERS, FRAMES, UNET, K, batch

# All but the first compile or trace for long.
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name != "unet")) for name in DENOISERS]


@pytest.fixture(scope="module", params=NAMES)
def net(request):
    """The outputs of a network with random parameters for a batch with the given changes."""
    params, apply = randomised(DENOISERS[request.param][0], *batch().values())
    return lambda frames=FRAMES, valid=None, **changed: np.asarray(
        apply(params, *batch(frames, valid, **changed).values())
    )


@pytest.mark.parametrize("name", DENOISERS)
def test_it_has_the_members_of_a_denoiser(name):
    module, _ = DENOISERS[name]
    assert isinstance(module, Denoiser)
    assert module.out_channels == K and FRAMES % module.frames_multiple == 0


@pytest.mark.parametrize("name", NAMES)
def test_parameter_names_and_shapes_are_those_of_earlier_checkpoints(name):
    module, digest = DENOISERS[name]
    params = jax.eval_shape(module.init, jax.random.key(0), *batch().values())["params"]
    names = [f"{path} {leaf.shape}" for path, leaf in flatten_dict(params, sep="/").items()]
    assert hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16] == digest, sorted(
        names
    )


def test_qk_norm_adds_two_scales_to_every_attention_and_changes_no_other_name():
    def shapes(module):
        params = jax.eval_shape(module.init, jax.random.key(0), *batch().values())["params"]
        return {path: leaf.shape for path, leaf in flatten_dict(params, sep="/").items()}

    without, with_norm = (shapes(UNET.clone(qk_norm=qk_norm)) for qk_norm in (False, True))
    attentions = {path.removesuffix("/query/kernel") for path in without if "query" in path}
    added = {f"{path}/{name}_norm/scale" for path in attentions for name in ("query", "key")}
    assert with_norm == without | dict.fromkeys(added, (UNET.head_dim,)) and len(added) == 8


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_float32_for_any_number_of_frames_also_in_bfloat16(name):
    module, frames = DENOISERS[name][0].clone(dtype="bfloat16"), FRAMES - 1
    output, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), *batch(frames).values())
    assert output.shape == (2, frames, K) and output.dtype == np.float32


@pytest.mark.parametrize("name", ["noisy", "context", "mask"])
def test_a_causal_example_depends_on_no_later_frame_and_a_bidirectional_one_on_all(net, name):
    before = net()
    for frame in range(FRAMES):
        after = net(**{name: perturbed(batch()[name], np.s_[:, frame])})
        np.testing.assert_array_equal(after[CAUSAL, :frame], before[CAUSAL, :frame])
        assert (after[CAUSAL, frame] != before[CAUSAL, frame]).any()
        assert (after[BIDIRECTIONAL] != before[BIDIRECTIONAL]).any(axis=-1).all()


def test_an_example_does_not_depend_on_the_others_or_their_modes(net):
    mixed = net()
    for mode in (True, False):
        alone = net(causal=np.array([mode, mode]))
        example = CAUSAL if mode else BIDIRECTIONAL
        np.testing.assert_array_equal(mixed[example], alone[example])
        assert (mixed[1 - example] != alone[1 - example]).any()
    for name in ("noisy", "context", "mask", "log_snr", "text"):
        changed = net(**{name: perturbed(batch()[name], np.s_[CAUSAL])})
        np.testing.assert_array_equal(changed[BIDIRECTIONAL], mixed[BIDIRECTIONAL])
        assert (changed[CAUSAL] != mixed[CAUSAL]).any(), name


def test_the_content_of_padding_changes_nothing_and_its_output_is_zero(net):
    inputs = batch()
    for valid in range(1, FRAMES):
        garbage = {
            name: perturbed(inputs[name], np.s_[:, valid:], by=7.0)
            for name in ("noisy", "context", "mask")
        }
        clean, dirty = net(valid=valid), net(valid=valid, **garbage)
        np.testing.assert_array_equal(clean, dirty)
        np.testing.assert_array_equal(clean[:, valid:], 0)
        # The text reaches every real frame, also one that shares a low-rate frame with padding.
        other_text = net(valid=valid, text=-inputs["text"])
        assert (other_text != clean)[:, :valid].any(axis=-1).all()


def test_the_amount_of_padding_changes_nothing(net):
    for valid in (7, 10, 12):
        np.testing.assert_allclose(
            net(frames=12, valid=valid)[:, :valid],
            net(valid=valid)[:, :valid],
            rtol=1e-5,
            atol=1e-5,
        )
    # As real frames they change the result.
    assert not np.allclose(net(frames=12)[:, :12], net()[:, :12], atol=1e-2)


def test_tokens_beyond_the_text_length_change_nothing(net):
    text = batch()["text"]
    np.testing.assert_array_equal(net(text=perturbed(text, np.s_[0, 2:], by=7.0)), net())
    assert (net(text=perturbed(text, np.s_[0, 1])) != net())[0].any()


def test_an_example_without_text_does_not_depend_on_its_tokens(net):
    lengths, text = np.array([0, 4], np.int32), batch()["text"]
    np.testing.assert_array_equal(
        net(text_lengths=lengths), net(text_lengths=lengths, text=perturbed(text, np.s_[0], by=7.0))
    )
    np.testing.assert_array_equal(net(text_lengths=lengths)[1], net()[1])


def test_without_text_a_causal_example_depends_on_no_later_frame(net):
    lengths = np.array([0, 0], np.int32)
    before = net(text_lengths=lengths)
    for frame in (1, 7, 13, FRAMES - 1):
        after = net(text_lengths=lengths, noisy=perturbed(batch()["noisy"], np.s_[:, frame]))
        np.testing.assert_array_equal(after[CAUSAL, :frame], before[CAUSAL, :frame])
        assert (after[BIDIRECTIONAL] != before[BIDIRECTIONAL]).any(axis=-1).all()
    garbage = perturbed(batch()["noisy"], np.s_[:, 13:], by=7.0)
    np.testing.assert_array_equal(
        net(valid=13, text_lengths=lengths), net(valid=13, text_lengths=lengths, noisy=garbage)
    )


def test_the_log_snr_matters_within_its_limits(net):
    at = lambda log_snr: net(log_snr=np.full(2, log_snr, np.float32))
    assert (at(0.0) != at(0.5)).any(axis=-1).all()
    np.testing.assert_array_equal(at(20.0), at(1000.0))
