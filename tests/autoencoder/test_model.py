"""The autoencoder's shapes, receptive field, causality, padding and masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jen1_jax.autoencoder.model import Autoencoder
from jen1_numpy.errors import Refusal
from tests.autoencoder.testing import FIELDS, build

FRAMES = 48


def audio_for(model):
    return jax.random.normal(jax.random.key(1), (2, FRAMES * model.hop, 2)) * 0.3


@pytest.fixture(scope="module", params=[False, True], ids=["centred", "causal"])
def built(request):
    model, params = build(causal=request.param)
    run = jax.jit(
        lambda x, valid=None, method="encode": model.apply(
            {"params": params}, x, valid, method=method
        ),
        static_argnames="method",
    )
    return model, run, audio_for(model)


def changed(a, b):
    """First and last index along time where two results differ."""
    (index,) = np.nonzero(np.abs(np.asarray(a) - np.asarray(b)).max((0, 2)) > 0)
    return index.min(), index.max()


def test_shapes(built):
    _, run, audio = built
    latents = run(audio)
    assert latents.shape == (2, FRAMES, 6) and latents.dtype == jnp.float32
    assert run(latents, method="decode").shape == audio.shape
    with pytest.raises(ValueError, match="multiple of the hop"):
        run(audio[:, :-1])


def test_receptive_field_is_exact(built):
    model, run, audio = built
    middle = FRAMES // 2
    gradient = jax.grad(lambda x: run(x)[0, middle].sum())(audio)[0]
    (read,) = np.nonzero(np.abs(np.asarray(gradient)).max(-1))
    assert read.max() - read.min() + 1 == model.receptive_field
    after = 0 if model.causal else (model.receptive_field - model.hop) // 2
    assert read.max() == (middle + 1) * model.hop - 1 + after


def test_encoder_reach_is_exact(built):
    """A change before a border changes that many frames after it; the decoder reads as many."""
    model, run, audio = built
    border = FRAMES // 2
    before = audio.at[:, : border * model.hop].add(0.5)
    assert changed(run(audio), run(before)) == (0, border + model.encoder_reach - 1)
    latents = run(audio)
    shifted = latents.at[:, :border].add(0.5)
    assert (
        changed(run(latents, method="decode"), run(shifted, method="decode"))[1] // model.hop
        == border + model.encoder_reach - 1
    )


def test_only_a_causal_model_does_not_depend_on_the_future(built):
    model, run, audio = built
    border = FRAMES // 2
    first, _ = changed(run(audio), run(audio.at[:, border * model.hop :].add(0.5)))
    assert first == (border if model.causal else border - model.encoder_reach)
    latents = run(audio)
    first, _ = changed(
        run(latents, method="decode"), run(latents.at[:, border:].add(0.5), method="decode")
    )
    assert (first == border * model.hop) if model.causal else (first < border * model.hop)


def test_padding_changes_nothing(built):
    model, run, audio = built
    frames, hop = 15, model.hop
    valid = (jnp.arange(FRAMES) < frames)[None, :, None] * jnp.ones((2, 1, 1))
    np.testing.assert_allclose(
        run(audio, valid)[:, :frames], run(audio[:, : frames * hop]), atol=1e-5
    )
    latents = run(audio)
    whole = run(latents[:, :frames], method="decode")
    np.testing.assert_allclose(
        run(latents, valid, method="decode")[:, : frames * hop], whole, atol=1e-5
    )
    assert not run(audio, valid)[:, frames:].any()


@pytest.mark.parametrize("unit", ["frame", "element"])
def test_mask_sets_its_share_to_zero(unit):
    model = Autoencoder(**FIELDS, mask_rate=0.25, mask_unit=unit)
    kept = np.asarray(model.mask(jnp.ones((4, 500, 6)), jax.random.key(0)))
    assert abs(kept.mean() - 0.75) < 0.03
    assert set(np.unique(kept)) == {0.0, 1.0}
    whole_frames = (kept == kept[..., :1]).all()
    assert whole_frames == (unit == "frame")


def test_training_masks_and_inference_does_not():
    model, params = build(mask_rate=0.5)
    audio = audio_for(model)
    apply = jax.jit(lambda key=None: model.apply({"params": params}, audio, key)[:2])
    (reconstruction, latents), (masked, same) = apply(), apply(jax.random.key(3))
    np.testing.assert_allclose(latents, same, atol=1e-5)
    decode = jax.jit(lambda z: model.apply({"params": params}, z, method="decode"))
    np.testing.assert_allclose(reconstruction, decode(latents), atol=1e-4)
    np.testing.assert_allclose(masked, decode(model.mask(latents, jax.random.key(3))), atol=1e-4)
    assert np.abs(masked - reconstruction).max() > 0.01


def test_unknown_choices_are_refused():
    audio = jnp.zeros((1, 8, 2))
    for field, value in (("activation", "relu"), ("mask_unit", "band")):
        model = Autoencoder(**FIELDS, **{field: value})
        with pytest.raises(Refusal, match=field):
            jax.eval_shape(model.init, jax.random.key(0), audio, jax.random.key(1))
