"""Audio is read, mixed and mastered as ours is, without scipy."""

import logging

import numpy as np
import pytest
import soundfile

from jen1_jax.generation import audio, spans
from jen1_numpy.errors import Refusal
from jen1_torch import audio as torch_audio
from jen1_torch import spans as torch_spans

RATE = 8_000


@pytest.mark.parametrize("samples", [1, 2, 5, 399, 400, 401, 402, 5000])
@pytest.mark.parametrize("peak", [0.5, 1.001, 7.0])
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_mastering_equals(samples, peak, offset, caplog):
    """The window of the gain has 401 samples."""
    rng = np.random.default_rng(samples)
    loud = 0.3 * rng.standard_normal((samples, 2))
    loud[rng.integers(samples, size=3)] = peak
    loud = (loud + offset).astype(np.float32)
    expected = audio.master(loud, RATE)
    warnings = [record.message for record in caplog.records]
    caplog.clear()
    result = torch_audio.master(loud, RATE)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert [record.message for record in caplog.records] == warnings


def test_audio_that_is_not_finite_is_refused():
    with pytest.raises(Refusal, match="holds NaN or infinite samples"):
        torch_audio.master(np.full((10, 2), np.nan, np.float32), RATE)


@pytest.mark.parametrize("rate, channels", [(RATE, 2), (RATE, 1), (11_025, 2)])
def test_files_are_read_alike(tmp_path, rate, channels, caplog):
    path = tmp_path / "song.flac"
    noise = 0.1 * np.random.default_rng(0).standard_normal((3000, channels))
    soundfile.write(path, noise, rate)
    with caplog.at_level(logging.WARNING):
        expected = audio.read_audio(path, RATE)
        warnings = [record.message for record in caplog.records]
        caplog.clear()
        result = torch_audio.read_audio(path, RATE)
    np.testing.assert_array_equal(result, expected)
    assert [record.message for record in caplog.records] == warnings
    torch_audio.write_wav(torch_audio.check_writable(tmp_path / "new" / "a.wav"), result, RATE)
    np.testing.assert_array_equal(torch_audio.read_audio(tmp_path / "new" / "a.wav", RATE), result)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.wav"]


def test_files_are_refused_alike(tmp_path):
    soundfile.write(tmp_path / "six.wav", np.zeros((10, 6)), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), RATE)
    soundfile.write(tmp_path / "slow.wav", np.zeros((10, 2)), 100)
    (tmp_path / "text.wav").write_text("no audio")
    for name in ("six.wav", "empty.wav", "slow.wav", "text.wav", "absent.wav", "."):
        with pytest.raises(Refusal) as expected:
            audio.read_audio(tmp_path / name, RATE)
        with pytest.raises(Refusal) as refusal:
            torch_audio.read_audio(tmp_path / name, RATE)
        assert str(refusal.value) == str(expected.value)
    for name in ("song.mp3", "text.wav/song.wav", "new.wav"):
        (tmp_path / "new.wav").mkdir(exist_ok=True)
        with pytest.raises(Refusal) as expected:
            audio.check_writable(tmp_path / name)
        with pytest.raises(Refusal) as refusal:
            torch_audio.check_writable(tmp_path / name)
        assert str(refusal.value) == str(expected.value)


def test_cross_fades_and_spans_equal():
    rng = np.random.default_rng(0)
    before, after = rng.standard_normal((2, 50, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        torch_audio.crossfade(before, after), audio.crossfade(before, after)
    )
    for _ in range(100):
        pairs = np.sort(rng.uniform(0, 0.2, (rng.integers(1, 4), 2)))
        merged = spans.merged_spans(pairs, 2000, 10_000)
        assert torch_spans.merged_spans(pairs, 2000, 10_000) == merged
        inside = np.zeros(1995, bool)
        for left, right in merged:
            inside[left:right] = True
        expected = spans.frames_around(inside, 200, 10, 3)
        for part, other in zip(
            torch_spans.frames_around(inside, 200, 10, 3), expected, strict=True
        ):
            np.testing.assert_array_equal(part, other)
