"""Captions from the metadata of a recording: its names, genre, mood, instruments, tempo and key.

The words are those of a score's captions where a field means the same. Every caption depends on
the fields and a key alone.
"""

import re
from collections.abc import Sequence
from typing import Any

from data_pipeline.captioning import words
from data_pipeline.captioning.instruments import everyday
from data_pipeline.captioning.templates import Template, number_text
from data_pipeline.captioning.words import Dice, Words, a, listed, one_line
from data_pipeline.captioning.writing import capital, joined

MOST = 6  # captions
LONGEST, LONGEST_DESCRIPTION = 80, 600  # characters; longer texts are not named
FIELDS = (
    "title", "artist", "album", "game", "genre", "mood", "instruments", "tags", "tempo", "bpm",
    "key", "mode", "year", "description",
)  # fmt: skip
TEXTS = ("title", "artist", "album", "game", "genre", "mood", "instruments", "tags")
SOUND = {"genre", "mood", "instruments", "tags", "tempo", "key", "mode"}  # not names
MODES = {"major", "minor", "dorian", "phrygian", "lydian", "mixolydian", "aeolian", "locrian"}
SLOWEST, FASTEST = 20, 400  # BPM; other numbers are no tempo
_SHORT = {"m": "minor", "min": "minor", "moll": "minor", "M": "major", "maj": "major"}
_SHORT |= {"dur": "major", **{mode: mode for mode in MODES}}
_SIGNS = {"♯": "#", "sharp": "#", "♭": "b", "flat": "b"}
# What programs write into a field that they do not know.
_UNKNOWN = {
    "", "-", "?", "unknown", "unknown artist", "unknown album", "unknown genre", "unknown title",
    "untitled", "no title", "none", "null", "nan", "n/a", "na", "other", "misc", "various",
    "various artists",
}  # fmt: skip


def composed(fields: dict, key: str, templates: Sequence[Template] = ()) -> tuple[str, ...]:
    """At most 6 distinct captions of a recording; () if nothing is known that can be named.

    The filled `templates` are the captions where any can be filled. Otherwise the first ones are
    the description and the names, and each of the others tells some of what is known, at least one
    of genre, mood, instruments, tags, tempo, key and mode. A field that is missing, empty or of a
    strange type is never named.

    Args:
        fields: JSON values; `FIELDS` are the names that are understood.
        key: of the recording; other keys give other captions.
    """
    dice = Dice(key)
    filled = dict.fromkeys(filter(None, (template.filled(fields) for template in templates)))
    if filled:
        return tuple(dice.shuffled(list(filled))[:MOST])
    facts = _facts(fields)
    first = [facts.pop("description", ""), _names(facts)]
    found = {text.lower().strip("."): text for text in first if text}
    for attempt in range(40 if facts.keys() & SOUND else 0):  # the same text may come again
        number = {0: len(facts), 1: 1 + dice.below(2)}.get(attempt, 3 + dice.below(3))
        chosen = dice.shuffled(list(facts))[:number]
        if SOUND & set(chosen):
            text = _one(facts, chosen, dice)
            found.setdefault(text.lower().strip("."), text)
        if len(found) == MOST:
            break
    return tuple(found.values())


def _facts(fields: dict) -> dict[str, Any]:
    """What can be named: lists of texts, `tempo` in BPM, and texts."""
    facts: dict[str, Any] = {name: _texts(fields.get(name)) for name in TEXTS}
    facts["tempo"] = _tempo(fields.get("tempo")) or _tempo(fields.get("bpm"))
    facts["key"], facts["mode"] = _key(fields.get("key"), fields.get("mode"))
    year = re.match(r"(?:1\d|20)\d\d(?!\d)", "".join(_texts(fields.get("year"))[:1]))
    facts["year"] = year and year[0]
    facts["description"] = "".join(_texts(fields.get("description"), LONGEST_DESCRIPTION)[:1])
    return {name: value for name, value in facts.items() if value}


def _texts(value: Any, longest: int = LONGEST) -> list[str]:
    """The texts of a field that holds one or several; a number is one, as in a title like 1999."""
    found = []
    for each in value if isinstance(value, list) else [value]:
        each = number_text(each)
        if isinstance(each, str):
            text = one_line(re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", " ", each))
            if len(text) <= longest and text.casefold() not in _UNKNOWN:
                found.append(text)
    return list(dict.fromkeys(found))


def _tempo(value: Any) -> float | None:
    """BPM of a number or of a text like "120" or "97.5 BPM"."""
    text = "".join(_texts(value)[:1])
    number = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?) ?(?:bpm)?", text, re.I)
    bpm = float(number[1]) if number else 0.0
    return bpm if SLOWEST <= bpm <= FASTEST else None


def _key(key: Any, mode: Any) -> tuple[str | None, str | None]:
    """The tonic ("Bb") and the mode ("minor") of texts like "B flat minor", "Bbm" and "minor"."""
    mode = mode.strip().lower() if isinstance(mode, str) else None
    mode = mode if mode in MODES else None
    pattern = r"([A-Ga-g])(?:[ -]?(#|♯|b|♭|[Ss]harp|[Ff]lat))?(?:[ -]?([A-Za-z]+))?"
    parts = re.fullmatch(pattern, one_line(key)) if isinstance(key, str) else None
    own = parts and parts[3] and (_SHORT.get(parts[3]) or _SHORT.get(parts[3].lower()))
    if not parts or (parts[3] and not own) or (parts[1].islower() and not own):
        return None, mode  # "a" alone may mean A minor
    sign = (parts[2] or "").lower()
    return parts[1].upper() + _SIGNS.get(sign, sign), own or mode


