"""Captions of a clip: titles, lists, sentences and requests, each about some of what is known."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_pipeline.captioning import words
from data_pipeline.captioning.ensemble import ensemble, sounds_like
from data_pipeline.captioning.words import Dice, Words, a, fitting, listed

# The fields of a truth that captions name. The weights say how often.
NAMEABLE = dict(
    tempo=6,
    meter=4,
    key=4,
    mode=2,
    instruments=7,
    drums=5,
    bass=3,
    melody=3,
    density=2,
    register=2,
    dynamics=4,
    chords=2,
    style=6,
    section=3,
    title=1,
)
_TOGETHER = ("instruments", "melody", "bass", "drums")  # these share one phrase
_WORDS = {field: getattr(words, field) for field in NAMEABLE if field not in _TOGETHER}
# Styles that are also names of pieces; others need a noun, as in "a rock tune".
# fmt: off
_FORMS = {
    "waltz", "tango", "samba", "rumba", "bolero", "mambo", "polka", "march", "ballad", "blues",
    "beguine", "foxtrot", "minuet", "gavotte", "sarabande", "jig", "reel", "hornpipe", "hymn",
    "lullaby", "nocturne", "rag", "shuffle", "nova", "cha-cha", "mazurka", "etude", "prelude",
    "serenade", "barcarolle", "chorale", "fugue", "sonata", "toccata", "aria",
}
# fmt: on
_PIECE = ("piece", "piece", "tune", "track")
_SMALL = {"a", "an", "the", "in", "on", "at", "of", "for", "with", "over", "and", "or", "by", "bpm"}
_SMALL |= {"without", "from"}
_CLOSE = {"in", "with", "without", "for", "at", "over", "on", "called", "titled", "from", "led"}
_CLOSE |= {"played", "marked", "beginning", "by"}  # these need no comma before them
_GENERAL = (
    "instrumental music",
    "a piece of instrumental music",
    "an instrumental",
    "an instrumental piece",
    "something instrumental",
    "Instrumental track.",
    "play me some music",
    "some music",
)


@dataclass(frozen=True)
class Written:
    """A caption and the fields of the truth that it names."""

    text: str
    fields: frozenset[str]


def captions(truth: dict, key: str) -> tuple[str, ...]:
    """The texts of `write`."""
    return tuple(written.text for written in write(truth, key))


def write(truth: dict, key: str) -> tuple[Written, ...]:
    """4 to 8 distinct captions of one clip, the same ones for the same truth and key.

    All that they say is in the truth (see `NAMEABLE` for its fields). One names 1 to 3 fields, the
    others 4 to 8: a model learns little from captions that leave most out. Without a field to name,
    the captions are general.
    """
    dice = Dice(key)
    fields = [field for field in NAMEABLE if field in truth and _can_name(truth, field)]
    count = 4 + dice.below(5)
    if not fields:
        return tuple(Written(text, frozenset()) for text in dice.shuffled(_GENERAL)[:4])
    found: dict[str, Written] = {}
    for _ in range(200):  # attempts: the same text may come again
        low, high = {0: (1, 3), 1: (6, 8)}.get(len(found), (4, 7))
        number = low + dice.below(high - low + 1)
        written = _one(truth, _draw(fields, number, dice), dice)
        found.setdefault(written.text.lower().strip("."), written)
        if len(found) == count:
            break
    return tuple(dice.shuffled(list(found.values())))


def _can_name(truth: dict, field: str) -> bool:
    value = truth[field]
    match field:
        case "tempo":
            return value > 0
        case "drums":  # timpani are drums too: with them, "no drums" would confuse
            return bool(value) or not sounds_like(truth, "drum", "timpani", " tom")
        case "bass":
            return bool(value) or not sounds_like(truth, "bass")
        case "instruments":
            return bool(value) or truth.get("drums") is True
        case "melody":
            return True
        case "density":
            return bool(words.texture(truth))
        case "section":
            return 0 < len(words.section_name(truth).split()) <= 3
        case "style" | "title":
            return 0 < len(value.split()) <= {"style": 4, "title": 6}[field]
    return bool(value)


def _draw(fields: list[str], number: int, dice: Dice) -> set[str]:
    pool = [field for field in fields for _ in range(NAMEABLE[field])]
    drawn: set[str] = set()
    while pool and len(drawn) < number:
        field = dice.pick(pool)
        drawn.add(field)
        pool = [other for other in pool if other != field]
    return drawn


class _Draft:
    """The words for the chosen fields; the forms take from them what they need."""

    def __init__(self, truth: dict, chosen: set[str], dice: Dice):
        self.truth, self.dice = truth, dice
        self.absent = [
            noun
            for field, noun in (("drums", "drums"), ("bass", "bass"), ("melody", "melody"))
            if field in chosen and not truth[field]
        ]
        self.players = ensemble(truth, chosen, dice)
        named = {f for f in chosen if f not in _TOGETHER} | set(self.absent)
        if self.players:
            named |= self.players.fields
            if "drums" in self.players.fields:  # "solo piano" says that there are none
                self.absent = [noun for noun in self.absent if noun != "drums"]
        if "key" in named and truth.get("mode"):
            named.add("mode")
        self.fields = frozenset(named)
        skipped = {"mode"} if "key" in named else set()
        self.words: dict[str, Words] = {
            field: _WORDS[field](truth, dice)
            for field in NAMEABLE
            if field in named and field in _WORDS and field not in skipped
        }

    def absence(self) -> str:
        """What is absent, as in "without drums or bass"."""
        absent = listed(self.absent, "or")
        return self.dice.pick((f"without {absent.replace('mel', 'a mel')}", f"with no {absent}"))

    def lacks(self) -> str:
        verb = "are" if self.absent[0] == "drums" else "is"
        return f"there {verb} no {listed(self.absent, 'or')}"


def _one(truth: dict, chosen: set[str], dice: Dice) -> Written:
    draft = _Draft(truth, chosen, dice)
    forms = [_list, _list, _sentence, _sentence, _request, _fragment]
    if len(draft.fields) < 6:
        forms += [_title, _request]
    return Written(dice.pick(forms)(draft), draft.fields)


def _list(draft: _Draft) -> str:
    """bossa nova, nylon guitar, drums, 96 bpm, A minor"""
    tags = [w.tag for w in draft.words.values()]
    tags += draft.players.tags if draft.players else ()
    tags += [f"no {noun}" for noun in draft.absent]
    tags = draft.dice.shuffled(tags)
    if "style" in draft.words and draft.dice.chance(0.6):
        tags.sort(key=lambda tag: tag != draft.words["style"].tag)
    text = ", ".join(tags)
    return capital(text) if draft.dice.chance(0.2) else text


def _title(draft: _Draft) -> str:
    """Slow Bossa Nova in A Minor"""
    text = _prose(draft, set(), article=False)
    return capital(" ".join(w if w.strip(",") in _SMALL else capital(w) for w in text.split()))


def _sentence(draft: _Draft) -> str:
    """A calm waltz in three for flute over piano and strings, without drums."""
    dice = draft.dice
    if draft.players and dice.chance(0.25):
        return capital(_players_first(draft)) + "."
    sayable = [field for field in draft.words if field not in ("style", "title")]
    number = dice.pick((0, 1, 2, 3) if len(draft.fields) > 4 else (0, 0, 1))
    said = set(dice.shuffled(sayable)[:number]) if len(draft.fields) > 2 else set()
    clauses = [draft.words[field].says for field in draft.words if field in said]
    if draft.players and len(draft.fields) > 2 and dice.chance(0.2):
        said.add("players")
        clauses.insert(0, draft.players.says)
    if draft.absent and len(draft.fields) > 2 and dice.chance(0.3):
        said.add("absent")
        clauses.append(draft.lacks())
    texts = [_prose(draft, said), *(listed(clauses[n : n + 2]) for n in range(0, len(clauses), 2))]
    return " ".join(f"{capital(text)}." for text in texts)


def _request(draft: _Draft) -> str:
    """play me something fast with brass"""
    start, end = draft.dice.pick(
        (
            ("play me ", ""),
            ("give me ", ""),
            ("make ", ""),
            ("make me ", ""),
            ("write ", ""),
            ("I want ", ""),
            ("I need ", ""),
            ("I'd like ", ", please"),
            ("I'd like to hear ", ""),
            ("I'm looking for ", ""),
            ("let's hear ", ""),
            ("can you play ", "?"),
            ("could you write ", "?"),
            ("could you make ", ", please?"),
            ("please compose ", ""),
            ("please play ", ""),
        )
    )
    text = start + _prose(draft, set(), something=draft.dice.chance(0.6)) + end
    return capital(text) + ("" if text.endswith("?") else ".") if draft.dice.chance(0.3) else text


def _fragment(draft: _Draft) -> str:
    """slow solo piano in A minor"""
    if draft.players and draft.dice.chance(0.5):
        return _players_first(draft)
    return _prose(draft, set(), article=False)


def _players_first(draft: _Draft) -> str:
    """flute over piano and strings, slow and soft, in A minor"""
    befores = [w.before for w in draft.words.values() if w.before]
    afters = [w.after for w in draft.words.values() if not w.before]
    afters = draft.dice.shuffled(afters) + ([draft.absence()] if draft.absent else [])
    if befores:
        afters.insert(draft.dice.below(2), listed(befores))
    return ", ".join([draft.players.core, *afters])


def _prose(draft: _Draft, said: set[str], article: bool = True, something: bool = False) -> str:
    """A noun with adjectives before it and phrases after it, for all fields but `said`."""
    dice, truth = draft.dice, draft.truth
    left = {field: w for field, w in draft.words.items() if field not in said}
    befores = _adjectives(draft, left)
    section = words.section_name(truth) if left.pop("section", None) else ""
    nouns = _PIECE if section else ("something",) if something else (*_PIECE, "music")
    if section and " " not in section and dice.chance(0.6 if article else 0.9):
        nouns, section = (section,), ""
    head = _noun(draft, left, nouns)
    if head == "something":
        text = f"something {listed(befores)}" if befores else head
    else:
        text = " ".join([", ".join(befores), head]).strip()
        text = a(text) if (article or section) and not head.lower().endswith("music") else text
    text = f"the {section} of {text}" if section else text
    afters = [left.pop("title").after] if "title" in left else []
    near = [draft.players.after] if draft.players and "players" not in said else []
    near += [left.pop(field).after for field in ("key", "mode", "meter") if field in left]
    afters += dice.shuffled(near) + dice.shuffled([w.after for w in left.values()])
    if draft.absent and "absent" not in said:
        afters.append(draft.absence())
    return joined(text, afters)


def _adjectives(draft: _Draft, left: dict[str, Words]) -> list[str]:
    """At most two adjectives, whose fields are taken out of `left`."""
    dice, truth = draft.dice, draft.truth
    found = []
    if "tempo" in left and "dynamics" in left and dice.chance(0.4):
        moods = [
            mood
            for mood, level, *span in words.MOODS
            if level == truth["dynamics"] and fitting([(mood, *span)], truth["tempo"])
        ]
        if moods:
            found.append(dice.pick(moods))
            del left["tempo"], left["dynamics"]
    for field in dice.shuffled([f for f in left if left[f].before]):
        if len(found) < 2 and dice.chance(0.7):
            found.append(left.pop(field).before)
    return found


def _noun(draft: _Draft, left: dict[str, Words], nouns: Sequence[str]) -> str:
    """What the phrase is about, with the style before it."""
    dice, truth = draft.dice, draft.truth
    general = nouns[0] in ("something", *_PIECE)
    if "style" in left:
        del left["style"]
        style = words.one_line(truth["style"])
        if style.lower().endswith("music"):
            return style
        if general and style.split()[-1].lower() in _FORMS and dice.chance(0.8):
            return style
        return f"{style} {dice.pick(_PIECE if nouns[0] == 'something' else nouns)}"
    if "meter" in left and truth["meter"] == "3/4" and "style" not in truth and dice.chance(0.5):
        del left["meter"]
        return "waltz" if general else f"waltz {nouns[0]}"
    return dice.pick(nouns)


def joined(text: str, afters: Iterable[str]) -> str:
    """The phrases after a noun: up to two without a comma, where that reads well."""
    last, close = "", 2
    for after in afters:
        word = after.split()[0]
        clear = not {word, "and", "over"} & set(last.split()) and "," not in last
        if close and clear and word in _CLOSE:
            text, close = f"{text} {after}", close - 1
        else:
            text, close = f"{text}, {after}", 0
        last = after
    return text


def capital(text: str) -> str:
    """The text with a capital at its start, unless it starts with a Roman numeral."""
    numeral = re.match("[ivIV]+-[ivIV]", text)
    return text if numeral else text[:1].upper() + text[1:]
