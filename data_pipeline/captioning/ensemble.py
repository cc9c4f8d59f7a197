"""Who plays: instruments, melody, bass and drums as one phrase."""

from dataclasses import dataclass

from data_pipeline.captioning.instruments import everyday, family, family_words, plural
from data_pipeline.captioning.words import Dice, a, listed

DRUMS = ("drums", "drums", "drum kit")
TOUCH, MOSTLY = (
    0.08,
    0.6,
)  # shares of sounding time: a background below the one, most above the other


@dataclass(frozen=True)
class Ensemble:
    core: str  # "flute over piano and strings"
    after: str  # "with a flute melody over piano and strings"
    tags: tuple[str, ...]  # "flute melody", "piano", "strings"
    says: str  # "flute plays the melody over piano and strings"
    fields: frozenset[str]  # what it names


def sounds_like(truth: dict, *parts: str) -> bool:
    """Whether a word for a sounding instrument contains one of `parts`."""
    names = [i["name"] for i in truth.get("instruments", ())]
    return any(p in word for n in names for word in (n.lower(), *everyday(n)) for p in parts)


def _clash(word: str, others: list[str]) -> bool:
    """Whether one name contains the other, as "nylon guitar" contains "guitar"."""
    return any(f" {word} " in f" {o} " or f" {o} " in f" {word} " for o in others)


class _Cast:
    """Words for a part of the instruments, and which of them these words cover."""

    def __init__(self, sounding: list[dict], taken: list[str], dice: Dice):
        self.words, self.minor, self.covered = list(taken), [], set()
        self._sounding, self._dice = sounding, dice

    def add(self, instrument: dict):
        name = instrument["name"]
        if name in self.covered:
            return
        group = [i["name"] for i in self._sounding if family(i["name"]) == family(name)]
        whole = family_words(name, len(group))
        options = everyday(name)
        together = whole and self._dice.chance(0.4 if len(group) > 1 else 0.12)
        if together and not self.covered & set(group):
            options = whole
        else:
            group = [name]
        options = [o for o in options if not _clash(o, self.words + self.minor)]
        if not options:
            return
        word = self._dice.pick(options)
        small = sum(i["share"] for i in self._sounding if i["name"] in group) < TOUCH
        (self.minor if small and self._dice.chance(0.5) else self.words).append(word)
        self.covered |= set(group)


def ensemble(truth: dict, chosen: set[str], dice: Dice) -> Ensemble | None:
    """The phrase for what `chosen` has of "instruments", "melody", "bass" and "drums"."""
    sounding = truth.get("instruments", [])
    leads = bool("melody" in chosen and truth["melody"])
    if "instruments" in chosen and not sounding:
        core = dice.pick(("drums alone", "only drums", "just drums"))
        return Ensemble(core, f"for {core}", (core,), f"there are {core}", frozenset({"drums"}))
    if "instruments" in chosen and len(sounding) == 1 and truth.get("drums") is False:
        name = sounding[0]["name"]
        if (not truth.get("bass") or family(name) == "bass") and dice.chance(0.6):
            return _solo(dice.pick(everyday(name)), dice)

    lead = dice.pick(everyday(truth["melody"])) if leads else ""
    others = [i for i in sounding if not leads or i["name"] != truth["melody"]]
    cast = _Cast(others, [lead] if leads else [], dice)
    if "instruments" in chosen and others:
        count = dice.pick((1, 2, 2, 3, 3, 4))
        if dice.chance(0.3):
            drawn = dice.shuffled(range(len(others)))[:count]
            others = [others[n] for n in sorted(drawn)]
        for instrument in others[:count]:
            cast.add(instrument)
    fields = {"instruments"} if cast.covered else set()
    names = cast.words[leads:]
    has_bass = any(family(n) == "bass" for n in cast.covered) or (
        leads and family(truth["melody"]) == "bass"
    )
    if "bass" in chosen and truth["bass"] and not has_bass and not _clash("bass", cast.words):
        names, has_bass = [*names, "bass"], True
    if truth.get("bass") and has_bass:
        fields |= {"bass"}
    has_drums = bool("drums" in chosen and truth["drums"])
    if has_drums:
        names.append(dice.pick(DRUMS) if names or leads else "drums")
        fields |= {"drums"}
    complete = (
        not cast.minor
        and {i["name"] for i in sounding} <= cast.covered | {truth["melody"] if leads else ""}
        and (has_bass or not truth.get("bass"))
        and (has_drums or not truth.get("drums"))
        and "instruments" in chosen
    )
    items = names + [
        f"{dice.pick(('a touch of', 'a little', 'a hint of'))} {word}" for word in cast.minor
    ]
    tags = (*names, *cast.minor)
    if leads:
        return _led(lead, items, tags, complete, frozenset(fields | {"melody"}), dice)
    if not items:
        return None
    if items == names and len(sounding) > 1 and len(names) == 1 and len(cast.covered) == 1:
        share = next(i["share"] for i in sounding if i["name"] in cast.covered)
        if share > MOSTLY and dice.chance(0.6):
            items = [f"mostly {names[0]}"]
    core = listed(items)
    play = "play" if len(items) > 1 or plural(core) else "plays"
    ways = [f"with {core}", f"for {core}"] if complete else [f"with {core}"]
    says = [f"you can hear {core}", f"it has {core}"]
    if items == names:
        says.append(f"the instruments are {core}" if complete and len(items) > 1 else says[0])
        ways.append(f"played by {core}" if complete else ways[0])
        says.append(f"{core} {play}" if complete else says[0])
    return Ensemble(core, dice.pick(ways), tags, dice.pick(says), frozenset(fields))


def _solo(word: str, dice: Dice) -> Ensemble:
    core = dice.pick((f"solo {word}", f"solo {word}", f"{word} alone", f"unaccompanied {word}"))
    return Ensemble(
        core,
        dice.pick((f"for {core}", f"for {core}", f"for nothing but {word}")),
        (core,),
        dice.pick((f"it is for {core}", f"there is only {word}")),
        frozenset({"instruments", "drums"}),
    )


def _led(lead, items, tags, complete, fields, dice) -> Ensemble:
    """A melody, over the other instruments if there are any."""
    melody = f"{lead} melody"
    if plural(lead) or "lead" in lead:
        melody = f"melody on {lead}"
    plays = dice.pick(("play", "carry") if plural(lead) else ("plays", "carries"))
    if not items:
        return Ensemble(
            dice.pick((melody, f"{lead} in the lead")),
            dice.pick((f"with {a(melody)}", f"with the melody on {lead}", f"led by {lead}")),
            (dice.pick((melody, f"melody: {lead}", f"melody on {lead}")),),
            dice.pick((f"the melody is on {lead}", f"{lead} {plays} the melody")),
            fields,
        )
    rest = listed(items)
    ways = [f"with {lead} over {rest}", f"with {a(melody)} over {rest}"]
    ways.append(f"for {lead} over {rest}" if complete else f"led by {lead}, with {rest}")
    return Ensemble(
        dice.pick((f"{lead} over {rest}", f"{melody} over {rest}")),
        dice.pick(ways),
        (dice.pick((melody, f"melody on {lead}")), *tags),
        f"{lead} {plays} the melody over {rest}",
        fields,
    )
