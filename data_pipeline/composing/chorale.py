"""Four voices that move by the rules of part writing: chorales."""

import itertools

from data_pipeline.composing import harmony
from data_pipeline.composing.forms import Form, Key
from data_pipeline.composing.notes import Note

# Bass, tenor, alto and soprano.
RANGES = ((40, 60), (48, 67), (55, 74), (60, 79))
Voicing = tuple[int, int, int, int]


def voicings(chord: harmony.Chord, leading: int | None) -> list[Voicing]:
    """All spacings of a chord. The fifth may be missing; no leading tone is doubled."""
    tones = chord.tones if len(chord.tones) < 5 else [chord.tones[i] for i in (0, 1, 3, 4)]
    needed = {tone for i, tone in enumerate(tones) if i != 2}
    lows = [pitch for pitch in range(*RANGES[0]) if pitch % 12 == chord.bass]
    others = [[p for p in range(*r) if p % 12 in tones] for r in RANGES[1:]]
    found = []
    for bass, (tenor, alto, soprano) in itertools.product(lows, itertools.product(*others)):
        if not bass <= tenor < alto < soprano or soprano - alto > 12 or alto - tenor > 12:
            continue
        classes = [pitch % 12 for pitch in (bass, tenor, alto, soprano)]
        if needed <= set(classes) and (leading is None or classes.count(leading) < 2):
            found.append((bass, tenor, alto, soprano))
    return found


def parallels(before: Voicing, after: Voicing) -> int:
    """How many pairs of voices move in parallel fifths or octaves."""
    count = 0
    for i, j in itertools.combinations(range(4), 2):
        interval = (before[j] - before[i]) % 12
        same = (after[j] - after[i]) % 12 == interval and interval in (0, 7)
        count += same and before[i] != after[i]
    return count


def _cost(before: Voicing, after: Voicing, leading: int | None, tonic: int) -> float:
    moves = [abs(b - a) for a, b in zip(before, after, strict=True)]
    cost = 0.4 * moves[0] + sum(moves[1:]) + 4 * sum(move > 7 for move in moves[1:])
    cost += 100 * parallels(before, after)
    # The leading tone rises to the tonic where the next chord has it.
    for a, b in zip(before[1:], after[1:], strict=True):
        if leading is not None and a % 12 == leading and tonic in (p % 12 for p in after):
            cost += 0 if b - a in (0, 1) else 6
    # No voice crosses where its neighbour was.
    cost += 10 * sum(after[i] > before[i + 1] or after[i + 1] < before[i] for i in range(3))
    return cost


def lead(chords: list[harmony.Chord], key: Key, rng) -> list[Voicing]:
    """The cheapest chain of voicings, found by dynamic programming over the best few of each."""
    leading = (key.tonic - 1) % 12
    centre = rng.choice((67, 69, 71))
    layers, costs, came = [], [], []
    for number, chord in enumerate(chords):
        options = voicings(chord, leading if leading in chord.tones else None)
        options = options or voicings(chord, None)
        target = centre + 4 * ((number % 8) - 3.5) / 4 * (1 if number % 16 < 8 else -1)
        options.sort(key=lambda v: abs(v[3] - target) + 0.3 * abs(v[2] - v[1] - 5))
        layers.append(options[:24])
        own = [0.4 * abs(v[3] - target) for v in layers[-1]]
        if not costs:
            costs.append(own)
            continue
        steps = [
            min(
                (cost + _cost(before, after, leading, key.tonic), i)
                for i, (before, cost) in enumerate(zip(layers[-2], costs[-1], strict=True))
            )
            for after in layers[-1]
        ]
        came.append([i for _, i in steps])
        costs.append([cost + extra for (cost, _), extra in zip(steps, own, strict=True)])
    at = min(range(len(costs[-1])), key=costs[-1].__getitem__)
    chain = [layers[-1][at]]
    for back, layer in zip(reversed(came), reversed(layers[:-1]), strict=True):
        at = back[at]
        chain.append(layer[at])
    return chain[::-1]


def voices(form: Form, key: Key, *, moving: bool, loudness: int, rng) -> list[list[Note]]:
    """The notes of soprano, alto, tenor and bass.

    Args:
        moving: some voices pass by step to their next note instead of holding.
    """
    chords = form.chords()
    stops = [start for start, _ in chords[1:]] + [form.stop]
    chain = lead([chord for _, chord in chords], key, rng)
    result: list[list[Note]] = [[], [], [], []]
    for i, ((start, chord), stop) in enumerate(zip(chords, stops, strict=True)):
        for voice in range(4):
            pitch, length = chain[i][voice], stop - start
            velocity = loudness + (6 if voice == 3 else 0) + rng.randint(-3, 3)
            following = chain[i + 1][voice] if i + 1 < len(chain) else pitch
            if moving and length >= 2 and abs(following - pitch) in (3, 4) and rng.random() < 0.7:
                scale = harmony.scale(chord, key.tonic, key.mode)
                between = [
                    p
                    for p in range(min(pitch, following) + 1, max(pitch, following))
                    if p % 12 in scale
                ]
                if between:
                    passing = between[len(between) // 2]
                    result[voice].append(Note(start + length - 1, 1, passing, velocity - 4))
                    length -= 1
            # A long note is struck again at the bar line, as singers and bows do.
            result[voice].append(Note(start, length * 0.99, pitch, velocity))
    return result[::-1]
