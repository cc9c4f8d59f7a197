"""Harmony, melody, part writing and accompaniments are as a musician expects."""

import random
from itertools import pairwise

import mido
import pytest

from data_pipeline.composing import (
    chorale,
    drums,
    forms,
    harmony,
    melody,
    progressions,
    styles,
    textures,
    themes,
)

KINDS = list(progressions.LOOPS)


def planned(kind="major", bar=4.0, bars=32, seed=0, tonic=2, flavour="plain", compound=False):
    rng = random.Random(seed)
    key = forms.Key(tonic, forms.mode_of(kind))
    form = forms.plan(
        kind=kind,
        key=key,
        flavour=flavour,
        bar=bar,
        compound=compound,
        bars=bars,
        held_out=False,
        rng=rng,
    )
    return form, key, rng


def chord_at(form, time):
    return [bar for bar in form.bars if bar.start <= time + 0.1][-1].chord_at(time + 0.1)


@pytest.mark.parametrize(
    ("numeral", "tonic", "name"),
    [
        ("I", 0, "C"),
        ("ii7", 0, "Dm7"),
        ("V/3", 7, "D/F#"),
        ("bVII", 2, "C"),
        ("viiø", 0, "Bm7b5"),
        ("#ivo7", 0, "F#dim7"),
        ("IV/t", 0, "F/C"),
        ("Imaj7", 9, "Amaj7"),
    ],
)
def test_a_numeral_names_its_chord(numeral, tonic, name):
    assert harmony.chord(numeral, tonic).name(flats=False) == name


def test_keys_with_flats_spell_flats_and_have_their_signatures():
    assert harmony.key_name(10, "major") == "Bb" and harmony.key_name(6, "minor") == "F#"
    assert harmony.key_signature(2, "dorian") == "C"
    assert harmony.key_signature(3, "minor") == "Ebm" and harmony.key_name(6, "major") == "F#"
    assert harmony.key_signature(0, "minor") == "Cm"
    for tonic in range(12):  # mido knows all of their signatures
        for mode in harmony.MODES:
            mido.MetaMessage("key_signature", key=harmony.key_signature(tonic, mode))
    assert harmony.chord("IV", 5).name(harmony.uses_flats(5, "major")) == "Bb"


def test_there_are_several_hundred_progressions_and_all_can_be_read():
    found = [(kind, p) for kind in KINDS for p in progressions.progressions(kind)]
    assert len({p for _, p in found}) > 600
    for _, progression in found:
        bars = progressions.bars(progression)
        assert len(bars) in (4, 8, 12)
        assert all(harmony.chord(numeral, 0) for bar in bars for numeral in bar)


@pytest.mark.parametrize("kind", ["major", "minor", "dorian", "mixolydian", "lydian", "phrygian"])
def test_most_chords_of_a_mode_belong_to_it(kind):
    numerals = [
        numeral
        for progression in progressions.progressions(kind)
        for bar in progressions.bars(progression)
        for numeral in bar
    ]
    inside = sum(harmony.plainly(numeral, 0, kind) for numeral in numerals)
    assert inside / len(numerals) > (0.75 if kind == "minor" else 0.9)  # its V has the leading tone


def test_added_sevenths_belong_to_the_key_except_in_dominants():
    rng = random.Random(0)
    for mode, numeral in (("mixolydian", "I"), ("dorian", "IV")):
        names = {harmony.colour(numeral, 0, mode, "jazz", rng).quality for _ in range(30)}
        assert not names & {"maj7", "maj9"}
    assert harmony.colour("V", 0, "minor", "jazz", rng).quality in ("7", "7b9")
    assert harmony.colour("ii7", 0, "major", "plain", rng).quality == "m7"


def test_the_scale_of_a_dominant_in_minor_has_the_leading_tone_and_not_the_seventh():
    scale = harmony.scale(harmony.chord("V", 9), 9, "minor")  # E major in A minor
    assert 8 in scale and 7 not in scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bar", [3.0, 4.0, 6.0])
def test_a_form_fills_time_without_gaps_and_ends_on_the_tonic(kind, bar):
    form, key, _ = planned(kind, bar, bars=40, flavour="jazz" if "jazz" in kind else "plain")
    for first, second in pairwise(form.bars):
        assert first.start + first.length == pytest.approx(second.start)
    assert form.bars[0].start == 0
    assert form.sections[-1].name == "ending" and form.bars[-1].chords[-1][1].root == key.tonic
    assert 28 <= len(form.bars) <= 56
    assert not any(map(progressions.is_new, form.used))


def test_a_section_that_returns_has_the_same_chords():
    form, _, _ = planned("minor", bars=60, flavour="pop")
    by_name = {}
    for section in form.sections:
        chords = [chord for bar in section.bars for _, chord in bar.chords]
        assert by_name.setdefault(section.name, chords) == chords
    assert len(form.sections) > len(by_name)


def themes_of(seed, kind="major", bar=4.0, compound=False, density=1):
    form, key, rng = planned(kind, bar, seed=seed, compound=compound)
    voice = melody.Voice(73, 62, 88)
    manner = melody.Manner(density, compound=compound)
    return form, key, voice, melody.theme(form.sections[1], key, voice, manner, rng)


@pytest.mark.parametrize(
    ("bar", "compound"), [(4.0, False), (3.0, False), (3.0, True), (6.0, True)]
)
def test_melodies_have_chord_tones_on_strong_beats_and_lie_in_scale_and_range(bar, compound):
    for seed in range(8):
        form, key, voice, phrases = themes_of(seed, "minor", bar, compound)
        for note in (note for phrase in phrases for note in phrase):
            chord = chord_at(form, note.start)
            assert voice.low <= note.pitch <= voice.high
            assert note.pitch % 12 in harmony.scale(chord, key.tonic, key.mode)
            if note.start % bar == 0:
                assert note.pitch % 12 in chord.tones


