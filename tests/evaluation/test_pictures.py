"""Levels, channels, generated spans and losses change the page; any content can be drawn."""

import struct

import matplotlib.image
import numpy as np
import pytest

from jen1_jax.evaluation.pictures import Sound, mel_spectrogram_db, run_page

RATE = 48_000
TIME = np.arange(RATE // 4) / RATE


def tone(frequency, amplitude=0.5):
    mono = amplitude * np.sin(2 * np.pi * frequency * TIME)
    return np.repeat(mono[:, None], 2, axis=1).astype(np.float32)


def records(scale=1.0):
    return [
        {"step": i, "loss": scale / i, "loss/stft": 0.5 / i, "steps_per_second": 3.0}
        for i in range(1, 60)
    ]


@pytest.fixture
def page(tmp_path):
    """Draws a page and returns its pixels."""

    def draw(**content):
        path = tmp_path / "page.png"
        run_page(path, "runs/test", **content)
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert [file.name for file in tmp_path.iterdir()] == ["page.png"]
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        pixels = matplotlib.image.imread(path)[..., :3]
        assert pixels.shape == (height, width, 3) and width == 1800
        return pixels

    return draw


def test_a_sine_has_its_level_at_its_frequency():
    import librosa

    centres = librosa.mel_frequencies(130, fmax=20_000)[1:-1]
    for frequency, amplitude in ((440, 1.0), (440, 0.1), (9000, 0.1)):
        mel = mel_spectrogram_db(tone(frequency, amplitude)).mean(axis=1)
        assert mel.max() == pytest.approx(20 * np.log10(amplitude), abs=3)
        assert centres[mel.argmax()] == pytest.approx(frequency, rel=0.06)


def test_levels_do_not_depend_on_the_sample_rate_or_on_the_channels_being_equal():
    whole = tone(1000)
    np.testing.assert_allclose(
        mel_spectrogram_db(whole), mel_spectrogram_db(whole[:, :1]), atol=1e-3
    )
    left = whole * np.array([1, 0], np.float32)
    loud = mel_spectrogram_db(whole).max()
    assert mel_spectrogram_db(left).max() == pytest.approx(loud - 10 * np.log10(2), abs=0.01)
    assert mel_spectrogram_db(whole[::3], 16_000).max() == pytest.approx(loud, abs=1.5)


def test_silence_and_very_short_audio_have_the_lowest_level():
    for samples in (0, 7, RATE // 4):
        mel = mel_spectrogram_db(np.zeros((samples, 2), np.float32))
        np.testing.assert_allclose(mel, -100, atol=1e-3)


@pytest.mark.slow
def test_a_page_with_all_kinds_of_content_fits_its_width(page):
    original = Sound("original", tone(440))
    reconstruction = Sound("reconstruction", tone(440, 0.4), caption="SI-SDR 14 dB")
    marked = dict(spans=[(0.1, 0.2)], marks=[0.1], caption="a caption " * 40)
    sounds = [Sound(f"sound {i}", tone(220 * i), **marked) for i in (1, 2, 3)]
    metrics = {"autoencoder": records(), "diffusion": records(3)}
    full = page(sounds=sounds, pairs=[(original, reconstruction)], metrics=metrics)
    assert len(full) > len(page(sounds=sounds[:2])) > 300
    border = np.concatenate([full[:, :8], full[:, -8:]], axis=1)
    assert (border == 1).all()  # no text goes beyond the edge


def test_silence_empty_audio_and_empty_losses_have_panels(page):
    silent = Sound("silence", np.zeros((RATE // 4, 2), np.float32))
    empty = Sound("nothing", np.zeros((0, 2), np.float32))
    odd_name = Sound("$odd_{name", tone(440))
    title, one, several = page(), page(sounds=[silent]), page(sounds=[silent, empty, odd_name])
    curves = page(metrics={"just started": [], "diverged": [{"step": 1, "loss": float("nan")}]})
    assert (title < 1).any()  # the title is drawn
    assert len(several) > len(one) > len(title)
    assert len(curves) > len(title)


def test_every_field_of_a_sound_changes_the_page(page):
    plain = {"name": "sound", "audio": tone(440)}
    quieter_right = tone(440) * np.array([1, 0.5], np.float32)
    changes = [
        {"audio": tone(880)},
        {"audio": quieter_right},
        {"spans": [(0.05, 0.1)]},
        {"marks": [0.1]},
        {"caption": "slow piano"},
    ]
    before = page(sounds=[Sound(**plain)])
    for change in changes:
        after = page(sounds=[Sound(**(plain | change))])
        assert before.shape != after.shape or (before != after).any(), change


def test_the_loss_changes_the_page(page):
    assert (page(metrics={"diffusion": records()}) != page(metrics={"diffusion": records(2)})).any()


def test_sounds_of_a_page_share_one_scale(page):
    """A sound is drawn the same beside any quieter sound, and the quieter one is drawn smaller."""
    loud = Sound("loud", tone(440, 0.9))
    pages = [page(sounds=[loud, Sound("other", tone(440, amplitude))]) for amplitude in (0.9, 0.3)]
    left = [pixels[150:, :880] for pixels in pages]
    right = [pixels[150:, 920:] for pixels in pages]
    np.testing.assert_array_equal(*left)
    colour = np.array([0x2F, 0x5D, 0x8A]) / 255  # of the left channel
    blue = [(np.abs(pixels - colour) < 0.01).all(axis=-1).sum() for pixels in right]
    assert 0.2 < blue[1] / blue[0] < 0.5
