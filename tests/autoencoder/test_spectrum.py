"""STFT levels: their properties, and the audio that is decoded from them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.jen1 import get_config
from jen1_jax.autoencoder import codec as codec_module
from jen1_jax.autoencoder import losses, spectrum
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Moments, fit_whitening
from jen1_jax.errors import Refusal
from jen1_jax.evaluation.reconstruction import side_error
from jen1_jax.models.autoencoder import make_autoencoder
from jen1_jax.training.checks import check_autoencoder_training
from tests.autoencoder.testing import build

RATE, WINDOW = 48_000, 512
HOP, FRAMES = WINDOW // 4, 64

analyse = jax.jit(lambda audio: spectrum.analyse(audio, WINDOW))
synthesise = jax.jit(
    lambda levels, valid, iterations, around=None: spectrum.synthesise(
        levels, valid, WINDOW, iterations, around
    ),
    static_argnames="iterations",
)
ONES = jnp.ones((1, FRAMES, 1))


@pytest.fixture(scope="module")
def chord():
    """Three tones at different places between left and right, and a little noise."""
    t = np.arange(FRAMES * HOP) / RATE
    gains = np.array([[0.3, 0.3], [0.25, 0.05], [0.02, 0.2]])
    tones = sum(
        np.sin(2 * np.pi * f * t)[:, None] * gain
        for f, gain in zip((520, 1230, 4100), gains, strict=True)
    )
    return (tones + 0.01 * np.random.default_rng(0).standard_normal(tones.shape)).astype(
        np.float32
    )[None]


def test_the_bands_of_each_bin_add_up_to_one():
    filters = spectrum.filters(2048)
    np.testing.assert_allclose(filters.sum(0), 1, atol=1e-5)
    assert (filters.sum(1) > 0.5).all() and len(filters) < 1025 / 4
    assert spectrum.bands(2048) == spectrum.VIEWS * len(filters)


def test_levels_do_not_depend_on_phase_and_polarity(chord):
    np.testing.assert_allclose(analyse(-chord), analyse(chord), atol=1e-5)
    assert not np.asarray(analyse(0 * chord)).any()
    t = np.arange(FRAMES * HOP) / RATE
    tone = lambda phase: np.repeat(
        0.5 * np.sin(2 * np.pi * 3000 * t + phase)[None, :, None], 2, -1
    ).astype(np.float32)
    inside = slice(4, -4)
    np.testing.assert_allclose(
        analyse(tone(1.0))[:, inside], analyse(tone(0.0))[:, inside], atol=0.02
    )


def test_levels_are_relative_to_the_quietest(chord):
    """Audio that is 40 dB quieter has the same levels if the quietest band is 40 dB quieter."""
    quiet = jax.jit(lambda audio: spectrum.analyse(audio, WINDOW, -120.0))(0.01 * chord)
    np.testing.assert_allclose(quiet, analyse(chord), atol=1e-4)
    loud = np.full((1, FRAMES * HOP, 2), 1.0, np.float32)
    assert 0.98 * spectrum.loudest() < analyse(loud).max() < spectrum.loudest()
    assert spectrum.loudest(-120.0) - spectrum.loudest() == pytest.approx(np.log(100) / 4)


def test_the_level_of_a_weak_side_is_exact():
    noise = np.random.default_rng(3).standard_normal((2, FRAMES * HOP)).astype(np.float32)
    mid, side = 0.3 * noise[0], 3e-6 * noise[1]
    of = jax.jit(
        lambda left, right: spectrum.analyse(jnp.stack([left, right], -1)[None], WINDOW, -120.0)
    )
    bands = spectrum.bands(WINDOW) // spectrum.VIEWS
    side_of = lambda left, right: of(left, right)[..., -bands:]
    np.testing.assert_allclose(side_of(mid + side, mid - side), side_of(side, -side), atol=0.05)


def test_audio_of_levels_has_no_higher_peaks():
    """The decoded phases of 59 partials must not add up to pulses."""
    t, rng = np.arange(FRAMES * HOP) / RATE, np.random.default_rng(2)
    audio = sum(
        np.sin(2 * np.pi * f * t + rng.uniform(0, 2 * np.pi)) for f in 220 * np.arange(1, 60)
    )
    audio = np.repeat(audio[None, :, None] / np.abs(audio).max(), 2, -1).astype(np.float32)
    assert np.abs(synthesise(analyse(audio), ONES, 4)).max() < 1.6


def test_a_shifted_piece_has_shifted_levels(chord):
    shifted = np.roll(chord, 3 * HOP, axis=1)
    np.testing.assert_allclose(analyse(shifted)[:, 6:-6], analyse(chord)[:, 3:-9], atol=1e-4)


def test_audio_of_levels_has_these_levels_and_this_stereo_image(chord):
    levels = analyse(chord)
    error = lambda iterations: (
        float(jnp.abs(analyse(synthesise(levels, ONES, iterations)) - levels).mean())
        * spectrum.NATS
    )
    assert error(24) < 0.7 * error(0)
    decoded = np.asarray(synthesise(levels, ONES, 24))
    assert abs(side_error(decoded[0], chord[0])) < 1
    assert not np.asarray(synthesise(0 * levels, ONES, 2)).any()


@pytest.mark.parametrize("right", [1, -1, 0])
def test_a_tone_in_the_middle_the_side_or_the_left_is_decoded_there(chord, right):
    audio = chord * 0 + chord[..., :1] * np.float32([1, right])
    decoded = np.asarray(synthesise(analyse(audio), ONES, 4))
    assert np.sum(decoded**2) == pytest.approx(np.sum(audio**2), rel=0.2)
    assert np.sum((decoded[..., 1] - right * decoded[..., 0]) ** 2) < 1e-3 * np.sum(decoded**2)


def test_padding_changes_nothing(chord):
    real = 40
    valid = (jnp.arange(FRAMES) < real)[None, :, None].astype(jnp.float32)
    levels = analyse(chord)
    padded = synthesise(levels, valid, 2)
    alone = synthesise(levels[:, :real], jnp.ones((1, real, 1)), 2)
    np.testing.assert_allclose(padded[:, : real * HOP], alone, atol=1e-4)
    assert not np.asarray(padded[:, real * HOP :]).any()


def test_decoded_phases_continue_those_of_the_audio_around_them(chord):
    """A hole in sustained tones is filled in phase, and without the audio around it is not."""
    known = np.ones((1, FRAMES * HOP, 1), np.float32)
    hole = slice(24 * HOP, 40 * HOP)
    known[:, hole] = 0
    levels, around = analyse(chord), spectrum.Around(jnp.asarray(chord * known), jnp.asarray(known))
    inside, free = synthesise(levels, ONES, 24, around), synthesise(levels, ONES, 24)
    np.testing.assert_array_equal(inside[known[..., 0] > 0], chord[known[..., 0] > 0])
    edge = slice(hole.start, hole.start + HOP)
    error = lambda decoded: float(
        jnp.mean((decoded - chord)[:, edge] ** 2) / np.mean(chord[:, edge] ** 2)
    )
    assert error(inside) < 0.5 and error(free) > 1  # random phases have 2


def test_distance_is_zero_for_the_truth_and_has_finite_gradients_on_silence(chord):
    valid = jnp.array([FRAMES * HOP])
    distance = lambda p, audio: jnp.sum(spectrum.distance(p, jnp.asarray(audio), valid, WINDOW))
    assert float(distance(analyse(chord), chord)) < 1e-5
    assert float(distance(analyse(chord) + 0.25, chord)) == pytest.approx(
        0.25 * spectrum.NATS, rel=1e-3
    )
    gradient = jax.grad(lambda audio: distance(analyse(audio), chord))(jnp.zeros_like(chord))
    assert np.isfinite(gradient).all()


def test_width_error_is_that_of_the_side_and_not_of_the_level(chord):
    """It is 0 for the truth and a louder copy; a side of half its size is log(4) narrower."""
    valid = jnp.array([FRAMES * HOP - 100])
    error = jax.jit(lambda p, audio: spectrum.width_error(p, audio, valid, WINDOW)[0])
    padded = jnp.asarray(chord).at[:, FRAMES * HOP - 100 :].set(0)
    assert float(error(analyse(padded), chord)) < 1e-5
    assert float(error(analyse(1.2 * padded), chord)) < 0.02
    mid = padded.mean(-1, keepdims=True)
    quiet = mid + 0.3 * (padded - mid)
    narrower = mid + 0.15 * (padded - mid)
    assert 0.5 < float(error(analyse(narrower), quiet)) < np.log(4)
    assert float(error(analyse(mid + 0 * padded), padded)) > 1
    silent = jax.grad(lambda p: error(p, 0 * padded))(analyse(0 * padded))
    assert np.isfinite(silent).all()
    gradient = jax.grad(lambda p: error(p, padded))(analyse(mid + 0 * padded))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_every_bin_is_in_one_range_of_frequency():
    for window in (64, 512, 2048):
        ranges = spectrum._ranges(window)
        assert ranges.sum() == pytest.approx(window // 2 + 1)
        assert window < 512 or (ranges.sum(0) > 0).all()


@pytest.fixture(scope="module")
def codec():
    model, params = build(strides=(16, 2), window=64, phase_iterations=3)
    whitening = fit_whitening(
        Moments.of(np.random.default_rng(1).normal(size=(200, 6)) + 1), keep=1.0, floor=1e-5
    )
    return Codec(model, params, whitening, RATE)


@pytest.mark.slow
def test_chunks_of_a_spectral_codec_equal_the_whole(codec, monkeypatch):
    monkeypatch.setattr(codec_module, "CHUNK_SECONDS", 16 * 32 / RATE)
    audio = (0.3 * np.random.default_rng(5).standard_normal((100 * 32 - 7, 2))).astype(np.float32)
    whole = jax.jit(
        lambda x, method: codec.model.apply({"params": codec.params}, x, method=method),
        static_argnums=1,
    )
    padded = np.pad(audio, ((0, 7), (0, 0)))[None]
    latents = codec.encode(audio)
    np.testing.assert_allclose(
        latents, codec.whitening.apply(whole(padded, "encode"))[0], atol=1e-3
    )
    expected = np.asarray(whole(codec.whitening.invert(latents[None]), "decode"))[0, : len(audio)]
    np.testing.assert_allclose(
        codec.decode(latents, len(audio)), expected, atol=2e-3 * np.abs(expected).max()
    )
    monkeypatch.setattr(Codec, "decoder_reach", property(lambda self: 2))  # too small
    assert (
        np.abs(dataclasses.replace(codec).decode(latents, len(audio)) - expected).max()
        > 0.05 * np.abs(expected).max()
    )


def test_nothing_decoded_is_louder_than_the_loudest_level(codec):
    latents = np.random.default_rng(6).standard_normal((12, codec.k)).astype(np.float32)
    decoder = codec.params["decoder"]
    loud = decoder | {"direct": jax.tree.map(lambda leaf: leaf + 5, decoder["direct"])}

    def loudness(level):  # of a decoder whose levels are much higher
        loudest = np.full(spectrum.bands(64), level, np.float32)
        decoded = dataclasses.replace(
            codec, params=codec.params | {"decoder": loud}, loudest=loudest
        ).decode(latents)
        return np.abs(np.asarray(losses.stft(jnp.asarray(decoded)[None], 64))).max()

    limit = 1e-4 * np.exp(0.5 * spectrum.NATS)
    assert (
        0.3 * limit < loudness(0.5) < 3 * limit
        and loudness(0.0) == 0
        and loudness(spectrum.loudest()) > 100 * limit
    )


def test_a_codec_of_quieter_levels_gives_the_same_latents_to_quieter_audio(codec):
    lower = dataclasses.replace(codec, model=codec.model.clone(quietest=-100.0))
    audio = (0.3 * np.random.default_rng(6).standard_normal((20 * 32, 2))).astype(np.float32)
    latents = codec.encode(audio)
    np.testing.assert_allclose(lower.encode(0.1 * audio), latents, atol=1e-3)
    rms = lambda audio: np.sqrt(np.mean(audio**2))  # the search finds other phases, by rounding
    assert rms(lower.decode(latents)) == pytest.approx(0.1 * rms(codec.decode(latents)), rel=0.2)


def test_decoding_around_known_audio_returns_it(codec):
    audio = (0.3 * np.random.default_rng(6).standard_normal((20 * 32 - 5, 2))).astype(np.float32)
    known = np.arange(len(audio)) < 300
    decoded = codec.decode(codec.encode(audio), len(audio), around=(audio, known))
    np.testing.assert_array_equal(decoded[known], audio[known])
    assert np.abs(decoded[~known] - audio[~known]).max() > 0.01


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"window": 2048}, "four times strides"),
        ({"window": 32, "strides": (8, 2, 4, 5, 8), "causal": True}, "without autoencoder.causal"),
        ({"quietest": -20.0}, "between -140 and -40 dB"),
        ({"phase_iterations": -1}, "phase_iterations"),
        ({"window": 32, "strides": (8, 2, 4, 5, 8)}, "at least 1 with autoencoder.window"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    config = get_config()
    with config.unlocked():
        config.autoencoder.update(**changes)
    with pytest.raises(Refusal, match=message):
        make_autoencoder(config)


def test_the_loss_of_levels_needs_a_window_and_that_of_waveforms_needs_none():
    config = get_config()
    config.train_autoencoder.losses.levels = 1.0
    with pytest.raises(Refusal, match="levels compares STFT levels"):
        check_autoencoder_training(config)
    config.train_autoencoder.losses.update(levels=0.0, width=1.0)
    with pytest.raises(Refusal, match="width compares STFT levels"):
        check_autoencoder_training(config)
    config.autoencoder.window = 32
    with pytest.raises(Refusal, match="waveform compares phases"):
        check_autoencoder_training(config)


def test_the_gradient_of_decoded_audio_is_finite_and_lowers_its_loss(chord):
    audio = jnp.asarray(chord).at[:, : FRAMES * HOP // 3].set(0)  # silence
    audio = audio.at[:, -2000:, 1].set(-audio[:, -2000:, 0])  # side without mid
    levels, valid = analyse(audio), jnp.array([FRAMES * HOP])

    @jax.jit
    @jax.value_and_grad
    def loss(levels):
        decoded = spectrum.synthesise(levels, ONES, WINDOW, 4)
        return losses.multi_resolution_stft(decoded, audio, valid, (WINDOW,)).sum()

    quiet = 0.9 * levels
    value, gradient = loss(quiet)
    assert np.isfinite(gradient).all()
    closer, _ = loss(quiet - 0.05 * gradient / jnp.abs(gradient).max())
    assert closer < value
