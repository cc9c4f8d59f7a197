"""Small MIDI files for the tests."""

import json
import struct

import pretty_midi

C_MAJOR = (60, 62, 64, 65, 67, 69, 71, 72)


def part(program, pitches, start=0.0, each=0.5, length=None, velocity=90, **options):
    """An instrument that plays the pitches one after the other."""
    instrument = pretty_midi.Instrument(program, **options)
    for place, pitch in enumerate(pitches):
        begin = start + place * each
        note = pretty_midi.Note(velocity, pitch, begin, begin + (length or each))
        instrument.notes.append(note)
    return instrument


def write(path, *parts, tempo=120.0, **sidecar):
    """Writes a MIDI file of the parts, and NAME.json if there are fields for it."""
    piece = pretty_midi.PrettyMIDI(initial_tempo=tempo)
    piece.instruments += parts
    piece.write(str(path))
    if sidecar:
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


def midi(*tracks, division=96, format=1, count=None):
    """The bytes of a MIDI file with these tracks; `count` is the number that its header claims."""
    count = len(tracks) if count is None else count
    header = struct.pack(">4sLHHH", b"MThd", 6, format, count, division)
    return header + b"".join(b"MTrk" + struct.pack(">L", len(track)) + track for track in tracks)


NOTE = b"\x00\x90\x3c\x40\x60\x80\x3c\x00"  # middle C for 96 ticks
END = b"\x00\xff\x2f\x00"
