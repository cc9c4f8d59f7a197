"""MMA's library, text and output, with a stand-in for the program."""

import functools
import random
import subprocess
import sys
from pathlib import Path

import mido
import pytest

from data_pipeline.composing import __main__ as command
from data_pipeline.composing import accompaniment, grooves
from data_pipeline.composing.notes import Note, Part
from tests.data_pipeline.composing.example import FILES, library, made
from tests.data_pipeline.composing.test_music import planned

ROOT = Path(__file__).parents[3]


def recorded(path: Path) -> None:
    """A small file as MMA writes it: a track for each part; one of them changes its program."""
    file = mido.MidiFile(type=1, ticks_per_beat=192)
    on = functools.partial(mido.Message, "note_on")
    tracks = {
        "song": [mido.MetaMessage("set_tempo", tempo=500000)],
        "Bass": [
            mido.Message("program_change", channel=2, program=32),
            on(channel=2, note=40, velocity=90),
            on(channel=2, note=40, velocity=0, time=192),
        ],
        "Chord-Sus": [
            mido.Message("program_change", channel=3, program=52),
            on(channel=3, note=60, velocity=70),
            on(channel=3, note=60, velocity=0, time=384),
            mido.Message("program_change", channel=3, program=0),
            on(channel=3, note=64, velocity=70),
            mido.Message("note_off", channel=3, note=64, time=96),
        ],
        "Drum": [on(channel=9, note=36, velocity=99), on(channel=9, note=36, velocity=0, time=4)],
    }
    for name, messages in tracks.items():
        file.tracks.append(mido.MidiTrack([mido.MetaMessage("track_name", name=name), *messages]))
    file.save(path)


def test_the_output_of_mma_becomes_parts(tmp_path):
    recorded(tmp_path / "out.mid")
    parts = {
        (part.role, part.program): part.notes
        for part in accompaniment.parts(tmp_path / "out.mid", 1.5)
    }
    assert parts["bass", 32] == [Note(0, 1.5, 40, 90)]
    assert parts["pad", 52] == [Note(0, 3, 60, 70)]
    assert parts["pad", 0] == [Note(3, 0.75, 64, 70)]
    assert [note.pitch for note in parts["drums", 0]] == [36]


def test_a_library_file_is_read_as_mma_would_run_it():
    text = """
        Time 3
        Timesig 3 4
        SeqSize 4
        Begin Bass
            Sequence {1 4 1 90}
            Groove Other  // of this track alone
        End
        DefGroove Slow   A slow one.
        SeqSize 2
        DefGroove SlowEnd
        Groove Slow
        DefGroove SlowSus
        // DefGroove Hidden
    """
    family = grooves.parse("mine/slow", text)
    assert (family.beats, family.meter, family.only_drums) == (3, "3/4", False)
    assert [(g.name, g.role, g.bars) for g in family.grooves] == [
        ("Slow", "main", 4),
        ("SlowEnd", "ending", 2),
        ("SlowSus", "main", 4),
    ]
    assert grooves.parse("stdlib/metronome", text) is None


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("BossaNova", "main"),
        ("Blend", "main"),
        ("BossaNovaIntro8", "intro"),
        ("kbossaEndingA", "ending"),
        ("Tango4End", "ending"),
        ("rock1E", "ending"),
        ("rock1FA", "fill"),
        ("FrenchWaltz1FillSus", "fill"),
    ],
)
def test_names_of_grooves_tell_their_role(name, role):
    assert grooves.role_of(name) == role


def test_every_bar_has_a_groove_and_the_ending_its_own():
    families = [family for family in library() if not family.only_drums]
    for seed, family in enumerate(families):
        form, _, rng = planned(seed=seed)
        chosen = accompaniment.choose_grooves(family, form, rng)
        assert len(chosen) == len(form.bars)
        assert all(groove in family.grooves for groove in chosen)
        assert "ending" not in {groove.role for groove in chosen[:-4]}
    roles = {
        accompaniment.choose_grooves(families[0], form, random.Random(seed))[-1].role
        for seed in range(20)
    }
    assert roles == {"ending", "main"}


