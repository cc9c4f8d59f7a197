"""A MIDI file and its sidecar, read into arrays within limits of size, notes and length."""

import io
import math
import re
from collections import defaultdict, deque
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import mido
import numpy as np
from pretty_midi import INSTRUMENT_MAP

from data_pipeline.sidecars import is_texts, parse, read_text
from jen1_numpy.errors import Refusal

MAX_BYTES = 1_000_000  # of a MIDI file; mido takes about 10 s for the worst file of this size
MAX_NOTES = 50_000
MAX_SECONDS = 900.0
MIN_TEMPO, MAX_TEMPO = 4, 1000  # quarter notes per minute
DRUMS = 9  # the drum channel of General MIDI, counted from 0
PAN = 10  # the number of a controller
BEND = 128  # the number of the pitch wheel in `Score.controls`

# Controllers that the synthesiser obeys: data entry, volume, pan, expression and the registered
# parameters (range of the pitch wheel, tuning). The sustain pedal changes the notes instead.
_CONTROLS = {6, 7, PAN, 11, 38, 39, 43, 98, 99, 100, 101}

NOTE = np.dtype(
    [("start", "f8"), ("stop", "f8")]
    + [(name, "u1") for name in ("channel", "bank", "program", "pitch", "velocity")]
)
CONTROL = np.dtype([("time", "f8"), ("channel", "u1"), ("number", "u1"), ("value", "u2")])


@dataclass(frozen=True)
class Score:
    """What a MIDI file plays, in seconds.

    A note lasts until its key or the sustain pedal is released. Notes of channels whose volume is
    0 are left out.
    """

    id: str
    notes: np.ndarray  # of NOTE, by start
    controls: np.ndarray  # of CONTROL, by time
    tempos: list[tuple[float, float]]  # since when, quarter notes per minute
    meters: list[tuple[float, str]]  # since when, "3/4"
    keys: list[tuple[float, str]]  # since when, "A" for A major or "Am" for A minor
    seconds: float  # the end of the last note
    sidecar: dict  # the fields of NAME.json, checked


def read(path: Path, id: str) -> Score:
    """Reads a MIDI file of format 0 or 1, and its sidecar.

    Raises:
        Refusal: it is no MIDI file, is damaged, or exceeds a limit of this module.
    """
    sidecar = read_sidecar(path)
    if path.stat().st_size > MAX_BYTES:
        raise Refusal(f"It has {path.stat().st_size} bytes; at most {MAX_BYTES} are read.")
    content = path.read_bytes()
    # mido adds up numbers of any length, which would take hours. Valid ones have 4 bytes.
    if re.search(rb"[\x80-\xff]{2000}", content):
        raise Refusal("It is damaged: it holds a number of thousands of bytes.")
    try:
        file = mido.MidiFile(file=io.BytesIO(content))
    except Exception as error:  # mido raises many kinds of errors for damaged files
        raise Refusal(
            f"It is no MIDI file, or damaged: {str(error) or type(error).__name__}."
        ) from None
    if file.type not in (0, 1):
        raise Refusal(f"It has MIDI format {file.type}; formats 0 and 1 are read.")
    if file.ticks_per_beat <= 0:
        raise Refusal("It counts time in video frames or not at all; only beats are read.")
    timed = []
    for track in file.tracks:
        tick = 0
        for message in track:
            tick += message.time
            timed.append((tick, message))
    timed.sort(key=itemgetter(0))
    player = _Player(file.ticks_per_beat)
    for tick, message in timed:
        player.play(tick, message)
    return player.score(id, sidecar)


