import json

import pretty_midi
import pytest

from data_pipeline.scores.reading import read
from data_pipeline.scores.truth import truth
from tests.data_pipeline.scores.pieces import C_MAJOR, END, midi, part, write

A_MINOR = (57, 59, 60, 62, 64, 65, 68, 69)


def known(folder, *parts, start=0.0, stop=4.0, **options):
    return truth(read(write(folder / "a.mid", *parts, **options), "a.mid"), start, stop)


def test_a_waltz_in_a_minor(tmp_path):
    piece = pretty_midi.PrettyMIDI(initial_tempo=150)
    piece.instruments += [part(0, A_MINOR), part(32, [33] * 4, each=0.8)]
    piece.time_signature_changes.append(pretty_midi.TimeSignature(3, 4, 0))
    piece.key_signature_changes.append(pretty_midi.KeySignature(21, 0))
    piece.write(str(tmp_path / "a.mid"))
    found = truth(read(tmp_path / "a.mid", "a.mid"), 0, 4)
    json.dumps(found)
    assert found["tempo"] == pytest.approx(150, abs=0.01)
    signature = {"meter": "3/4", "key": "A", "mode": "minor", "key_from": "signature"}
    assert found.items() >= signature.items()
    assert found["bass"] and not found["drums"]
    piano, bass = found["instruments"]
    assert (piano["name"], piano["family"]) == ("Acoustic Grand Piano", "piano")
    assert (bass["name"], bass["family"]) == ("Acoustic Bass", "bass")
    assert piano["share"] == pytest.approx(4 / 7.2, abs=0.01)
    assert piano["share"] + bass["share"] == pytest.approx(1)


@pytest.mark.parametrize("up", range(0, 12, 5))
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_the_key_of_a_scale_is_estimated(tmp_path, mode, up):
    scale = C_MAJOR if mode == "major" else [pitch + 3 for pitch in A_MINOR]
    found = known(tmp_path, part(0, [pitch + up for pitch in scale]))
    name = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")[up]
    assert (found["key"], found["mode"], found["key_from"]) == (name, mode, "estimated")


def test_the_sidecar_knows_better(tmp_path):
    found = known(
        tmp_path, part(0, C_MAJOR), key="D", mode="dorian", meter="5/4", title="One", style="jazz"
    )
    expected = dict(
        key="D", mode="dorian", key_from="score", meter="5/4", title="One", style="jazz"
    )
    assert found.items() >= expected.items()


def test_what_is_not_known_is_absent(tmp_path):
    (tmp_path / "a.mid").write_bytes(midi(b"\x00\x99\x24\x40\x60\x89\x24\x00" + END))
    found = truth(read(tmp_path / "a.mid", "a.mid"), 0, 0.5)
    assert found == dict(
        instruments=[], drums=True, bass=False, density=2.0, velocity=64.0, dynamics="medium"
    )
    assert truth(read(tmp_path / "a.mid", "a.mid"), 5, 6) == {}


def test_the_stretch_has_its_own_instruments_chords_section_and_melody(tmp_path):
    piece = write(
        tmp_path / "a.mid",
        part(73, [72] * 4, start=0),
        part(40, [67] * 4, start=2),
        part(0, [36], is_drum=True),
        chords=[[0, "C"], [1, "C"], [2, "F"], [3, "G"], [3.97, "C"]],
        sections=[[0, "verse"], [2, "chorus"]],
        melody="Flute",
    )
    score = read(piece, "a.mid")
    first, second = truth(score, 0, 2), truth(score, 2, 4)
    assert [each["name"] for each in first["instruments"]] == ["Flute"]
    assert [each["name"] for each in second["instruments"]] == ["Violin"]
    assert (first["drums"], second["drums"]) == (True, False)
    assert (first["chords"], second["chords"]) == (["C"], ["F", "G"])
    assert (first["section"], second["section"]) == ("verse", "chorus")
    assert (first["melody"], second["melody"]) == ("Flute", None)
    assert (first["density"], second["density"]) == (2.5, 2.0)
    assert (first["mean_pitch"], second["mean_pitch"]) == (72, 67)


def test_chords_and_overlapping_notes_count_once_in_the_shares(tmp_path):
    chord = [part(0, [pitch], each=2.0) for pitch in (60, 64, 67)]
    long = [*chord, part(0, [72], start=1.0, each=1.0), part(73, [79], each=2.0)]
    shares = [each["share"] for each in known(tmp_path, *long, stop=2.0)["instruments"]]
    assert shares == pytest.approx([0.5, 0.5], abs=1e-3)


def test_notes_count_in_the_density_where_they_begin(tmp_path):
    found = known(tmp_path, part(0, [60], each=4.0), part(73, [72] * 2, start=2, each=1), start=2)
    assert found["density"] == 1.0


def test_the_tempo_is_that_of_the_stretch(tmp_path):
    changes = b"\x00\xff\x51\x03\x07\xa1\x20" + b"\x81\x40\xff\x51\x03\x0f\x42\x40" + END
    (tmp_path / "a.mid").write_bytes(midi(b"\x00\x90\x3c\x40\x8d\x00\x80\x3c\x00" + END, changes))
    score = read(tmp_path / "a.mid", "a.mid")
    tempos = [truth(score, *stretch)["tempo"] for stretch in ((0, 1), (1, 2), (0, 2))]
    assert tempos == [120, 60, 90]


@pytest.mark.parametrize(
    ("pitch", "velocity", "register", "dynamics"),
    [(40, 40, "low", "soft"), (60, 80, "middle", "medium"), (84, 120, "high", "loud")],
)
def test_register_and_dynamics(tmp_path, pitch, velocity, register, dynamics):
    found = known(tmp_path, part(0, [pitch] * 4, velocity=velocity))
    assert (found["register"], found["dynamics"]) == (register, dynamics)
    assert (found["mean_pitch"], found["velocity"]) == (pitch, velocity)


@pytest.mark.parametrize(("meter", "beats"), [("4/4", 150), ("3/4", 150), ("6/8", 100)])
def test_a_beat_of_compound_meter_is_three_eighths(tmp_path, meter, beats):
    score = read(write(tmp_path / "a.mid", part(0, (60, 62)), tempo=150, meter=meter), "a")
    assert truth(score, 0, 1)["tempo"] == pytest.approx(beats, abs=0.01)
