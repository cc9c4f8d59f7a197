"""Files that end before the audio that their header promises."""

import struct

import numpy as np
import pytest
import soundfile

from data_pipeline.judging import truncated

FORMATS = [
    (format, endian)
    for format in ("WAV", "WAVEX", "RF64", "AIFF", "W64", "CAF", "AU")
    for endian in ("LITTLE", "BIG")
    if soundfile.check_format(format, "PCM_16", endian)
]


@pytest.fixture(params=FORMATS, ids="-".join)
def path(request, tmp_path):
    format, endian = request.param
    audio = np.random.default_rng(0).uniform(-1, 1, (10_001, 1))
    soundfile.write(
        tmp_path / "audio", audio, 48_000, format=format, subtype="PCM_16", endian=endian
    )
    return tmp_path / "audio"


def test_a_file_without_its_end_is_found(path):
    whole = path.read_bytes()
    assert truncated(path) is None
    for kept in (len(whole) - 100, len(whole) // 2):
        path.write_bytes(whole[:kept])
        assert "the header promises 20" in truncated(path)


def test_what_follows_the_audio_is_no_audio(path):
    with open(path, "ab") as file:
        file.write(b"LIST\x00\x00\x10\x00cut")
    assert truncated(path) is None


def test_any_bytes_give_an_answer(path):
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(50):
        changed = bytearray(whole[: rng.integers(0, len(whole))])
        for place in rng.integers(0, min(len(changed), 100) + 1, 4):
            changed[place : place + 1] = bytes([rng.choice([0, 1, 127, 128, 255])])
        path.write_bytes(changed)
        assert truncated(path) is None or "the header promises" in truncated(path)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_an_unknown_size_is_no_truncation(tmp_path, size):
    path = tmp_path / "stream.wav"
    soundfile.write(path, np.zeros(1000), 48_000, subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[:40] + struct.pack("<I", size) + content[44:])
    assert truncated(path) is None


def test_a_long_list_of_chunks_ends(tmp_path):
    path = tmp_path / "many.wav"
    path.write_bytes(b"RIFF\xff\xff\xff\xffWAVE" + b"JUNK\x00\x00\x00\x00" * 200_000)
    assert truncated(path) is None


@pytest.mark.parametrize("format", ["FLAC", "OGG", "MP3"])
def test_other_formats_are_left_to_their_decoder(tmp_path, format):
    path = tmp_path / "audio"
    soundfile.write(path, np.zeros(4800), 48_000, format=format)
    path.write_bytes(path.read_bytes()[:100])
    assert truncated(path) is None