def _names(facts: dict[str, Any]) -> str:
    """Rain by Ann, jazz, from Rain City"""
    title, artist, genre, game = (
        ", ".join(facts.get(name, ())) for name in ("title", "artist", "genre", "game")
    )
    by = f"{title} by {artist}" if title and artist else title or (artist and f"music by {artist}")
    return ", ".join(part for part in (by, genre, f"from {game}" if game else "") if part)


def _words(name: str, facts: dict[str, Any], dice: Dice) -> Words:
    """One of the facts in words."""
    if name in ("tempo", "key", "mode"):
        return getattr(words, name)(facts, dice)
    if name == "title":
        return words.title({"title": facts["title"][0]}, dice)
    if name == "year":
        year = facts["year"]
        tag = dice.pick((year, f"from {year}", f"{year[:3]}0s"))
        return Words(tag=tag, says=f"it is from {year}", after=f"from {year}")
    drawn = sorted(dice.shuffled(range(len(facts[name])))[: dice.pick((2, 3, 4))])
    texts = [facts[name][n] for n in drawn]
    if name == "instruments":
        texts = list(dict.fromkeys(dice.pick(everyday(text)) for text in texts))
        return Words(
            tag=", ".join(texts),
            says=f"you can hear {listed(texts)}",
            after=f"with {listed(texts)}",
        )
    if name == "mood":
        mood = texts[0].lower()
        return Words(
            tag=", ".join(texts),
            says=f"the mood is {listed(texts).lower()}",
            before="" if " " in mood else mood,
            after=f"with {a(mood)} mood",
        )
    if name == "genre":
        return Words(tag=", ".join(texts), says=f"the genre is {listed(texts)}")
    if name == "tags":
        return Words(tag=", ".join(texts), says=f"it is tagged {listed(texts)}")
    by = {
        "artist": f"by {listed(texts)}",
        "album": f'from the album "{texts[0]}"',
        "game": f"from {dice.pick(('', 'the game '))}{texts[0]}",
    }[name]
    return Words(tag=by, says=f"it is {by}", after=by)


def _one(facts: dict[str, Any], chosen: Sequence[str], dice: Dice) -> str:
    said = [name for name in facts if name in chosen and not (name == "mode" and "key" in chosen)]
    known = {name: _words(name, facts, dice) for name in said}  # a key is named with its mode
    form = dice.pick((_list, _list, _sentence, _sentence, _fragment, _request))
    return form(facts, known, dice)


def _list(facts: dict[str, Any], known: dict[str, Words], dice: Dice) -> str:
    """jazz, piano, double bass, 96 bpm, A minor"""
    tags = dice.shuffled([each.tag for each in known.values()])
    if "genre" in known and dice.chance(0.6):
        tags.sort(key=lambda tag: tag != known["genre"].tag)
    return ", ".join(tags)


def _sentence(facts: dict[str, Any], known: dict[str, Words], dice: Dice) -> str:
    """A calm jazz piece by Ann with piano and double bass. The tempo is slow."""
    apart = ("tags", "year", "tempo", "key", "mood", "instruments")
    said = [name for name in apart if name in known and len(known) > 2]
    said = [name for name in said if name == "tags" or dice.chance(0.25)][:2]
    clauses = [known[name].says for name in said]
    left = {name: each for name, each in known.items() if name not in said}
    texts = [_prose(facts, left, dice, article=True), *([listed(clauses)] if clauses else [])]
    return " ".join(f"{capital(text)}." for text in texts)


def _fragment(facts: dict[str, Any], known: dict[str, Words], dice: Dice) -> str:
    """calm jazz piece with piano and double bass, in A minor"""
    return _prose(facts, known, dice, article=False)


def _request(facts: dict[str, Any], known: dict[str, Words], dice: Dice) -> str:
    """play me a calm jazz piece with piano and double bass"""
    start, end = dice.pick(
        (("play me ", ""), ("make me ", ""), ("I'd like ", ", please"), ("can you play ", "?"))
    )
    return start + _prose(facts, known, dice, article=True) + end


def _prose(facts: dict[str, Any], known: dict[str, Words], dice: Dice, article: bool) -> str:
    """A noun with adjectives before it and phrases after it."""
    left = dict(known)
    befores = [left.pop(name).before for name in ("mood", "tempo") if _adjective(left, name, dice)]
    noun, genre = dice.pick(("piece", "tune", "track", "music")), ""
    if "genre" in left:
        del left["genre"]
        genre = dice.pick(facts["genre"])
    if genre.lower().endswith("music"):
        genre, noun = "", genre
    text = " ".join(filter(None, (", ".join(befores), genre, noun)))
    text = a(text) if article and not noun.lower().endswith("music") else text
    names = [left.pop(name).after for name in ("title", "artist") if name in left]
    rest = [each.after or f"tagged {each.tag}" for each in left.values()]
    return joined(text, names + dice.shuffled(rest))


def _adjective(left: dict[str, Words], name: str, dice: Dice) -> bool:
    return name in left and bool(left[name].before) and dice.chance(0.7)
