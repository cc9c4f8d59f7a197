"""What the metadata and the captions of a data set's records say, counted in bounded memory."""

import hashlib
import json
import math
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.captioning.metadata import FIELDS
from data_pipeline.captioning.templates import number_text
from data_pipeline.captioning.writing import NAMEABLE

EXACT = 1000  # distinct texts that are told apart
MOST_FIELDS = 300  # further names of fields are only counted
LONGEST, LONGEST_EXAMPLE = 100, 300  # characters that are kept of a value, of a caption
EXAMPLES = 12
MANY = 100  # records in which something should vary
LONG = 100  # words; longer captions count as this long
# Lower edges of the bins of a report: seconds, LUFS.
DURATIONS = (0, 5, 10, 20, 30, 60, 90, 120, 150, 180, 210, 240, 300, 360, 480, 600, 900, 1800, 3600)
LOUDNESS = tuple(range(-60, 1, 3))
_SETTINGS = {"caption", "captions", "split", "licence", "rightsholder", "territory", "expires"}
_USED = {*FIELDS, *_SETTINGS}  # fields that have an effect
_MEANT = _USED | {*NAMEABLE, "metre", "source", "path", "id", "start", "end", "total", "parts"}
_MEANT |= {"name", "names", "date", "room", "texture", "tonal", "groove", "key_from", "language"}
# One value in all records is no mistake here.
_CONSTANT = {"artist", "album", "game", "source", "soundfont", "room", "key_from", *_SETTINGS}


def lower_edge(value: float, edges: Sequence[float]) -> float:
    """The largest of the rising `edges` that is not above a value; the first one if all are."""
    return edges[max(0, bisect(edges, value) - 1)]


@dataclass
class Frequent:
    """How often each text came, exact for up to 1,000 texts; for more, of the most frequent ones.

    With more, a count is too low by at most 1/1,000 of all that were added (Agarwal et al.,
    "Mergeable summaries", 2012, section 3.1).
    """

    counts: Counter[str] = field(default_factory=Counter)
    more: bool = False  # than 1,000

    def add(self, texts: Iterable[str]) -> None:
        self.counts.update(texts)
        if len(self.counts) > 2 * EXACT:
            least = self.counts.most_common(EXACT + 1)[-1][1]
            self.counts = Counter({t: n - least for t, n in self.counts.items() if n > least})
            self.more = True

    @property
    def distinct(self) -> str:
        """The number of distinct texts in words."""
        more = self.more or len(self.counts) > EXACT
        return f"more than {EXACT:,}" if more else f"{len(self.counts):,}"


@dataclass
class Field:
    """One field of the metadata."""

    records: int = 0  # that have it
    values: Frequent = field(default_factory=Frequent)  # each of a list counts
    numbers: int = 0  # of the values
    low: float = math.inf
    high: float = -math.inf

    def add(self, texts: Iterable[str]) -> None:
        self.records += 1
        self.values.add(texts)
        for text in texts:
            if re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?(e[+-]?\d\d?)?", text):
                self.numbers += 1
                self.low, self.high = min(self.low, float(text)), max(self.high, float(text))


