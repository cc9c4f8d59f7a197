"""Renders a score with a soundfont: stereo, with a reverberation, at an even loudness."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.signal
from tinysoundfont import _tinysoundfont
from tinysoundfont._tinysoundfont import SoundFont

from data_pipeline.scores.reading import BEND, DRUMS, PAN, Score
from data_pipeline.scores.truth import BASSES
from jen1_numpy.errors import Refusal

RATE = 48_000
GRID = 64  # samples: the synthesiser's own step; events are moved to the nearest multiple
TAIL = 4.0  # seconds that the last notes have to die away
ROOM = 0.3  # of a score whose sidecar does not say
LOUDNESS, PEAK = -20.0, 0.9  # LUFS; full scale is 1
SILENCE = 1e-3  # of the peak: where the tail is cut off
VOICES = 256
_CENTRE = range(60, 69)  # pan


def open_soundfont(path: Path) -> SoundFont:
    """Opens a .sf2 or .sf3 file.

    Raises:
        Refusal: it is none.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(12)
        size = path.stat().st_size
        whole = 8 + int.from_bytes(header[4:8], "little") <= size
        if header[:4] != b"RIFF" or header[8:] != b"sfbk" or not whole:
            raise Refusal(f"{path} is no soundfont, or cut off; give a whole .sf2 or .sf3 file.")
        font = SoundFont(str(path))
    except (OSError, RuntimeError) as error:
        raise Refusal(
            f"{path} cannot be read as a soundfont ({error}); give a .sf2 or .sf3 file."
        ) from None
    if not font.get_preset_count():
        raise Refusal(f"{path} holds no instruments; give another soundfont.")
    return font


def render(score: Score, soundfont: SoundFont) -> np.ndarray:
    """The music as float32 [samples, 2] at 48 kHz, until it has died away.

    Raises:
        Refusal: the soundfont lacks an instrument, or all is silent.
    """
    audio = _play(score, soundfont)
    room = score.sidecar.get("room", ROOM)
    if room:
        audio = _reverberate(audio, room, _random(score))
    peak = float(np.abs(audio).max())
    if not 0 < peak < np.inf:  # a damaged soundfont may give infinite or undefined values
        raise Refusal("It is silent, or not finite.")
    end = np.flatnonzero(np.abs(audio).max(axis=1) >= SILENCE * peak)[-1] + 1
    audio = audio[: max(end, round(score.seconds * RATE))]
    gain = min(10 ** ((LOUDNESS - _loudness(audio)) / 20), PEAK / peak)
    return np.multiply(audio, np.float32(gain), out=audio)


def _random(score: Score) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(score.id.encode()).digest()))


def _play(score: Score, soundfont: SoundFont) -> np.ndarray:
    _check_instruments(score, soundfont)
    soundfont.reset()
    soundfont.set_output(_tinysoundfont.OutputMode.StereoInterleaved, RATE, 0.0)
    soundfont.set_max_voices(VOICES)
    for channel in range(16):  # General MIDI's state at the beginning
        for number, value in ((7, 100), (11, 127)):
            soundfont.channel_midi_control(channel, number, value)
    spread = _stage(score)
    for channel, value in spread.items():
        _pan(soundfont, channel, value)
    audio = np.zeros((round((score.seconds + TAIL) * RATE / GRID) * GRID, 2), np.float32)
    samples, done = memoryview(audio).cast("B"), 0
    chosen = {}
    for time, order, *event in _events(score):
        place = min(time * GRID, len(audio))
        if place > done:
            soundfont.render(samples[8 * done : 8 * place])
            done = place
        if order == _OFF:
            soundfont.channel_note_off(*event)
        elif order == _ON:
            channel, bank, program, pitch, velocity = event
            if chosen.get(channel) != (bank, program):
                chosen[channel] = bank, program
                soundfont.channel_set_bank(channel, bank)
                soundfont.channel_set_preset_number(channel, program, channel == DRUMS)
            soundfont.channel_note_on(channel, pitch, velocity / 127)
        else:
            channel, number, value = event
            if number == BEND:
                soundfont.channel_set_pitch_wheel(channel, value)
            elif number == PAN and not spread:
                _pan(soundfont, channel, value)
            elif number != PAN:
                soundfont.channel_midi_control(channel, number, value)
    soundfont.render(samples[8 * done :])
    return audio


def _pan(soundfont: SoundFont, channel: int, value: int) -> None:
    """Pans by a MIDI value: 1 is left, 64 is the centre, 127 is right."""
    soundfont.channel_set_pan(channel, max(value - 1, 0) / 126)


