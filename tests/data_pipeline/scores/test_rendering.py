import numpy as np
import pretty_midi
import pytest

from data_pipeline.scores.reading import read
from data_pipeline.scores.rendering import LOUDNESS, PEAK, RATE, TAIL, _loudness, open_soundfont
from data_pipeline.scores.rendering import render as render_score
from data_pipeline.sources.midi import DEFAULT_SOUNDFONT
from jen1_numpy.errors import Refusal
from tests.data_pipeline.scores.pieces import C_MAJOR, midi, part, write

FLUTE, ORGAN, BASS = 73, 16, 33


@pytest.fixture(scope="module")
def font():
    return open_soundfont(DEFAULT_SOUNDFONT)


@pytest.fixture
def render(font, tmp_path):
    def function(*parts, room=0.0, id="a.mid", **sidecar):
        piece = write(tmp_path / "a.mid", *parts, room=room, **sidecar)
        return render_score(read(piece, id), font)

    return function


def level(audio, start=0.0, stop=None):
    stretch = audio[round(start * RATE) : None if stop is None else round(stop * RATE)]
    return float(np.sqrt(np.sum(stretch.astype(np.float64) ** 2) / max(1, stretch.size)))


def pitch(audio, start, stop):
    stretch = audio[round(start * RATE) : round(stop * RATE)].sum(axis=1)
    spectrum = np.abs(np.fft.rfft(stretch * np.hanning(len(stretch)), 1 << 17))
    strongest = np.argmax(spectrum) * RATE / (1 << 17)
    return 69 + 12 * np.log2(strongest / 440)


def change(instrument, number, value, time=0.0):
    instrument.control_changes.append(pretty_midi.ControlChange(number, value, time))
    return instrument


def test_each_note_has_its_pitch_at_its_time(render):
    pitches = [pitch + 12 for pitch in C_MAJOR]
    audio = render(part(FLUTE, pitches))
    for place, expected in enumerate(pitches):
        heard = pitch(audio, 0.5 * place + 0.1, 0.5 * place + 0.4)
        assert heard == pytest.approx(expected, abs=0.3)


def test_a_note_begins_to_sound_when_the_score_says(render):
    audio = render(part(ORGAN, [60, 67], start=1.0, each=2.0, length=1.0))
    assert level(audio, 0, 0.995) == 0
    assert level(audio, 1.0, 1.05) > 0.1 * level(audio, 1.1, 1.9) > 0.001
    assert level(audio, 2.5, 2.995) < 1e-3 * level(audio, 1.1, 1.9)  # the rest
    assert level(audio, 3.0, 3.05) > 0.1 * level(audio, 3.1, 3.9)


def test_the_music_ends_when_it_has_died_away(render):
    audio = render(part(ORGAN, [60], each=2.0))
    assert 2.0 <= len(audio) / RATE < 3.0
    assert 2.5 < len(render(part(ORGAN, [60], each=2.0), room=1.0)) / RATE < 2.0 + TAIL
    assert len(render(part(0, [36], each=0.5))) / RATE > 0.6  # a piano's string rings on


@pytest.mark.parametrize(("value", "side"), [(0, 0), (127, 1)])
def test_pan_moves_an_instrument_to_its_side(render, value, side):
    audio = render(change(part(ORGAN, [60]), 10, value))
    loud, quiet = np.abs(audio[:, side]).max(), np.abs(audio[:, 1 - side]).max()
    assert loud > 0.1 and quiet < 0.02 * loud


def test_instruments_without_pan_are_spread_and_the_bass_and_drums_are_not(render):
    def balance(*instruments):
        """How much louder the right side is, in dB, in each second."""
        audio = render(*instruments)
        powers = [np.square(audio[i * RATE : (i + 1) * RATE]).mean(axis=0) for i in range(4)]
        return [10 * np.log10(power[1] / power[0]) for power in powers]

    parts = [part(p, [48], start=i, each=0.9) for i, p in enumerate((ORGAN, FLUTE, BASS))]
    drums = part(0, [38], start=3.0, each=0.9, is_drum=True)
    organ, flute, bass, snare = balance(*parts, drums)
    assert min(organ, flute) < -3 and max(organ, flute) > 3
    assert abs(bass) < 1 and abs(snare) < 3
    organ, flute, *_ = balance(change(parts[0], 10, 30), *parts[1:], drums)
    assert organ < -3 and abs(flute) < 1.5  # the file places its instruments itself