class _Player:
    """Follows the messages of a file in order, and keeps what the channels and the keys do."""

    def __init__(self, ticks_per_beat: int):
        self.ticks_per_beat = ticks_per_beat
        self.tick, self.now, self.tempo = 0, 0.0, 120.0
        self.notes, self.controls, self.tempos, self.meters, self.keys = [], [], [], [], []
        self.program, self.bank, self.volume = [0] * 16, [0] * 16, [100] * 16
        self.pedal = [False] * 16
        self.pressed = defaultdict(deque)  # (channel, pitch) -> notes whose key is down
        self.held = defaultdict(list)  # (channel, pitch) -> notes that the pedal holds

    def play(self, tick: int, message) -> None:
        if tick > self.tick:
            beats = min(tick - self.tick, 1 << 50) / self.ticks_per_beat
            self.tick, self.now = tick, self.now + 60 / self.tempo * beats
        match message.type:
            case "note_on" if message.velocity:
                self._strike(message.channel, message.note, message.velocity)
            case "note_on" | "note_off":
                self._release(message.channel, message.note)
            case "control_change":
                self._control(message.channel, message.control, message.value)
            case "program_change":
                self.program[message.channel] = message.program
            case "pitchwheel":
                self.controls.append((self.now, message.channel, BEND, message.pitch + 8192))
            case "set_tempo":
                self.tempo = 6e7 / message.tempo if message.tempo else math.inf
                if not MIN_TEMPO <= self.tempo <= MAX_TEMPO:
                    raise Refusal(
                        f"Its tempo of {self.tempo:.6g} quarter notes per minute is outside "
                        f"{MIN_TEMPO} to {MAX_TEMPO}."
                    )
                self.tempos.append((self.now, self.tempo))
            case "time_signature":
                if 1 <= message.numerator <= 32 and message.denominator <= 32:
                    self.meters.append((self.now, f"{message.numerator}/{message.denominator}"))
            case "key_signature":
                self.keys.append((self.now, message.key))

    def _strike(self, channel: int, pitch: int, velocity: int) -> None:
        if len(self.notes) == MAX_NOTES:
            raise Refusal(f"It has more than {MAX_NOTES} notes.")
        self._end(self.held.pop((channel, pitch), ()))
        self.pressed[channel, pitch].append(len(self.notes))
        bank = 0 if channel == DRUMS else self.bank[channel]
        audible = velocity if self.volume[channel] else 0
        self.notes.append(
            [self.now, math.nan, channel, bank, self.program[channel], pitch, audible]
        )

    def _release(self, channel: int, pitch: int) -> None:
        if not (pressed := self.pressed[channel, pitch]):
            return
        note = pressed.popleft()
        if self.pedal[channel]:
            self.held[channel, pitch].append(note)
        else:
            self._end([note])

    def _control(self, channel: int, number: int, value: int) -> None:
        if number == 0:
            self.bank[channel] = value
        elif number == 64:
            self.pedal[channel] = value >= 64
            if not self.pedal[channel]:
                self._end_all(self.held, channel)
        elif number in (120, 123):  # all sounds off, all notes off
            self._end_all(self.held, channel)
            self._end_all(self.pressed, channel)
        elif number == 121:  # the controllers return to their defaults
            self._control(channel, 64, 0)
            self.controls += [(self.now, channel, 11, 127), (self.now, channel, BEND, 8192)]
        elif number in _CONTROLS:
            if number == 7:
                self.volume[channel] = value
            self.controls.append((self.now, channel, number, value))

    def _end_all(self, notes: dict, channel: int) -> None:
        for key in [key for key in notes if key[0] == channel]:
            self._end(notes.pop(key))

    def _end(self, notes) -> None:
        for note in notes:
            self.notes[note][1] = self.now

    def score(self, id: str, sidecar: dict) -> Score:
        """The score, once all messages were played; notes that never end last until now."""
        for channel in range(16):
            self._control(channel, 123, 0)
        notes = np.array([tuple(note) for note in self.notes], NOTE)
        notes = notes[notes["velocity"] > 0]
        if not len(notes):
            raise Refusal("It has no notes.")
        if (seconds := float(notes["stop"].max())) > MAX_SECONDS:
            raise Refusal(f"It lasts {seconds:.0f} s; at most {MAX_SECONDS:.0f} s are read.")
        controls = np.array(self.controls, CONTROL)
        return Score(id, notes, controls, self.tempos, self.meters, self.keys, seconds, sidecar)


def read_sidecar(path: Path, folder: Path | None = None) -> dict:
    """The fields of NAME.json beside NAME.mid, or {} where there is none.

    Fields that this module does not know are kept as they are.

    Raises:
        Refusal: it cannot be read (see `sidecars`), is a link out of `folder`, or a field has the
            wrong type.
    """
    path = path.with_suffix(".json")
    try:
        if (text := read_text(path, folder)) is None:
            return {}
        fields = parse(text)
    except ValueError as error:
        raise Refusal(f"{path.name} cannot be used: {error}.") from None
    fields = {
        name: value for name, value in fields.items() if value is not None or name == "melody"
    }
    for name, (check, expected) in _FIELDS.items():
        if name in fields and not check(fields[name]):
            raise Refusal(f'In {path.name}, "{name}" must be {expected}.')
    return fields


def _text(value, most: int = 200) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and value.isprintable()


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _timed(value) -> bool:
    """Whether it is a list of [seconds, text] in the order of time."""
    if not isinstance(value, list) or len(value) > MAX_NOTES:
        return False
    pairs = all(
        isinstance(entry, list) and len(entry) == 2 and _number(entry[0]) and _text(entry[1], 40)
        for entry in value
    )
    return pairs and all(one[0] <= two[0] for one, two in pairwise(value))


_TEXT = (_text, "a text of 1 to 200 printable characters")
_TIMED = (_timed, "a list of [seconds, text] in the order of time")
_FIELDS = {
    "title": _TEXT,
    "style": _TEXT,
    "licence": _TEXT,
    "groove": _TEXT,
    "caption": (
        lambda value: isinstance(value, str) or is_texts(value),
        "a text or a list of texts",
    ),
    "captions": (is_texts, "a list of texts"),
    "soundfont": (
        lambda value: _text(value) and Path(value).name == value,
        "the name of a file, without its folder",
    ),
    "split": (lambda value: value in ("train", "test"), '"train" or "test"'),
    "key": (
        lambda value: isinstance(value, str) and bool(re.fullmatch("[A-G][#b]?", value)),
        'a key like "C", "F#" or "Bb"',
    ),
    "mode": _TEXT,
    "meter": (
        lambda value: (
            isinstance(value, str)
            and bool(re.fullmatch(r"([1-9]|[12]\d|3[0-2])/(1|2|4|8|16|32)", value))
        ),
        'a meter like "3/4"',
    ),
    "chords": _TIMED,
    "sections": _TIMED,
    "melody": (
        lambda value: value is None or value in INSTRUMENT_MAP,
        "a General MIDI instrument like Flute, or null",
    ),
    "room": (lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "held_out": (
        lambda value: isinstance(value, list) and len(value) <= 20 and all(map(_text, value)),
        "a list of texts",
    ),
}
