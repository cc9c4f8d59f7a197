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
from jen1_jax.evaluation.reconstruction import side_error
from jen1_jax.models.autoencoder import make_autoencoder
from jen1_jax.training.checks import check_autoencoder_training
from jen1_numpy.errors import Refusal
from tests.autoencoder.testing import build

RATE, SAMPLES = 48_000, 8192
ONE, BOTH = spectrum.Layout(512), spectrum.Layout(1024, 256)
LAYOUTS = pytest.mark.parametrize("layout", [ONE, BOTH], ids=["one window", "two windows"])

analyse = jax.jit(spectrum.analyse, static_argnums=1)
_synthesise = jax.jit(spectrum.synthesise, static_argnums=(2, 3))


def synthesise(levels, layout, iterations, around=None):
    valid = jnp.ones((*levels.shape[:2], 1))
    return _synthesise(levels, valid, layout, iterations, around)


@pytest.fixture(scope="module")
def chord():
    """Three tones at different places between left and right, and a little noise."""
    t = np.arange(SAMPLES) / RATE
    gains = np.array([[0.3, 0.3], [0.25, 0.05], [0.02, 0.2]])
    tones = sum(
        np.sin(2 * np.pi * f * t)[:, None] * gain
        for f, gain in zip((520, 1230, 4100), gains, strict=True)
    )
    return (tones + 0.01 * np.random.default_rng(0).standard_normal(tones.shape)).astype(
        np.float32
    )[None]


def test_the_bands_of_each_bin_add_up_to_one():
    for layout in (spectrum.Layout(2048), spectrum.Layout(4096, 1024)):
        filters = [spectrum.filters(part) for part in layout.parts]
        for part, each in zip(layout.parts, filters, strict=True):
            np.testing.assert_allclose(each.sum(0), 1, atol=1e-5)
            assert each.shape[1] == part.high - part.low and (each.sum(1) > 0.49).all()
        frames = [part.frames for part in layout.parts]
        bands = np.dot(frames, [len(each) for each in filters])
        assert layout.bands == spectrum.VIEWS * bands == len(layout.shares)
        assert bands < 2500 / 4


def test_each_frequency_has_one_window():
    long, short = spectrum.Layout(4096, 1024).parts
    assert long.low == 0 and long.high == 4 * short.low and short.high == 513
    assert long.hop == short.frames * short.hop


