"""Whole pieces: their splits, their form as files, and that they are musical."""

import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter

import mido
import pytest
from pretty_midi import INSTRUMENT_MAP

from data_pipeline.composing import arranging, pieces, progressions, splits
from data_pipeline.composing.notes import Note, Part, Score
from jen1_numpy.errors import Refusal
from tests.data_pipeline.composing.example import accompany, library, made

NUMBERS = range(72)
TESTS = [n for n in range(700) if pieces.task(5, n).test][:24]


def test_training_pieces_hold_nothing_that_is_held_out():
    trained = [made(n) for n in NUMBERS if made(n).about["split"] == "train"]
    assert len(trained) > 50
    for piece in trained:
        about = piece.about
        assert "held_out" not in about
        assert about["soundfont"] in splits.TRAINING_SOUNDFONTS
        assert not splits.is_held_out("groove", about.get("groove", ""))
        assert not any(map(progressions.is_new, piece.progressions))
        for lead in piece.leads:
            assert not splits.is_held_out("pair", f"{lead} in {about['style']}")


def test_test_pieces_hold_what_they_name_as_held_out_and_nothing_else():
    seen = Counter()
    for piece in map(made, TESTS):
        about = piece.about
        assert about["split"] == "test"
        new = {
            "groove": splits.is_held_out("groove", about.get("groove", "")),
            "progression": any(map(progressions.is_new, piece.progressions)),
            "soundfont": about["soundfont"] == splits.TEST_SOUNDFONT,
            "pair": any(
                splits.is_held_out("pair", f"{lead} in {about['style']}") for lead in piece.leads
            ),
        }
        assert about.get("held_out", []) == sorted(name for name in new if new[name])
        seen.update(about.get("held_out", ["nothing"]))
    assert set(seen) == {"groove", "progression", "soundfont", "pair", "nothing"}


def test_the_shares_of_test_pieces_and_of_solos_are_as_documented():
    tasks = [pieces.task(0, n) for n in range(4000)]
    tests = [task for task in tasks if task.test]
    assert len(tests) / len(tasks) == pytest.approx(pieces.TEST_SHARE, abs=0.015)
    assert sum(not task.new for task in tests) / len(tests) == pytest.approx(1 / 3, abs=0.08)
    solos = sum(task.solo for task in tasks) / len(tasks)
    assert solos == pytest.approx(pieces.SOLO_SHARE, abs=0.02)


def test_no_two_pieces_are_alike():
    digests, pitched = set(), []
    for number in NUMBERS:
        parts = made(number).score.parts
        digests.add(hash(tuple((n.start, n.pitch) for part in parts for n in part.notes)))
        pitched.append(
            {
                (round(n.start * 2), n.pitch)
                for part in parts
                if part.role != "drums"
                for n in part.notes
            }
        )
    assert len(digests) == len(NUMBERS)
    for first, second in itertools.combinations(filter(None, pitched), 2):
        assert len(first & second) < 0.7 * min(len(first), len(second))


def test_at_least_an_eighth_of_the_pieces_is_in_three():
    meters = Counter(made(n).about["meter"] for n in NUMBERS)
    assert meters["3/4"] / len(NUMBERS) > 0.12
    assert meters["4/4"] > 20


def test_a_piece_depends_on_seed_and_number_alone():
    code = (
        "from tests.data_pipeline.composing.example import made; import hashlib, json;"
        "texts = [made(n).score.midi() + json.dumps(made(n).about).encode() for n in (0, 3, 14)];"
        "print(hashlib.sha256(b''.join(texts)).hexdigest())"
    )
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(result.stdout)
    assert len(found) == 1
    other = pieces.compose(6, 0, library(), accompany)
    assert other.score.midi() != made(0).score.midi()