def test_volume_and_expression_are_obeyed(render):
    for number in (7, 11):
        instrument = part(ORGAN, [60, 60], each=1.0)
        audio = render(change(change(instrument, number, 100), number, 50, time=1.0))
        ratio = level(audio, 1.2, 1.8) / level(audio, 0.2, 0.8)
        assert ratio == pytest.approx(1 / 8, rel=0.05)


def test_the_pitch_wheel_is_obeyed(render):
    instrument = part(FLUTE, [69], each=2.0)
    instrument.pitch_bends.append(pretty_midi.PitchBend(8191, 1.0))
    audio = render(instrument)
    assert pitch(audio, 0.2, 0.9) == pytest.approx(69, abs=0.3)
    assert pitch(audio, 1.2, 1.9) == pytest.approx(71, abs=0.3)


def test_the_pedal_lets_a_note_sound_on(render):
    held = change(change(part(ORGAN, [60, 64], each=1.0, length=0.3), 64, 127), 64, 0, time=0.9)
    audio = render(held)
    assert level(audio, 0.5, 0.85) > 0.5 * level(audio, 0.05, 0.3)
    assert level(audio, 1.5, 1.85) < 1e-2 * level(audio, 1.05, 1.3)


def test_drums_sound_like_drums(render):
    audio = render(part(0, [42], is_drum=True))  # a closed hi-hat, which has no low frequencies
    spectrum = np.abs(np.fft.rfft(audio[:RATE].sum(axis=1), RATE))
    assert spectrum[5000:].mean() > 2 * spectrum[50:500].mean()


@pytest.mark.parametrize("velocity", [20, 120])
@pytest.mark.parametrize("room", [0.0, 1.0])
def test_the_loudness_hardly_varies_and_nothing_is_clipped(render, velocity, room):
    parts = [part(0, [pitch] * 4, velocity=velocity) for pitch in (48, 60, 64, 67, 72)]
    audio = render(*parts, part(0, [36, 38] * 2, is_drum=True, velocity=velocity), room=room)
    assert audio.dtype == np.float32 and audio.shape[1] == 2
    assert 0.2 < np.abs(audio).max() <= PEAK + 1e-6
    assert _loudness(audio) == pytest.approx(LOUDNESS, abs=0.1)


def test_the_loudness_of_a_sine_is_that_of_the_standard():
    time = np.arange(2 * RATE) / RATE
    sine = 0.1 * np.sin(2 * np.pi * 997 * time)
    assert _loudness(np.stack([sine, sine], axis=1)) == pytest.approx(-20, abs=0.1)
    assert _loudness(np.stack([sine, 0 * sine], axis=1)) == pytest.approx(-23, abs=0.1)


def test_a_room_differs_on_both_sides_and_is_the_same_each_time(render):
    note = part(ORGAN, [60], each=0.5)
    dry, wet, again = render(note), render(note, room=0.8), render(note, room=0.8)
    tail = wet[RATE : RATE + RATE // 2]
    assert level(tail) > 1e-3 and abs(np.corrcoef(tail.T)[0, 1]) < 0.5
    assert level(dry, 1.0) == 0 or len(dry) < RATE
    np.testing.assert_array_equal(wet, again)
    assert not np.array_equal(render(note, room=0.8, id="b.mid"), wet)


def test_what_is_no_soundfont_is_refused(tmp_path):
    whole, path = DEFAULT_SOUNDFONT.read_bytes(), tmp_path / "a.sf2"
    # A shorter file whose header admits it ends before its instruments are listed.
    admitted = whole[:4] + (100_000).to_bytes(4, "little") + whole[8:100_008]
    for content in (b"", b"no soundfont", midi(b""), whole[: len(whole) // 2], admitted):
        path.write_bytes(content)
        with pytest.raises(Refusal, match=r"a\.sf2"):
            open_soundfont(path)
    with pytest.raises(Refusal, match=r"b\.sf2"):
        open_soundfont(tmp_path / "b.sf2")


def test_a_missing_instrument_is_refused_and_not_replaced(tmp_path):
    class Piano:
        def get_preset_index(self, bank, program):
            return 0 if (bank, program) == (0, 0) else -1

    for instrument, missing in (
        (part(FLUTE, [60]), "no program 74"),
        (part(0, [36], is_drum=True), "no drum kit"),
    ):
        score = read(write(tmp_path / "a.mid", instrument), "a.mid")
        with pytest.raises(Refusal, match=missing):
            render_score(score, Piano())
