"""Notes, parts, and the MIDI file that holds them."""

import io
import itertools
from dataclasses import dataclass

import mido

TICKS = 96  # a quarter note; most times between two events then take one byte
DRUM_CHANNEL = 9
MELODIC_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]


@dataclass(frozen=True, order=True)
class Note:
    """One note; `start` and `length` in quarter notes."""

    start: float
    length: float
    pitch: int
    velocity: int

    @property
    def stop(self) -> float:
        return self.start + self.length


@dataclass
class Part:
    """What one instrument plays; `role` is melody, bass, chords, pad or drums."""

    role: str
    program: int  # of General MIDI, from 0; the kit where the role is drums
    notes: list[Note]
    pan: int = 64  # controller 10
    level: int = 100  # controller 7


@dataclass
class Score:
    """A whole piece. `tempos` holds (quarter note, beats a minute) by rising time."""

    parts: list[Part]
    tempos: list[tuple[float, float]]
    meter: str
    key_signature: str = "C"  # as mido writes it: "Bb", "F#m"
    title: str = ""

    @property
    def stop(self) -> float:
        return max(note.stop for part in self.parts for note in part.notes)

    def seconds(self, quarters: float) -> float:
        """The time of a place in the score."""
        total = 0.0
        for (start, bpm), (stop, _) in itertools.pairwise([*self.tempos, (float("inf"), 0.0)]):
            if quarters <= start:
                break
            total += (min(quarters, stop) - start) * 60 / bpm
        return total

    def midi(self) -> bytes:
        """A type-1 MIDI file: one track of tempo, meter and key, then one track a part.

        Raises:
            ValueError: there are more than 15 parts besides drums.
        """
        file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
        numerator, denominator = map(int, self.meter.split("/"))
        first = [
            (0, mido.MetaMessage("track_name", name=self.title)),
            (0, mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator)),
            (0, mido.MetaMessage("key_signature", key=self.key_signature)),
        ]
        for start, bpm in self.tempos:
            tempo = mido.bpm2tempo(bpm)
            first.append((round(start * TICKS), mido.MetaMessage("set_tempo", tempo=tempo)))
        file.tracks.append(_track(first))
        channels = iter(MELODIC_CHANNELS)
        for part in self.parts:
            channel = DRUM_CHANNEL if part.role == "drums" else next(channels, None)
            if channel is None:
                raise ValueError("a score can have 15 parts besides the drums")
            file.tracks.append(_track(_events(part, channel)))
        buffer = io.BytesIO()
        file.save(file=buffer)
        return buffer.getvalue()


def _events(part: Part, channel: int) -> list:
    """The messages of a part with their ticks. No note overlaps another of the same pitch."""
    events = [
        (0, mido.Message("program_change", channel=channel, program=part.program)),
        (0, mido.Message("control_change", channel=channel, control=7, value=part.level)),
        (0, mido.Message("control_change", channel=channel, control=10, value=part.pan)),
    ]
    by_pitch: dict[int, list[Note]] = {}
    for note in sorted(part.notes):
        by_pitch.setdefault(note.pitch, []).append(note)
    played = []
    for pitch, notes in by_pitch.items():
        times = {}
        for note in notes:
            times.setdefault(max(0, round(note.start * TICKS)), note)
        for (start, note), (following, _) in itertools.pairwise(
            [*times.items(), (1 << 30, notes[-1])]
        ):
            stop = min(max(round(note.stop * TICKS), start + 1), following)
            played.append((start, 1, pitch, note.velocity))
            played.append((stop, 0, pitch, 0))  # a note-on of velocity 0 keeps the running status
    for tick, _, pitch, velocity in sorted(played):
        message = mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)
        events.append((tick, message))
    return events


def _track(events: list) -> mido.MidiTrack:
    track, now = mido.MidiTrack(), 0
    for tick, message in events:
        track.append(message.copy(time=tick - now))
        now = tick
    return track


def clamp(value: float, low: int, high: int) -> int:
    return int(min(max(round(value), low), high))
