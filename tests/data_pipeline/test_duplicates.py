"""Recordings that sound the same are found, and others are not taken for them."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from data_pipeline.judging import Judge, duplicates
from data_pipeline.synthesis import clip

RATE = 48_000
PIECES = 4


def fingerprint(audio, rate=RATE, cut=50_021):
    judge = Judge(rate, audio.shape[1])
    for start in range(0, len(audio), cut):
        judge.add(audio[start : start + cut])
    return judge.verdict().fingerprint


@pytest.fixture(scope="module")
def pieces():
    return [clip(5, index, 6.0).audio for index in range(PIECES)]


@pytest.fixture(scope="module")
def prints(pieces):
    return {str(index): fingerprint(audio) for index, audio in enumerate(pieces)}


def coded(audio, format, subtype):
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format=format, subtype=subtype)
    file.seek(0)
    return soundfile.read(file, dtype="float32", always_2d=True)


def dithered(audio):
    rng = np.random.default_rng(0)
    noise = rng.random(audio.shape) - rng.random(audio.shape)
    return (np.round(audio * 32767 + noise) / 32768).astype(np.float32)


COPIES = {
    "half": lambda audio: (dithered(audio / 2), RATE),
    "44.1 kHz": lambda audio: (soxr.resample(audio, RATE, 44_100), 44_100),
    "mono": lambda audio: (audio.mean(axis=1, keepdims=True), RATE),
    "later": lambda audio: (np.pad(audio, ((1200, 0), (0, 0))), RATE),
    "after silence": lambda audio: (np.pad(audio, ((5760 * 20, 9999), (0, 0))), RATE),
    "mp3": lambda audio: coded(audio, "MP3", "MPEG_LAYER_III"),
    "vorbis": lambda audio: coded(audio, "OGG", "VORBIS"),
    "opus": lambda audio: coded(audio, "OGG", "OPUS"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found_whatever_its_gain_rate_and_format(pieces, prints, copy):
    copies = {f"copy of {i}": fingerprint(*COPIES[copy](audio)) for i, audio in enumerate(pieces)}
    expected = {f"copy of {i}": f"{i}" for i in range(PIECES)}
    assert duplicates((prints | copies).items()) == expected
    backwards = dict(reversed((prints | copies).items()))
    assert duplicates(backwards.items()) == {value: key for key, value in expected.items()}


def test_stretches_of_one_piece_are_different(pieces):
    half = RATE * 3
    parts = {
        f"{i}.{j}": fingerprint(a[j * half :][:half])
        for i, a in enumerate(pieces)
        for j in range(2)
    }
    assert duplicates(parts.items()) == {}


def test_the_fingerprint_does_not_depend_on_how_the_recording_is_cut(pieces, prints):
    assert fingerprint(pieces[0], cut=len(pieces[0])) == prints["0"]
    assert fingerprint(pieces[0], cut=977) == prints["0"]


def test_silence_constant_tones_and_short_sounds_have_no_fingerprint(pieces):
    time = np.arange(10 * RATE)[:, None] / RATE
    for frequency in (200, 440, 3000):
        tone = 0.5 * np.sin(2 * np.pi * frequency * time).astype(np.float32)
        assert fingerprint(tone) == fingerprint(dithered(tone)) == b""
    silence = np.zeros((10 * RATE, 2), np.float32)
    assert fingerprint(silence) == b""
    assert fingerprint(pieces[0][: 2 * RATE]) == b""
    assert duplicates([("a", b""), ("b", b"")]) == {}


def test_copies_are_found_among_many():
    rng = np.random.default_rng(0)
    count, copies = 5000, 500
    bits = rng.integers(0, 256, (count, 256), dtype=np.uint8)
    wrong = np.packbits(rng.random((copies, 2048)) < 0.1, axis=1)
    seconds = np.full((count + copies, 1), 30, np.float32).view(np.uint8)
    rows = np.concatenate([seconds, np.concatenate([bits, bits[:copies] ^ wrong])], axis=1)
    found = duplicates((str(i), row.tobytes()) for i, row in enumerate(rows))
    expected = {str(count + i): str(i) for i in range(copies)}
    assert found.items() <= expected.items()
    assert len(found) >= 0.99 * copies


def test_recordings_of_another_length_are_different(prints):
    longer = np.frombuffer(prints["0"], np.float32).copy()
    longer[0] *= 1.1
    assert duplicates([("a", prints["0"]), ("b", longer.tobytes())]) == {}
    longer[0] /= 1.09
    assert duplicates([("a", prints["0"]), ("b", longer.tobytes())]) == {"b": "a"}


def test_fingerprints_that_differ_in_a_fifth_of_the_bits_are_of_different_music(prints):
    rng = np.random.default_rng(0)
    others = {}
    for name, print in prints.items():
        wrong = np.packbits(rng.random(8 * len(print[4:])) < 0.2)
        bits = np.frombuffer(print[4:], np.uint8) ^ wrong
        others[f"like {name}"] = print[:4] + bits.tobytes()
    assert duplicates((prints | others).items()) == {}
