"""Measures tempo, key and meter of a clip, and whether they are those of its score.

`python -m benchmarks.composing` uses these measurements and says how well they do on real clips.
"""

from collections.abc import Callable, Mapping
from typing import Any

import librosa
import numpy as np
from jaxtyping import Float

FFT, HOP, MELS = 2048, 512, 64
BANDS = ((0, 64), (0, 8), (8, 32), (32, 64))  # of the mel bands: all, low, middle, high
KEY_RATE = 22_050  # Hz, of the audio whose chroma is measured
LONGEST = 8.0  # seconds, of the autocorrelation
WITHIN = 0.05  # of the tempo
# The tempo is that of another metrical level: half, double, a third, three times.
LEVELS = (0.5, 2.0, 1 / 3, 3.0)
PITCHES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
IS_MINOR = {  # by the third of the mode
    "major": False,
    "lydian": False,
    "mixolydian": False,
    "minor": True,
    "dorian": True,
    "phrygian": True,
}
IS_TRIPLE = {"3/4": True, "4/4": False, "2/4": False}
# How well each pitch class fits, from the tonic on (Temperley 1999, major and minor).
PROFILES = np.array(
    [
        [5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0],
        [5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0],
    ]
)


def measure(audio: Float[np.ndarray, "samples 2"], sample_rate: int) -> dict[str, Any]:
    """`tempo` in BPM, `meter` (above 0 is triple) and `key` of a clip.

    A key is a number: the pitch class of its tonic, and 12 more for a minor third.
    """
    mono = np.asarray(audio, np.float32).mean(axis=1)
    power = np.abs(librosa.stft(mono, n_fft=FFT, hop_length=HOP)) ** 2
    filters = librosa.filters.mel(sr=sample_rate, n_fft=FFT, n_mels=MELS, fmax=16_000)
    mel = 10 * np.log10(filters @ power + 1e-7)
    rises = np.maximum(np.diff(mel, axis=1), 0)
    onsets = [rises[low:high].mean(0) for low, high in BANDS]
    tempo = librosa.feature.tempo(
        onset_envelope=onsets[0], sr=sample_rate, hop_length=HOP, ac_size=LONGEST
    )
    bpm = float(tempo[0])
    return {
        "tempo": bpm,
        "meter": triple_meter(onsets, bpm, sample_rate / HOP),
        "key": key(mono, sample_rate),
    }


def triple_meter(onsets: list[Float[np.ndarray, " frames"]], bpm: float, rate: float) -> float:
    """How much more the onsets repeat after three beats than after two or four.

    It is the difference of autocorrelations, the mean over bands. `rate` is in frames a second.
    """
    beat = 60 / bpm * rate
    repeats = {2: 0.0, 3: 0.0, 4: 0.0}
    for band in onsets:
        centred = band - band.mean()
        frames = len(centred)
        correlation = np.correlate(centred, centred, "full")[frames - 1 :]
        correlation /= frames - np.arange(frames)
        for beats in repeats:
            near = max(1, round(0.03 * beats * beat))
            first = max(1, int(beats * beat) - near)
            found = correlation[first : int(beats * beat) + near + 1]
            repeats[beats] += (found.max() if len(found) else 0.0) / max(correlation[0], 1e-12)
    return float(repeats[3] - max(repeats[2], repeats[4])) / len(onsets)


def key(mono: Float[np.ndarray, " samples"], sample_rate: int) -> int:
    """The key whose profile correlates most with the mean chroma."""
    found = chroma(mono, sample_rate)
    loudness = found.sum(0)
    found = (found / np.maximum(loudness, max(1e-3 * loudness.max(), 1e-9))).mean(1)
    profiles = np.stack([np.roll(each, tonic) for each in PROFILES for tonic in range(12)])
    profiles -= profiles.mean(1, keepdims=True)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    return int(np.argmax(profiles @ found))


def chroma(mono: Float[np.ndarray, " samples"], sample_rate: int) -> Float[np.ndarray, "12 frames"]:
    """The magnitude of each pitch class, in frames of 93 ms."""
    mono = librosa.resample(mono, orig_sr=sample_rate, target_sr=KEY_RATE, res_type="soxr_qq")
    return librosa.feature.chroma_cqt(y=mono, sr=KEY_RATE, hop_length=2048, tuning=0.0, norm=None)


def truth(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a clip say of its `tempo`, `key`, `meter` and `drums`.

    `meter` is whether it is triple. A field is absent where the metadata do not say it for certain:
    a key that was estimated, and meters other than 2/4, 3/4 and 4/4.
    """
    known = {}
    if meta.get("tempo"):
        known["tempo"] = float(meta["tempo"])
    if meta.get("key") and meta.get("mode") in IS_MINOR and meta.get("key_from") != "estimated":
        name = meta["key"]
        tonic = PITCHES[name[0]] + name.count("#") - name.count("b")
        known["key"] = tonic % 12 + 12 * IS_MINOR[meta["mode"]]
    if meta.get("meter") in IS_TRIPLE:
        known["meter"] = IS_TRIPLE[meta["meter"]]
    if meta.get("drums") is not None:
        known["drums"] = bool(meta["drums"])
    return known


def same_tempo(measured: float, true: float) -> bool:
    return abs(measured / true - 1) <= WITHIN


def same_tempo_or_level(measured: float, true: float) -> bool:
    return any(same_tempo(measured, true * factor) for factor in (1.0, *LEVELS))


def near_key(measured: int, true: int) -> bool:
    """The same key, one a fifth away, or the relative one."""
    if measured // 12 == true // 12:
        return (measured - true) % 12 in (0, 5, 7)
    relative = (true + 9) % 12 if true < 12 else (true + 3) % 12
    return measured % 12 == relative


# Whether a measurement agrees with the truth: the field of both, and the comparison.
AGREEMENTS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "tempo": ("tempo", same_tempo),
    "tempo or octave": ("tempo", same_tempo_or_level),
    "key": ("key", lambda measured, true: measured == true),
    "key or near": ("key", near_key),
    "drums": ("drums", lambda measured, true: (measured > 0) == true),
    "meter": ("meter", lambda measured, true: (measured > 0) == true),
}