@pytest.mark.parametrize("number", [*NUMBERS[::6], 24])
def test_the_file_says_what_the_sidecar_says(number):
    piece = made(number)
    about = json.loads(json.dumps(piece.about))
    file = mido.MidiFile(file=io.BytesIO(piece.score.midi()))
    assert file.type == 1
    assert abs(file.length - about["seconds"]) < 1
    assert pieces.SHORTEST <= about["seconds"] <= pieces.LONGEST
    meta = {message.type: message for message in file.tracks[0]}
    assert meta["track_name"].name == about["title"]
    assert (
        f"{meta['time_signature'].numerator}/{meta['time_signature'].denominator}" == about["meter"]
    )
    assert about["sections"][0][0] == 0.0
    times = [time for time, _ in about["sections"]]
    assert times == sorted(times) and times[-1] < about["seconds"]
    if "chords" in about:
        assert about["chords"][0][0] == 0.0
        assert about["key"] in about["chords"][-1][1]  # it ends on the tonic
    assert about["melody"] is None or about["melody"] in INSTRUMENT_MAP
    programs = {m.program for track in file.tracks for m in track if m.type == "program_change"}
    if about["melody"]:
        assert INSTRUMENT_MAP.index(about["melody"]) in programs


@pytest.mark.parametrize("number", NUMBERS[::5])
def test_every_note_ends_and_only_drums_are_on_channel_ten(number):
    piece = made(number)
    file = mido.MidiFile(file=io.BytesIO(piece.score.midi()))
    for track, part in zip(file.tracks[1:], piece.score.parts, strict=True):
        sounding = set()
        for message in track:
            if message.type == "note_on":
                assert (message.channel == 9) == (part.role == "drums")
                if message.velocity:
                    assert message.note not in sounding
                    sounding.add(message.note)
                else:
                    sounding.remove(message.note)
        assert not sounding


def test_chords_are_named_where_they_sound():
    named = [made(n) for n in NUMBERS if "chords" in made(n).about]
    assert 50 < len(named) < len(NUMBERS)
    for piece in named:
        classes = {
            n.pitch % 12 for part in piece.score.parts if part.role != "drums" for n in part.notes
        }
        roles = {part.role for part in piece.score.parts}
        assert roles & {"chords", "pad"} and len(classes) > 4


def draft(*notes: tuple[float, float]) -> Score:
    steady = [Note(i * 0.5, 0.5, 60, 80) for i in range(60)]
    part = Part("chords", 0, steady if not notes else [Note(a, b, 60, 80) for a, b in notes])
    return Score([part], [(0.0, 60.0)], "4/4")


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (draft((0, 70)), "fewer"),
        (draft(*((i + 0.5, 1) for i in range(70))), "late"),
        (draft(*((i * 3.0, 1) for i in range(45))), "pauses"),
        (draft(*((i * 0.5, 0.5) for i in range(100))), "50 s long"),
    ],
)
def test_unfit_drafts_are_refused(score, reason):
    pieces.check(draft())
    with pytest.raises(pieces.Unfit, match=reason):
        pieces.check(score)


def test_a_library_without_grooves_is_refused():
    number = next(n for n in range(9) if not pieces.task(5, n).solo)
    with pytest.raises(Refusal, match="no groove"):
        pieces.compose(5, number, [], accompany)


def test_too_many_parts_are_joined_and_the_melody_stays():
    parts = [Part("chords", i % 40, [Note(0, 1, 60, 80)]) for i in range(50)]
    parts.append(Part("melody", 73, [Note(0, 1, 70, 80)]))
    parts += [Part("drums", 0, [Note(0, 1, 36, 80)]), Part("drums", 0, [Note(1, 1, 38, 80)])]
    joined = arranging.join(parts)
    assert Counter(part.role for part in joined)["melody"] == 1
    assert len([part for part in joined if part.role == "drums"]) == 1
    Score(joined, [(0.0, 100.0)], "4/4").midi()  # fits into one file


def test_seconds_follow_the_tempos():
    score = Score([], [(0.0, 60.0), (4.0, 120.0)], "4/4")
    assert score.seconds(2) == 2
    assert score.seconds(8) == 4 + 2
