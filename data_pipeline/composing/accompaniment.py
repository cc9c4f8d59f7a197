"""The accompaniment by MMA: a form as MMA's text, the call, and its MIDI file as parts.

MMA (Musical MIDI Accompaniment) is run as a program of its own, once a piece.
"""

import os
import subprocess
import sys
from pathlib import Path

import mido

from data_pipeline.composing.forms import Bar, Form
from data_pipeline.composing.grooves import Family, Groove
from data_pipeline.composing.notes import DRUM_CHANNEL, Note, Part

PADS = range(48, 55), range(88, 96)
_SECONDS = 60  # a call takes under one


class AccompanimentError(Exception):
    """MMA could not play a form; its message holds MMA's output."""


def choose_grooves(family: Family, form: Form, rng) -> list[Groove]:
    """The groove of every bar: one main groove a section name, with intro, fills and ending."""
    main, fills = family.of_role("main"), [g for g in family.of_role("fill") if g.bars <= 2]
    chosen = {name: rng.choice(main) for name in form.names}
    if len(main) > 4 and rng.random() < 0.7:  # relatives of one groove have alike names
        stem = rng.choice(main).name[:-1]
        alike = [groove for groove in main if groove.name.startswith(stem[: len(stem) - 2])]
        chosen = {name: rng.choice(alike) for name in form.names}
    intros = [groove for groove in family.of_role("intro") if groove.bars <= 4]
    if intros and rng.random() < 0.75:
        chosen["intro"] = rng.choice(intros)
    with_fills = fills and rng.random() < 0.8
    result: list[Groove] = []
    for section in form.sections:
        grooves = [chosen[section.name]] * len(section.bars)
        if section.name == "ending":
            grooves = [chosen.get(form.sections[-2].name, chosen["ending"])] * len(section.bars)
            endings = [g for g in family.of_role("ending") if g.bars <= len(section.bars)]
            if endings and rng.random() < 0.85:
                ending = rng.choice(endings)
                grooves[-ending.bars :] = [ending] * ending.bars
        elif with_fills and len(grooves) >= 4:
            grooves[-1] = rng.choice(fills)
        result += grooves
    return result


def script(family: Family, grooves: list[Groove], bars: list[Bar], seed: int, flats: bool) -> str:
    """The text that MMA compiles."""
    lines = [f"RndSeed {seed}", "Tempo 120", f"Use {family.file}"]
    playing = None
    for groove, bar in zip(grooves, bars, strict=True):
        if groove != playing:
            lines.append(f"Groove {groove.name}")
            playing = groove
        words = []
        for start, chord in bar.chords:
            beat = (start - bar.start) / bar.length * family.beats + 1
            name = chord.name(flats, mma=True)
            words.append(name if beat == 1 else f"{name}@{beat:g}")
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def run(tool: Path, text: str, midi: Path) -> None:
    """Runs MMA on a text and writes the MIDI file.

    Args:
        tool: the folder `usr` of the unpacked Debian package.

    Raises:
        AccompanimentError: MMA refuses the text, or takes too long.
    """
    command = [sys.executable, "-I", "-S", str(tool / "bin" / "mma"), "-f", str(midi), "-"]
    environment = {**os.environ, "MMA_HOME": str(tool / "share" / "mma")}
    try:
        result = subprocess.run(
            command, input=text.encode(), capture_output=True, env=environment, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise AccompanimentError(f"MMA takes more than {_SECONDS} s") from error
    if result.returncode or not midi.exists():
        raise AccompanimentError(result.stdout.decode(errors="replace")[-500:])


def _role(name: str, channel: int, program: int) -> str:
    word = name.lower()
    if channel == DRUM_CHANNEL:
        return "drums"
    if word.startswith(("bass", "walk")) and "sus" not in word:
        return "bass"
    if "sus" in word or any(program in pads for pads in PADS):
        return "pad"
    return "chords"


def parts(midi: Path, stretch: float) -> list[Part]:
    """The parts of MMA's MIDI file, one for each track and instrument.

    Args:
        stretch: quarter notes as they are written for each of MMA's beats.
    """
    file = mido.MidiFile(midi)
    unit = stretch / file.ticks_per_beat
    found: dict[tuple[str, int], Part] = {}
    for track in file.tracks:
        now, program, sounding = 0, 0, {}
        for message in track:
            now += message.time
            if message.type == "program_change":
                program = message.program
            elif message.type == "note_on" and message.velocity:
                sounding[message.note] = (now, message.velocity, program)
            elif message.type in ("note_on", "note_off") and message.note in sounding:
                start, velocity, of = sounding.pop(message.note)
                role = _role(track.name, message.channel, of)
                key = ("drums", 0) if role == "drums" else (track.name, of)
                part = found.setdefault(key, Part(role, 0 if role == "drums" else of, []))
                length = max((now - start) * unit, 0.05)
                part.notes.append(Note(start * unit, length, message.note, velocity))
    return list(found.values())


def hold_last_bar(parts: list[Part], bar: Bar) -> None:
    """Lets a piece end on one held chord: nothing is struck after the last bar's first beat."""
    for part in parts:
        kept = []
        for note in part.notes:
            if note.start < bar.start - 0.1:
                kept.append(note)
            elif note.start < bar.start + 0.3:
                length = note.length if part.role == "drums" else bar.length
                kept.append(Note(note.start, length, note.pitch, note.velocity))
        part.notes = kept