def test_melodies_move_by_step_more_than_by_leap():
    moves = []
    for seed in range(12):
        *_, phrases = themes_of(seed)
        for phrase in phrases:
            moves += [abs(b.pitch - a.pitch) for a, b in pairwise(phrase)]
    assert sum(move <= 4 for move in moves) / len(moves) > 0.6
    assert max(moves) <= 14


def test_phrases_end_with_a_rest_and_on_a_stable_tone():
    for seed in range(8):
        form, _, _, phrases = themes_of(seed)
        for number, phrase in enumerate(phrases):
            stop = form.sections[1].start + 8 * (number + 1)
            assert phrase[-1].length >= 2 and phrase[-1].stop <= stop - 1
            assert phrase[-1].pitch % 12 in chord_at(form, phrase[-1].start).tones[:3]


def test_motifs_return():
    """The rhythm of a first phrase comes again within the section."""
    for seed in range(8):
        *_, phrases = themes_of(seed)
        rhythms = [[note.length for note in phrase] for phrase in phrases]
        assert any(rhythm == rhythms[0] for rhythm in rhythms[1:])


def test_swing_moves_the_off_beat_and_leaves_the_beat():
    notes = [melody.Note(1.0, 0.5, 60, 80), melody.Note(1.5, 0.5, 62, 80)]
    played = melody.perform(notes, melody.Manner(1, swing=True), 80, random.Random(0))
    assert played[0].start == pytest.approx(1, abs=0.06)
    assert played[1].start == pytest.approx(1.667, abs=0.06)


def test_a_theme_that_returns_is_mostly_the_same():
    form, key, rng = planned("major", bars=60)
    name = next(n for n in form.names if sum(s.name == n for s in form.sections) > 1)
    first, second = [s for s in form.sections if s.name == name][:2]
    parts = themes.parts(form, key, [73, 73], melody.Manner(1), loudness=80, silent=set(), rng=rng)
    heard = [
        {
            (round(n.start - section.start, 0), n.pitch)
            for part in parts
            for n in part.notes
            if section.start <= n.start + 0.1 < section.stop
        }
        for section in (first, second)
    ]
    assert len(heard[0] & heard[1]) > 0.5 * len(heard[0])


@pytest.mark.parametrize("kind", ["major", "minor"])
def test_chorales_have_no_parallels_and_keep_their_ranges(kind):
    parallels = steps = 0
    for seed in range(4):
        form, key, rng = planned(kind, seed=seed, bars=24)
        chords = [chord for _, chord in form.chords()]
        chain = chorale.lead(chords, key, rng)
        for voicing, chord in zip(chain, chords, strict=True):
            assert voicing[0] % 12 == chord.bass and list(voicing) == sorted(voicing)
            assert all(
                low <= p < high for p, (low, high) in zip(voicing, chorale.RANGES, strict=True)
            )
            assert {p % 12 for p in voicing} <= set(chord.tones)
        parallels += sum(chorale.parallels(a, b) for a, b in pairwise(chain))
        steps += len(chain) - 1
    assert parallels <= 0.02 * steps


def test_parallels_are_found():
    assert chorale.parallels((48, 55, 64, 72), (50, 57, 65, 74)) == 2
    assert chorale.parallels((48, 55, 64, 72), (48, 55, 64, 72)) == 0


@pytest.mark.parametrize("line", sorted(textures._BASS))
@pytest.mark.parametrize("bar", [3.0, 4.0, 6.0])
def test_bass_lines_begin_their_bars_on_the_chords_bass(line, bar):
    form, _, rng = planned("minor", bar)
    part = textures.bass(form, 33, line, loudness=80, rng=rng)
    on_bar = [note for note in part.notes if note.start % bar == 0]
    assert all(note.pitch % 12 == chord_at(form, note.start).bass for note in on_bar)
    assert max(note.stop for note in part.notes) <= form.stop + 1e-6
    assert all(28 <= note.pitch <= 64 for note in part.notes)


@pytest.mark.parametrize(("bar", "compound"), [(4.0, False), (3.0, False), (3.0, True)])
def test_figures_consist_of_the_chords_tones(bar, compound):
    form, _, rng = planned("minor", bar, compound=compound)
    parts = [
        textures.keyboard(form, 0, compound=compound, loudness=70, rng=rng),
        textures.arpeggio(form, 46, step=0.5, loudness=70, rng=rng),
        textures.hits(form, 0, "soft", loudness=70, rng=rng),
        textures.pad(form, 48, centre=60, loudness=60),
    ]
    for part in parts:
        for note in part.notes:
            chord = chord_at(form, note.start)
            assert note.pitch % 12 in {*chord.tones, chord.bass}


def test_drums_play_from_the_start_to_the_last_bar():
    form, _, rng = planned()
    kit = drums.kit(form, beat=None, loudness=80, rng=rng)
    hands = drums.hand_percussion(form, loudness=80, rng=rng)
    for part in (kit, hands):
        starts = sorted(note.start for note in part.notes)
        assert starts[0] < 0.3 and starts[-1] >= form.bars[-1].start - 0.1
        assert max(b - a for a, b in pairwise(starts)) < 4
        assert all(35 <= note.pitch <= 82 for note in part.notes)


def test_every_style_can_be_composed():
    for style in styles.STYLES.values():
        assert style.tempo[0] < style.tempo[1] and style.leads
        for kind in style.kinds.split():
            assert kind.replace("-", " ") in progressions.LOOPS
    assert set(styles.FILES) == set(styles.STYLES)
    assert styles.style_of("mine/slow_disco2").name == "slow disco"
