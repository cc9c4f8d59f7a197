"""Mastering of generated audio, and reading of audio files."""

import logging
import tracemalloc

import numpy as np
import pytest
import soundfile
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from jen1_numpy import audio as audio_module
from jen1_numpy.audio import check_writable, master, read_audio, write_wav
from jen1_numpy.errors import Refusal

RATE = 48_000


def tone(frequency, seconds, amplitude):
    t = np.arange(round(seconds * RATE)) / RATE
    return (
        (amplitude * np.sin(2 * np.pi * frequency * t))[:, None]
        .repeat(2, axis=1)
        .astype(np.float32)
    )


@pytest.mark.parametrize("seconds", [0.2, 5.0])
def test_an_offset_is_removed_and_logged(seconds, caplog):
    audio = tone(440, seconds, 0.2)
    with caplog.at_level(logging.INFO, "jen1_numpy"):
        mastered = master(audio + np.float32([0.03, 0.0]), RATE)
    np.testing.assert_allclose(mastered, audio, atol=1e-4)
    assert "offset of 0.030" in caplog.text


@pytest.mark.parametrize("frequency", [22, 45, 110])
@pytest.mark.parametrize("periods", [0.5, 1.5, 2.25])
def test_part_of_a_low_tone_is_not_removed_as_an_offset(frequency, periods, caplog):
    audio = tone(frequency, periods / frequency, 0.8)
    with caplog.at_level(logging.INFO, "jen1_numpy"):
        assert master(audio, RATE) is audio
    assert not caplog.text


def test_peaks_are_turned_down_and_audio_far_from_them_is_not(caplog):
    audio = tone(440, 1.0, 0.5)
    audio[20_000:20_100, 0] *= 4
    audio[-40:-30] *= 4  # near the end
    with caplog.at_level(logging.INFO, "jen1_numpy"):
        mastered = master(audio, RATE)
    assert "peaked at 2.00" in caplog.text
    assert np.abs(mastered).max() <= 1 and np.abs(mastered[20_000:20_100, 0]).max() > 0.999
    far = np.r_[0:17_500, 22_600:45_500]
    np.testing.assert_allclose(mastered[far], audio[far], rtol=1e-5)
    loud = master(tone(440, 1.0, 2.0), RATE)  # loud throughout: as if scaled
    np.testing.assert_allclose(loud, tone(440, 1.0, 1.0), atol=0.01)


def test_silence_and_a_single_sample_stay_as_they_are():
    for audio in (np.zeros((1000, 2), np.float32), np.float32([[0.5, -0.2]])):
        np.testing.assert_array_equal(master(audio, RATE), audio)


@pytest.mark.parametrize("samples", [1, 2, 5, 3000])
def test_a_peak_in_audio_shorter_than_the_gains_window_is_turned_down(samples):
    audio = np.zeros((samples, 2), np.float32)
    audio[-1] = 2.0
    assert np.abs(master(audio, RATE)).max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("samples", [1, 2, 5, 399, 400, 401, 402, 5000])
def test_the_gain_equals_that_of_scipys_filters(samples):
    """The window of the gain has 401 samples."""
    rng = np.random.default_rng(samples)
    audio = 0.3 * rng.standard_normal((samples, 2)).astype(np.float32)
    audio[rng.integers(samples, size=3)] = 7
    gain = 1 / np.maximum(np.abs(audio).max(axis=1), 1)
    for filter1d in (minimum_filter1d, uniform_filter1d):
        gain = filter1d(gain, 401, mode="nearest")
    np.testing.assert_allclose(master(audio, 8000), audio * gain[:, None], atol=1e-6)


def test_audio_that_is_not_finite_is_refused():
    with pytest.raises(Refusal, match="holds NaN or infinite samples"):
        master(np.full((10, 2), np.nan, np.float32), RATE)


def write_false_length(path) -> None:
    """One second of noise; the header announces 2^30 MP3 frames or 2^35 samples of FLAC."""
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((RATE, 2)), RATE)
    data = bytearray(path.read_bytes())
    if path.suffix == ".mp3":
        count = max(data.find(b"Xing"), data.find(b"Info")) + 8
        data[count : count + 4] = (1 << 30).to_bytes(4, "big")
    else:
        data[21:26] = ((data[21] & 0xF0) << 32 | 1 << 35).to_bytes(5, "big")
    path.write_bytes(data)
    assert soundfile.info(path).frames >= 1 << 35


@pytest.fixture
def peak_memory():
    """The most bytes in use since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_a_false_length_in_the_header_takes_no_memory_and_is_logged(tmp_path, caplog, peak_memory):
    write_false_length(tmp_path / "long.mp3")
    assert RATE <= len(read_audio(tmp_path / "long.mp3", RATE)) < 1.1 * RATE
    assert peak_memory() < 20e6 and "ends after 1.0" in caplog.text


def test_a_false_length_that_the_decoder_rejects_is_refused_and_takes_no_memory(
    tmp_path, peak_memory
):
    write_false_length(tmp_path / "long.flac")
    with pytest.raises(Refusal, match="cannot be read as audio"):
        read_audio(tmp_path / "long.flac", RATE)
    assert peak_memory() < 20e6


@pytest.mark.parametrize("name", ["absent.wav", "x" * 300 + ".wav", "."])
def test_a_path_that_is_not_a_file_is_refused(tmp_path, name):
    with pytest.raises(Refusal, match="no such file"):
        read_audio(tmp_path / name, RATE)


def test_a_written_file_is_read_again_and_is_alone_in_its_new_folder(tmp_path):
    path = check_writable(tmp_path / "new" / "a.wav")
    write_wav(path, tone(440, 0.1, 3.0), RATE)
    np.testing.assert_array_equal(read_audio(path, RATE), tone(440, 0.1, 3.0))
    assert [file.name for file in path.parent.iterdir()] == ["a.wav"]


def test_more_than_two_channels_and_more_than_an_hour_are_refused(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "six.wav", np.zeros((10, 6)), RATE)
    with pytest.raises(Refusal, match="6 channels"):
        read_audio(tmp_path / "six.wav", RATE)
    monkeypatch.setattr(audio_module, "MAX_SECONDS", 1)
    soundfile.write(tmp_path / "long.wav", np.zeros((RATE + 1, 2)), RATE)
    with pytest.raises(Refusal, match="longer than 1 seconds"):
        read_audio(tmp_path / "long.wav", RATE)