def test_a_long_window_separates_low_tones_and_a_short_one_keeps_attacks_sharp():
    both, t = spectrum.Layout(4096, 1024), np.arange(4 * 4096) / RATE
    tones = 0.2 * (np.sin(2 * np.pi * 392 * t) + np.sin(2 * np.pi * 440 * t))  # G and A
    tones = np.repeat(tones[None, :, None], 2, -1).astype(np.float32)

    def peaks(layout):  # below 1 kHz, of the left channel in the middle
        levels = np.asarray(analyse(tones, layout)[0, len(t) // 2 // layout.hop])
        levels = levels[: layout.window // 48]
        inside = (levels[1:-1] > levels[:-2]) & (levels[1:-1] >= levels[2:])
        return int((inside & (levels[1:-1] > levels.max() - 0.25)).sum())

    assert peaks(both) == 2 and peaks(spectrum.Layout(1024)) == 1
    click = np.zeros((1, len(t), 2), np.float32)
    click[:, len(t) // 2] = 0.5
    long, short = np.split(analyse(click, both)[0], [both.parts[0].bands], axis=-1)
    heard = lambda levels, part: (levels.reshape(-1, part.bands // part.frames) > 0).any(1).sum()
    seconds = [heard(x, y) * y.hop for x, y in zip((long, short), both.parts, strict=True)]
    assert seconds[1] <= seconds[0] / 3


@LAYOUTS
def test_levels_do_not_depend_on_phase_and_polarity(chord, layout):
    np.testing.assert_allclose(analyse(-chord, layout), analyse(chord, layout), atol=1e-5)
    assert not np.asarray(analyse(0 * chord, layout)).any()
    t = np.arange(SAMPLES) / RATE
    tone = lambda phase: np.repeat(
        0.5 * np.sin(2 * np.pi * 3000 * t + phase)[None, :, None], 2, -1
    ).astype(np.float32)
    inside = slice(4, -4)
    np.testing.assert_allclose(
        analyse(tone(1.0), layout)[:, inside], analyse(tone(0.0), layout)[:, inside], atol=0.02
    )


def test_levels_are_relative_to_the_quietest(chord):
    """Audio that is 40 dB quieter has the same levels if the quietest band is 40 dB quieter."""
    quiet = ONE._replace(quietest=-120.0)
    np.testing.assert_allclose(analyse(0.01 * chord, quiet), analyse(chord, ONE), atol=1e-4)
    loud = np.full((1, SAMPLES, 2), 1.0, np.float32)
    assert 0.98 * ONE.loudest < analyse(loud, ONE).max() < ONE.loudest
    assert quiet.loudest - ONE.loudest == pytest.approx(np.log(100) / 4)


def test_the_level_of_a_weak_side_is_exact():
    noise = np.random.default_rng(3).standard_normal((2, SAMPLES)).astype(np.float32)
    mid, side = 0.3 * noise[0], 3e-6 * noise[1]
    layout = ONE._replace(quietest=-120.0)
    side_of = lambda left, right: np.split(
        analyse(jnp.stack([left, right], -1)[None], layout), spectrum.VIEWS, axis=-1
    )[-1]
    np.testing.assert_allclose(side_of(mid + side, mid - side), side_of(side, -side), atol=0.05)


@LAYOUTS
def test_audio_of_levels_has_no_higher_peaks(layout):
    """The decoded phases of 59 partials must not add up to pulses."""
    t, rng = np.arange(SAMPLES) / RATE, np.random.default_rng(2)
    audio = sum(
        np.sin(2 * np.pi * f * t + rng.uniform(0, 2 * np.pi)) for f in 220 * np.arange(1, 60)
    )
    audio = np.repeat(audio[None, :, None] / np.abs(audio).max(), 2, -1).astype(np.float32)
    assert np.abs(synthesise(analyse(audio, layout), layout, 4)).max() < 1.6


@LAYOUTS
def test_noise_gets_no_lines(layout):
    """Decoding two noises makes no frequency louder in both of them."""

    def added(seed):  # to the spectrum, in dB
        noise = np.random.default_rng(seed).normal(0, 0.1, (1, 16 * SAMPLES, 2)).astype(np.float32)
        decoded = synthesise(analyse(noise, layout), layout, 8)
        power = lambda x: np.square(np.abs(losses.stft(jnp.asarray(x), 512))).mean((0, 1, 2))
        return 10 * np.log10(power(decoded) / power(noise))[10:-10]

    both = (added(0) + added(1)) / 2
    assert both.max() - np.median(both) < 0.6  # with the same phases in all frames .85 and 1.9


@LAYOUTS
def test_a_shifted_piece_has_shifted_levels(chord, layout):
    shifted = np.roll(chord, 3 * layout.hop, axis=1)
    np.testing.assert_allclose(
        analyse(shifted, layout)[:, 6:-6], analyse(chord, layout)[:, 3:-9], atol=1e-4
    )


@LAYOUTS
def test_audio_of_levels_has_these_levels_and_this_stereo_image(chord, layout):
    levels = analyse(chord, layout)
    error = lambda audio: float(jnp.abs(analyse(audio, layout) - levels).mean()) * spectrum.NATS
    decoded = np.asarray(synthesise(levels, layout, 24))
    assert error(decoded) < 0.7 * error(synthesise(levels, layout, 0))
    assert abs(side_error(decoded[0], chord[0])) < 1
    assert not np.asarray(synthesise(0 * levels, layout, 24)).any()


@pytest.mark.parametrize("right", [1, -1, 0])
@LAYOUTS
def test_a_tone_in_the_middle_the_side_or_the_left_is_decoded_there(chord, right, layout):
    audio = chord * 0 + chord[..., :1] * np.float32([1, right])
    decoded = np.asarray(synthesise(analyse(audio, layout), layout, 4))
    assert np.sum(decoded**2) == pytest.approx(np.sum(audio**2), rel=0.2)
    assert np.sum((decoded[..., 1] - right * decoded[..., 0]) ** 2) < 1e-3 * np.sum(decoded**2)


@LAYOUTS
def test_padding_changes_nothing(chord, layout):
    levels = analyse(chord, layout)
    real = 5 * levels.shape[1] // 8
    valid = (jnp.arange(levels.shape[1]) < real)[None, :, None].astype(jnp.float32)
    padded = _synthesise(levels, valid, layout, 2, None)
    alone, end = synthesise(levels[:, :real], layout, 2), real * layout.hop
    np.testing.assert_allclose(padded[:, :end], alone, atol=1e-4)
    assert not np.asarray(padded[:, end:]).any()


@LAYOUTS
def test_decoded_phases_continue_those_of_the_audio_around_them(chord, layout):
    """A hole in sustained tones is filled in phase, and without the audio around it is not."""
    known = np.ones((1, SAMPLES, 1), np.float32)
    hole = slice(3072, 5120)
    known[:, hole] = 0
    levels = analyse(chord, layout)
    around = spectrum.Around(jnp.asarray(chord * known), jnp.asarray(known))
    inside, free = synthesise(levels, layout, 24, around), synthesise(levels, layout, 24)
    np.testing.assert_array_equal(inside[known[..., 0] > 0], chord[known[..., 0] > 0])
    edge = slice(hole.start, hole.start + 128)
    error = lambda decoded: float(
        jnp.mean((decoded - chord)[:, edge] ** 2) / np.mean(chord[:, edge] ** 2)
    )
    assert error(inside) < 0.3 * min(error(free), 1)


@LAYOUTS
def test_distance_is_zero_for_the_truth_and_has_finite_gradients_on_silence(chord, layout):
    valid = jnp.array([SAMPLES])
    distance = lambda p, audio: jnp.sum(spectrum.distance(p, jnp.asarray(audio), valid, layout))
    levels = analyse(chord, layout)
    assert float(distance(levels, chord)) < 1e-5
    assert float(distance(levels + 0.25, chord)) == pytest.approx(0.25 * spectrum.NATS, rel=1e-3)
    gradient = jax.grad(lambda audio: distance(spectrum.analyse(audio, layout), chord))(0 * chord)
    assert np.isfinite(gradient).all()


def test_a_second_of_both_windows_counts_alike(chord):
    """All levels of one part are off by the same amount: each counts by the time it describes."""
    levels, valid = analyse(chord, BOTH), jnp.array([SAMPLES])
    long, flat = BOTH.parts[0].bands, 0 * chord  # without weights of loudness
    of = lambda error: float(spectrum.distance(error, jnp.asarray(flat), valid, BOTH)[0])
    low = of(jnp.zeros_like(levels).at[..., :long].set(0.25))
    high = of(jnp.zeros_like(levels).at[..., long:].set(0.25))
    bands = [len(spectrum.filters(part)) for part in BOTH.parts]
    assert low / high == pytest.approx(bands[0] / bands[1], rel=1e-3)


@LAYOUTS
def test_width_error_is_that_of_the_side_and_not_of_the_level(chord, layout):
    """It is 0 for the truth and a louder copy; a side of half its size is log(4) narrower."""
    valid = jnp.array([SAMPLES - 100])
    error = jax.jit(lambda p, audio: spectrum.width_error(p, audio, valid, layout)[0])
    padded = jnp.asarray(chord).at[:, SAMPLES - 100 :].set(0)
    levels = lambda audio: analyse(audio, layout)
    assert float(error(levels(padded), chord)) < 1e-5
    assert float(error(levels(1.2 * padded), chord)) < 0.02
    mid = padded.mean(-1, keepdims=True)
    quiet = mid + 0.3 * (padded - mid)
    narrower = mid + 0.15 * (padded - mid)
    assert 0.5 < float(error(levels(narrower), quiet)) < np.log(4)
    assert float(error(levels(mid + 0 * padded), padded)) > 1
    silent = jax.grad(lambda p: error(p, 0 * padded))(levels(0 * padded))
    assert np.isfinite(silent).all()
    gradient = jax.grad(lambda p: error(p, padded))(levels(mid + 0 * padded))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_every_bin_is_in_one_range_of_frequency():
    """Tones of the same power have the same energy in both windows."""
    for layout in (spectrum.Layout(64), ONE, spectrum.Layout(4096, 1024)):
        for part in layout.parts:
            assert spectrum._ranges(part).sum() == pytest.approx(
                (part.high - part.low) * part.window
            )
        ranges = sum(spectrum._ranges(part).sum(0) for part in layout.parts)
        assert layout.window < 512 or (ranges > 0).all()


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
        loudest = np.full(codec.model.layout.bands, level, np.float32)
        decoded = dataclasses.replace(
            codec, params=codec.params | {"decoder": loud}, loudest=loudest
        ).decode(latents)
        return np.abs(np.asarray(losses.stft(jnp.asarray(decoded)[None], 64))).max()

    limit = 1e-4 * np.exp(0.5 * spectrum.NATS)
    assert (
        0.3 * limit < loudness(0.5) < 3 * limit
        and loudness(0.0) == 0
        and loudness(codec.model.layout.loudest) > 100 * limit
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
        (
            {"window": 512, "short_window": 192, "strides": (128, 2, 4, 5, 8)},
            "short_window must be",
        ),
        (
            {"window": 512, "short_window": 512, "strides": (128, 2, 4, 5, 8)},
            "short_window must be",
        ),
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


@LAYOUTS
def test_the_gradient_of_decoded_audio_is_finite_and_lowers_its_loss(chord, layout):
    audio = jnp.asarray(chord).at[:, : SAMPLES // 3].set(0)  # silence
    audio = audio.at[:, -2000:, 1].set(-audio[:, -2000:, 0])  # side without mid
    levels, valid = analyse(audio, layout), jnp.array([SAMPLES])

    @jax.jit
    @jax.value_and_grad
    def loss(levels):
        decoded = synthesise(levels, layout, 4)
        return losses.multi_resolution_stft(decoded, audio, valid, (512,)).sum()

    quiet = 0.9 * levels
    value, gradient = loss(quiet)
    assert np.isfinite(gradient).all()
    closer, _ = loss(quiet - 0.05 * gradient / jnp.abs(gradient).max())
    assert closer < value
