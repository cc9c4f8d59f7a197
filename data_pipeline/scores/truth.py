"""The truth about a stretch of a score, from which captions are written."""

import numpy as np
from pretty_midi.constants import INSTRUMENT_CLASSES, INSTRUMENT_MAP

from data_pipeline.scores.reading import DRUMS, Score

HEARD = 0.01  # an instrument with a smaller share of the sounding time is left out
BASSES = range(32, 40)  # the programs of the family "bass"

# How well each pitch class fits a key of C, as listeners rated it: Krumhansl and Kessler, "Tracing
# the dynamic changes in perceived tonal organization", Psychological Review 89 (1982).
_PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
_NAMES = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}


def truth(score: Score, start: float, stop: float) -> dict:
    """What is known about the stretch from `start` to `stop`, in seconds, as JSON values.

    Fields: tempo (beats per minute, the mean over the stretch; a beat is a quarter note, in 6/8,
    9/8 and 12/8 three eighths), meter, key, mode, key_from, instruments, drums, bass, melody,
    density, mean_pitch, register, velocity, dynamics, chords, style, section, title. What is not
    known is absent.
    """
    sidecar = score.sidecar
    notes = score.notes[(score.notes["start"] < stop) & (score.notes["stop"] > start)]
    fields = {name: sidecar[name] for name in ("title", "style", "meter") if name in sidecar}
    if "meter" not in fields and (meter := _longest(score.meters, start, stop)):
        fields["meter"] = meter
    if score.tempos:
        quarters = 1.5 if fields.get("meter") in ("6/8", "9/8", "12/8") else 1.0  # of a beat
        fields["tempo"] = round(_tempo(score.tempos, start, stop) / quarters, 2)
    fields |= _key(score, notes[notes["channel"] != DRUMS], start, stop)
    if len(notes):
        fields |= _playing(score, notes, start, stop)
    if chords := [name for name, _ in _spans(sidecar.get("chords", ()), start, stop)]:
        fields["chords"] = [
            name for place, name in enumerate(chords) if not place or name != chords[place - 1]
        ]
    if section := _longest(sidecar.get("sections", ()), start, stop):
        fields["section"] = section
    return fields


def _playing(score: Score, notes: np.ndarray, start: float, stop: float) -> dict:
    """The fields that are read from the notes which sound in the stretch, at least one."""
    pitched = notes[notes["channel"] != DRUMS]
    struck = notes[notes["start"] >= start]
    instruments = _instruments(pitched, start, stop)
    velocity = float((struck if len(struck) else notes)["velocity"].mean())
    fields = {
        "instruments": instruments,
        "drums": bool((notes["channel"] == DRUMS).any()),
        "bass": any(instrument["family"] == "bass" for instrument in instruments),
        "density": round(len(struck) / (stop - start), 2),
        "velocity": round(velocity, 1),
        "dynamics": "soft" if velocity < 60 else "medium" if velocity < 95 else "loud",
    }
    if "melody" in score.sidecar:
        lead = score.sidecar["melody"]
        fields["melody"] = lead if lead in [each["name"] for each in instruments] else None
    if len(pitched):
        pitch = float(np.average(pitched["pitch"], weights=_sounding(pitched, start, stop)))
        fields["mean_pitch"] = round(pitch, 1)
        fields["register"] = "low" if pitch < 53 else "middle" if pitch < 67 else "high"
    return fields


def _spans(changes, start: float, stop: float, least: float = 0.1) -> list[tuple]:
    """The values that hold in the stretch, each with its seconds there, if at least `least`."""
    spans = []
    for place, (since, value) in enumerate(changes):
        until = changes[place + 1][0] if place + 1 < len(changes) else stop
        if (seconds := min(until, stop) - max(since, start)) >= min(least, stop - start):
            spans.append((value, seconds))
    return spans


def _longest(changes, start: float, stop: float):
    spans = _spans(changes, start, stop)
    return max(spans, key=lambda span: span[1])[0] if spans else None


def _tempo(tempos, start: float, stop: float) -> float:
    """Quarter notes per minute over the stretch; 120 where the file does not say, as in MIDI."""
    spans = _spans([(0.0, 120.0), *tempos], start, stop, least=0.0)
    return sum(tempo * seconds for tempo, seconds in spans) / sum(seconds for _, seconds in spans)


def _key(score: Score, pitched: np.ndarray, start: float, stop: float) -> dict:
    """Key and mode, and where they are from: the sidecar, the key signature or an estimate."""
    if "key" in score.sidecar:
        known = {name: score.sidecar[name] for name in ("key", "mode") if name in score.sidecar}
        return known | {"key_from": "score"}
    if signature := _longest(score.keys, start, stop):
        mode = "minor" if signature.endswith("m") else "major"
        return {"key": signature.removesuffix("m"), "mode": mode, "key_from": "signature"}
    weights = np.bincount(
        pitched["pitch"] % 12, weights=_sounding(pitched, start, stop), minlength=12
    )
    if np.count_nonzero(weights) < 3:
        return {}
    fits = {
        (mode, tonic): np.corrcoef(np.roll(profile, tonic), weights)[0, 1]
        for mode, profile in _PROFILES.items()
        for tonic in range(12)
    }
    mode, tonic = max(fits, key=fits.get)
    return {"key": _NAMES[mode][tonic], "mode": mode, "key_from": "estimated"}


def _sounding(notes: np.ndarray, start: float, stop: float) -> np.ndarray:
    """How long each note sounds in the stretch."""
    return np.minimum(notes["stop"], stop) - np.maximum(notes["start"], start)


def _instruments(pitched: np.ndarray, start: float, stop: float) -> list[dict]:
    """The instruments by falling share of the time in which they sound, whatever the chords."""
    seconds = {}
    for program in np.unique(pitched["program"]):
        notes = pitched[pitched["program"] == program]
        begin, end = np.maximum(notes["start"], start), np.minimum(notes["stop"], stop)
        # The notes are in the order of their beginnings. A note adds what lies after all others.
        covered = np.maximum.accumulate(np.concatenate([[start], end[:-1]]))
        seconds[int(program)] = float(np.maximum(end - np.maximum(begin, covered), 0).sum())
    total = sum(seconds.values())
    heard = {p: each for p, each in seconds.items() if each > 0 and each >= HEARD * total}
    total = sum(heard.values())
    return [
        {
            "name": INSTRUMENT_MAP[program],
            "family": INSTRUMENT_CLASSES[program // 8].lower(),
            "share": round(each / total, 4),
        }
        for program, each in sorted(heard.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