def test_the_text_for_mma_has_one_line_a_bar_and_places_chords_in_its_beats():
    family = next(family for family in library() if family.file == "stdlib/arpeggio68")
    assert family.bar / family.beats == 0.5
    form, _, rng = planned("jazz", bar=3.0, flavour="jazz", seed=0, compound=True)
    chosen = accompaniment.choose_grooves(family, form, rng)
    lines = accompaniment.script(family, chosen, form.bars, 7, False).splitlines()
    assert lines[:3] == ["RndSeed 7", "Tempo 120", "Use stdlib/arpeggio68"]
    bars = [line for line in lines[3:] if not line.startswith("Groove")]
    assert len(bars) == len(form.bars)
    assert any(len(bar.chords) == 2 for bar in form.bars)
    for line, bar in zip(bars, form.bars, strict=True):
        assert len(line.split()) == len(bar.chords)
        assert len(bar.chords) == 1 or line.endswith("@4")  # the half of six beats
        assert "maj" not in line  # MMA writes M7


def test_the_last_chord_is_held():
    form, _, _ = planned()
    last = form.bars[-1]
    notes = [
        Note(last.start - 1, 1, 60, 80),
        Note(last.start, 0.5, 60, 80),
        Note(last.start + 2, 1, 62, 80),
    ]
    part = Part("chords", 0, notes)
    accompaniment.hold_last_bar([part], last)
    assert part.notes == [notes[0], Note(last.start, last.length, 60, 80)]


@pytest.fixture
def folder(tmp_path):
    """A folder as the launch script leaves it, with a small program in the place of MMA."""
    recorded(tmp_path / "recorded.mid")
    program = tmp_path / "mma" / "bin" / "mma"
    program.parent.mkdir(parents=True)
    program.write_text(
        "import os, shutil, sys\n"
        "text = sys.stdin.read()\n"
        "if 'zz' in text: sys.exit('Error: no such chord')\n"
        "home = os.environ['MMA_HOME']\n"
        "assert os.path.isdir(home + '/lib')\n"
        "shutil.copy(home + '/../../../recorded.mid', sys.argv[sys.argv.index('-f') + 1])\n"
    )
    for file in FILES:
        path = tmp_path / "mma" / "share" / "mma" / "lib" / f"{file}.mma"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("Begin Bass\nEnd\nDefGroove One\n")
    return tmp_path


def test_mma_is_run_with_its_own_paths_and_its_errors_are_reported(folder):
    accompaniment.run(folder / "mma", "C\n", folder / "out.mid")
    assert (folder / "out.mid").read_bytes() == (folder / "recorded.mid").read_bytes()
    with pytest.raises(accompaniment.AccompanimentError):
        accompaniment.run(folder / "mma", "zz\n", folder / "other.mid")


def test_a_second_call_with_more_hours_adds_scores(folder, monkeypatch):
    """One score lasts 16 s or more, so these calls write one and two."""
    composed = [made(number) for number in range(3)]
    monkeypatch.setattr(command.pieces, "compose", lambda seed, number, *_: composed[number])
    scores = folder / "scores"
    scores.mkdir()
    tool = folder / "mma"
    count, seconds = command.write_all(scores, 0.004, 5, tool)
    names = {path.name: path.stat().st_mtime_ns for path in scores.iterdir()}
    assert count == 1 and sorted(names) == ["5-000000.json", "5-000000.mid"] and seconds >= 14.4
    more, total = command.write_all(scores, (seconds + 1) / 3600, 5, tool)
    assert (more, total > seconds) == (2, True)
    assert names.items() <= {p.name: p.stat().st_mtime_ns for p in scores.iterdir()}.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage"),
        (["DIR"], "usage"),
        (["DIR", "--hours", "many"], "is a number"),
        (["DIR", "--hour", "1"], "does not know --hour"),
        (["DIR", "--hours", "1", "--seed", "x"], "whole number"),
    ],
)
def test_the_script_refuses_wrong_arguments(tmp_path, arguments, message):
    script = [str(ROOT / "launch" / "composed_music.sh")]
    result = subprocess.run(
        ["bash", *script, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 1 and message in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_script_says_so_where_apt_is_missing(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("mkdir", "dirname", "bash"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    result = subprocess.run(
        ["/bin/bash", ROOT / "launch" / "composed_music.sh", tmp_path / "out", "--hours", "1"],
        env={"PATH": str(tmp_path / "bin"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and "needs apt-get" in result.stderr