@dataclass
class Statistics:
    records: int = 0
    fields: dict[str, Field] = field(default_factory=dict)
    other_fields: int = 0  # values of fields beyond the first `MOST_FIELDS` names
    captions: int = 0
    without_caption: int = 0  # records
    texts: Frequent = field(default_factory=Frequent)  # captions
    words: Frequent = field(default_factory=Frequent)  # how many captions have each word
    lengths: Counter[int] = field(default_factory=Counter)  # words -> captions
    examples: dict[str, str] = field(default_factory=dict)  # hash -> caption, the smallest hashes

    def add(self, meta: dict[str, Any], captions: Sequence[str]) -> None:
        """Counts a record: its metadata (JSON values) and its captions, "" for none."""
        self.records += 1
        for name, value in meta.items():
            name = name[:LONGEST]
            if not (texts := _texts(value)):
                continue
            if name not in self.fields and len(self.fields) >= MOST_FIELDS:
                self.other_fields += 1
            else:
                self.fields.setdefault(name, Field()).add(texts)
        said = [caption for caption in captions if caption]
        self.captions += len(said)
        self.without_caption += not said
        for caption in said:
            words = re.findall(r"[^\W_](?:[\w'’#/-]*[\w#])?", caption.lower())
            self.lengths[min(len(caption.split()), LONG)] += 1
            self.words.add({word[:LONGEST] for word in words})
            digest = hashlib.sha256(caption.encode(errors="replace")).hexdigest()[:16]
            self.texts.add([digest])
            if len(self.examples) < EXAMPLES or digest < max(self.examples):
                self.examples[digest] = caption[:LONGEST_EXAMPLE]
                self.examples = dict(sorted(self.examples.items())[:EXAMPLES])

    def warnings(self) -> list[str]:
        """Sentences about what is probably a mistake."""
        found = []
        for name, about in self.fields.items():
            if (meant := _meant(name)) is not None:
                found.append(
                    f"The field {name!r} of {about.records:,} records has no effect; rename it if "
                    f"{meant!r} is meant."
                )
            elif about.records >= MANY and about.values.distinct == "1" and name not in _CONSTANT:
                found.append(
                    f"The field {name!r} is {next(iter(about.values.counts))!r} in all "
                    f"{about.records:,} records that have it; check that this is true of each."
                )
        if self.records - self.without_caption >= MANY and self.texts.distinct == "1":
            found.append(
                f"All {self.captions:,} captions are the same, {min(self.examples.values())!r}; "
                "a model can learn nothing from them."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON values, of which `from_json` makes the same statistics."""
        values = vars(self) | {"fields": {name: _plain(each) for name, each in self.fields.items()}}
        return values | {"texts": vars(self.texts), "words": vars(self.words)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Statistics":
        fields = {name: _field(each) for name, each in values["fields"].items()}
        lengths = Counter({int(words): count for words, count in values["lengths"].items()})
        texts, words = _frequent(values["texts"]), _frequent(values["words"])
        return cls(**values | dict(fields=fields, lengths=lengths, texts=texts, words=words))


def _plain(about: Field) -> dict[str, Any]:
    bounds = {} if about.numbers else {"low": None, "high": None}  # JSON has no infinity
    return vars(about) | {"values": vars(about.values)} | bounds


def _field(values: dict[str, Any]) -> Field:
    bounds = {} if values["numbers"] else {"low": math.inf, "high": -math.inf}
    return Field(**values | {"values": _frequent(values["values"])} | bounds)


def _frequent(values: dict[str, Any]) -> Frequent:
    return Frequent(Counter(values["counts"]), values["more"])


def _texts(value: Any) -> list[str]:
    """The values of a field as texts, each once; none where it is missing or empty."""
    found = {}
    for each in value if isinstance(value, list) else [value]:
        each = each["name"] if isinstance(each, dict) and "name" in each else each
        each = number_text(each)
        text = each if isinstance(each, str) else json.dumps(each, default=str)
        text = " ".join(text.split())[:LONGEST]
        if each is not None and text:
            found[text] = None
    return list(found)


def _meant(name: str) -> str | None:
    """The name of a field that a name like `bmp`, `Tempo` or `genres` was probably meant to be."""
    if name in _MEANT:
        return None
    plain = re.sub("[^a-z]", "", name.lower())
    return next((known for known in sorted(_USED) if plain == known or _near(plain, known)), None)


def _near(a: str, b: str) -> bool:
    """Whether one letter is missing, two are swapped, or in a longer word one is another."""
    short, long = sorted((a, b), key=len)
    if len(long) - len(short) == 1:
        return any(long[:n] + long[n + 1 :] == short for n in range(len(long)))
    wrong = [n for n in range(len(a)) if len(a) == len(b) and a[n] != b[n]]
    if len(wrong) == 2 and wrong[1] == wrong[0] + 1:
        return a[wrong[0]] == b[wrong[1]] and a[wrong[1]] == b[wrong[0]]
    return len(wrong) == 1 and len(a) > 4