_OFF, _CHANGE, _ON = range(3)  # the order of events at the same time


def _events(score: Score) -> Iterator[tuple]:
    """What happens when, in steps of GRID: releases, changes of controllers, strikes."""
    notes, controls = score.notes, score.controls
    steps = lambda seconds: np.round(seconds * RATE / GRID).astype(int)
    start = steps(notes["start"])
    # A note lasts at least one step: a release before its strike would leave it on for ever.
    stop = np.maximum(steps(notes["stop"]), start + 1)
    channel, pitch = notes["channel"].tolist(), notes["pitch"].tolist()
    strikes = zip(
        start.tolist(),
        [_ON] * len(notes),
        channel,
        notes["bank"].tolist(),
        notes["program"].tolist(),
        pitch,
        notes["velocity"].tolist(),
        strict=True,
    )
    releases = zip(stop.tolist(), [_OFF] * len(notes), channel, pitch, strict=True)
    changes = zip(
        steps(controls["time"]).tolist(),
        [_CHANGE] * len(controls),
        controls["channel"].tolist(),
        controls["number"].tolist(),
        controls["value"].tolist(),
        strict=True,
    )
    # Sorting keeps the order of events of the same kind and time.
    return iter(sorted([*releases, *changes, *strikes], key=lambda event: event[:2]))


def _check_instruments(score: Score, soundfont: SoundFont) -> None:
    """Refuses what would be played with another instrument than the score says."""
    drums = score.notes["channel"] == DRUMS
    if drums.any() and soundfont.get_preset_index(128, 0) < 0:
        raise Refusal("The soundfont has no drum kit.")
    for program in np.unique(score.notes["program"][~drums]).tolist():
        if soundfont.get_preset_index(0, program) < 0:
            raise Refusal(f"The soundfont has no program {program + 1} of General MIDI.")


def _stage(score: Score) -> dict[int, int]:
    """Where the channels stand (MIDI pan, 0 is left) if the file leaves all in the centre.

    Drums and basses stay there, and so does an instrument that plays alone.
    """
    controls = score.controls
    if not np.isin(controls["value"][controls["number"] == PAN], _CENTRE).all():
        return {}
    notes = score.notes
    seated = (notes["channel"] != DRUMS) & ~np.isin(notes["program"], BASSES)
    channels = np.unique(notes["channel"][seated])
    if len(channels) < 2:
        return {}
    seats = np.linspace(20, 108, len(channels)).round().astype(int)
    _random(score).shuffle(seats)
    return dict(zip(channels.tolist(), seats.tolist(), strict=True))


def _reverberate(audio: np.ndarray, room: float, random: np.random.Generator) -> np.ndarray:
    """Adds decaying noise, a different one on each side, as the walls of a room do.

    The larger `room`, the longer the noise and the more of it.
    """
    decay = 0.3 + 1.5 * room  # seconds to fall by 60 dB
    length, delay = round(decay * RATE), round((0.008 + 0.02 * room) * RATE)
    time = np.arange(length) / RATE
    noise = random.standard_normal((length, 2)) * (1e-3 ** (time / decay))[:, None]
    # Walls absorb treble, and bass would become muddy.
    band = scipy.signal.butter(1, (200, 5000), "bandpass", fs=RATE, output="sos")
    noise = scipy.signal.sosfilt(band, noise, axis=0)
    noise *= 0.45 * room / np.sqrt((noise**2).sum(axis=0))
    result = np.pad(audio, ((0, delay + length), (0, 0)))
    mono = audio.mean(axis=1)
    for side in range(2):
        wet = scipy.signal.oaconvolve(mono, noise[:, side].astype(np.float32))
        result[delay : delay + len(wet), side] += wet
    return result


def _loudness(audio: np.ndarray) -> float:
    """Integrated loudness in LUFS, by ITU-R BS.1770-4, with steps of 0.4 s."""
    shelf = (1.53512485958697, -2.69169619940638, 1.19839281085285)
    shelf += (1.0, -1.69065929318241, 0.73248077421585)
    high_pass = (1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621)
    block, power = round(0.4 * RATE), 0
    for side in range(2):
        weighted = scipy.signal.sosfilt((shelf, high_pass), audio[:, side]) ** 2
        power = power + np.add.reduceat(weighted, np.arange(0, len(weighted), block)) / block
    levels = -0.691 + 10 * np.log10(power + 1e-20)
    loud = levels > -70
    if not loud.any():
        return -70.0
    gate = -0.691 + 10 * np.log10(power[loud].mean()) - 10
    return float(-0.691 + 10 * np.log10(power[levels > max(gate, -70)].mean()))
