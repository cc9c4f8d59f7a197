"""Properties of `extend` that hold whatever the model has learned."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from jen1_numpy.errors import Refusal
from jen1_numpy.generation import EXTEND_FADE
from tests.generation import RATE


def test_extend_adds_seconds_and_keeps_the_original(tiny_model, song):
    result = tiny_model.extend(song, 0.1, "two tones", seed=1)
    assert result.shape == (len(song) + round(0.1 * RATE), 2)
    kept = len(song) - round(EXTEND_FADE * RATE)
    np.testing.assert_array_equal(result[:kept], song[:kept])
    assert np.abs(result[len(song) :]).max() > 0


def test_the_decoder_generates_the_samples_that_fade(tiny_model, song, monkeypatch):
    """Audio with free phases jumps where known audio ends.

    That must be where the cross-fade begins, and not where it ends.
    """
    seen, decode = [], type(tiny_model)._decode
    monkeypatch.setattr(
        type(tiny_model),
        "_decode",
        lambda self, *arguments: seen.append(arguments[1]) or decode(self, *arguments),
    )
    tiny_model.extend(song, 0.05, "two tones")
    [(audio, known)] = seen
    fade = round(EXTEND_FADE * RATE)
    assert len(audio) == len(known) and known[:-fade].all() and not known[-fade:].any()


def test_extend_reads_only_the_end_of_the_audio(tiny_model, song):
    """What lies more than a window before the end counts only by its length.

    So a long file costs no more than a short one.
    """
    untimed = replace(tiny_model.sampler, unet=tiny_model.sampler.unet.clone(conditioning=()))
    model = replace(tiny_model, sampler=untimed)
    long = np.concatenate([np.zeros((RATE, 2), np.float32), song])
    np.testing.assert_allclose(
        model.extend(long, 0.05, "two tones")[len(long) :],
        model.extend(long[RATE // 2 + 7 :], 0.05, "two tones")[-round(0.05 * RATE) :],
        atol=1e-5,
    )


def test_mono_and_other_rates_are_converted_and_logged(tiny_model, caplog):
    t = np.arange(4410) / 44_100
    mono = 0.4 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
    with caplog.at_level(logging.INFO, "jen1_jax"):
        result = tiny_model.extend(mono, 0.05, "two tones", sample_rate=44_100)
    assert "mono" in caplog.text and "44100" in caplog.text
    assert len(result) == 4800 + 2400


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((0, 2)), "no samples"),
        (np.full((9600, 2), np.nan), "NaN"),
        (np.zeros((9600, 3)), "shape"),
        (np.zeros((2, 9600)), "shape"),
        (np.zeros((40, 2)), "too short"),
        (np.zeros((9600, 2), np.int16), "int16; give floating-point"),
    ],
)
def test_audio_that_cannot_be_used_is_refused(tiny_model, audio, message):
    with pytest.raises(Refusal, match=message):
        tiny_model.extend(audio, 0.05)
