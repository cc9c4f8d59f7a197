import json
import random
import re
from pathlib import Path

import pytest

from data_pipeline.captioning.metadata import FIELDS, composed
from data_pipeline.captioning.templates import Template, read_templates
from data_pipeline.captioning.words import ITALIAN, TEMPO
from jen1_numpy.errors import Refusal

FULL = dict(
    title="Rain", artist="Ann Lee", album="Deep", game="Rain City", genre=["electronic", "ambient"],
    mood=["calm", "dark"], instruments=["Acoustic Grand Piano", "zither"], tags="lo-fi",
    bpm="97.5 BPM", key="F#m", year="1999-05-01", description="Rain falls on synthesizers.",
)  # fmt: skip
STRANGE = (None, True, float("nan"), float("inf"), {}, {"a": "b"}, [], [None], [{}], "", " ", "N/A")
STRANGE += ("unknown", "x" * 5000, "\n", 10**400)
# A word or number for each field that no caption without the field has.
WORD = dict(
    title="Rain\\b(?! City| falls)", artist="Ann Lee", album="Deep", game="Rain City",
    genre="electronic|ambient", mood="calm|dark", instruments="piano|zither", tags="lo-fi",
    bpm=r"\d bpm|beats|tempo|pace|marked|" + "|".join(word for word, *_ in TEMPO), key="F[#-]|F s",
    year="199", description="falls",
)  # fmt: skip


def said(fields, keys=20):
    return [text for key in range(keys) for text in composed(fields, str(key))]


def test_captions_are_several_distinct_and_the_same_for_the_same_key():
    for key in "abcdef":
        texts = composed(FULL, key)
        assert len({text.lower().strip(".") for text in texts}) == len(texts) == 6
        assert texts == composed(dict(reversed(FULL.items())), key)
        assert all(text == " ".join(text.split()) for text in texts)
    assert composed(FULL, "a") != composed(FULL, "b")
    assert composed(FULL, "a")[:2] == (
        "Rain falls on synthesizers.",
        "Rain by Ann Lee, electronic, ambient, from Rain City",
    )


@pytest.mark.parametrize("field", FULL)
def test_a_field_is_named_only_where_it_is_known(field):
    without = {name: each for name, each in FULL.items() if name != field}
    assert any(re.search(WORD[field], text, re.I) for text in said(FULL))
    assert not any(re.search(WORD[field], text, re.I) for text in said(without))
    for value in STRANGE:
        assert said(without | {field: value}, 3) == said(without, 3), value


def test_all_but_the_first_captions_tell_of_the_sound():
    fields = dict(title="Rain", artist="Ann Lee", album="Deep", year=1999, tempo=90, tags="lo-fi")
    sound = re.compile("|".join((WORD["bpm"], "lo-fi", *(word for word, *_ in ITALIAN))), re.I)
    for key in range(50):
        first, *others = composed(fields, str(key))
        assert first == "Rain by Ann Lee" and len(others) == 5
        assert all(sound.search(text) for text in others)


def test_any_fields_give_captions_without_an_error():
    rng = random.Random(0)
    values = [*STRANGE, *FULL.values(), 120, "{title}", "\ud800", "ä", ["a", 3], "Am", 10**400]
    for key in range(1000):
        fields = {name: rng.choice(values) for name in FIELDS if rng.random() < 0.6}
        for text in composed(fields, str(key)):
            assert text.strip() == text != "" and text.encode() and "nan" not in text.split()


@pytest.mark.parametrize(
    ("fields", "tempo"),
    [
        ({"tempo": 64}, 64),
        ({"bpm": "180"}, 180),
        ({"tempo": "slow", "bpm": 120.4}, 120.4),
        ({"tempo": 0, "bpm": 0}, None),
        ({"tempo": 5000}, None),
        ({"tempo": 999, "bpm": "12"}, None),
        ({"tempo": True}, None),
    ],
)
def test_words_for_the_tempo_are_true(fields, tempo):
    texts = said({"genre": "rock"} | fields)
    assert any(re.search("bpm|beats", text, re.I) for text in texts) == (tempo is not None)
    for text in texts:
        for number in re.findall(r"(\d+) (?:bpm|beats)", text, re.I):
            assert abs(int(number) - tempo) <= 2.5
        for word, low, high in TEMPO:
            shadowed = re.search(f"(very|moderately) {word}", text)
            if re.search(rf"\b{word}\b", text) and word != "moderate" and not shadowed:
                assert low <= tempo < high, text


@pytest.mark.parametrize(
    ("key", "mode", "expected"),
    [
        ("Am", None, "A minor"),
        ("a minor", None, "A minor"),
        ("G Dur", None, "G major"),
        ("D", "dorian", "D dorian"),
        ("a", None, None),
        ("H", None, None),
        ("8A", None, None),
        ("A strange thing", None, None),
        (3, 1, None),
    ],
)
def test_keys_of_many_spellings_are_named_as_they_are(key, mode, expected):
    texts = said({"genre": "rock", "key": key, "mode": mode})
    if expected:
        assert any(expected in text for text in texts)
    else:
        assert texts == said({"genre": "rock"})


def test_names_alone_give_one_caption():
    assert composed({"title": "A Tone", "artist": "Nobody"}, "") == ("A Tone by Nobody",)
    assert composed({"title": 1999}, "") == ("1999",)
    assert composed({"artist": ["Ann", "Bob"]}, "") == ("music by Ann, Bob",)
    assert composed({}, "") == composed({"note": "x"}, "") == ()


def test_a_template_is_used_where_all_its_fields_exist(tmp_path):
    (tmp_path / "t.txt").write_text(
        "# a comment\n\n{genre} in {key}, {bpm} BPM\n{my field}: {genre}\n", "utf-8-sig"
    )
    templates = read_templates(tmp_path / "t.txt")
    fields = {"genre": ["rock", "folk"], "key": "Am", "bpm": 120.0}
    assert composed(fields, "", templates) == ("rock, folk in Am, 120 BPM",)
    assert composed(fields | {"my field": "{key}"}, "", templates)[:2] in (
        ("rock, folk in Am, 120 BPM", "{key}: rock, folk"),
        ("{key}: rock, folk", "rock, folk in Am, 120 BPM"),
    )
    for value in STRANGE[:-2]:
        if value not in ("N/A", "unknown"):
            assert Template("{genre} {key}").filled(fields | {"key": value}) is None
    assert composed({"genre": "rock"}, "", templates) == composed({"genre": "rock"}, "")


@pytest.mark.parametrize(
    "line",
    [
        "{genre",
        "genre}",
        "{}",
        "{genre!r}",
        "{{genre}}",
        "{genre.__class__}x{",
        "{0[a]}",
        "no field",
    ],
)
def test_unknown_syntax_is_refused_with_its_line(tmp_path, line):
    (tmp_path / "t.txt").write_text("{genre}\n" + line)
    with pytest.raises(Refusal, match="line 2"):
        read_templates(tmp_path / "t.txt")


def test_a_template_reads_no_attribute():
    assert Template("{genre.__class__}").filled({"genre": "rock"}) is None
    assert Template("{genre.x}").filled({"genre.x": "rock"}) == "rock"


@pytest.mark.parametrize("content", [b"", b"# none\n", b"\xff{genre}", None])
def test_a_file_without_templates_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(Refusal, match=r"t\.txt"):
        read_templates(tmp_path / "t.txt")


def test_the_example_in_the_docs_is_real():
    text = (Path(__file__).parents[2] / "docs/data.md").read_text("utf-8")
    section = text.split("## Captions from metadata")[1]
    fields, examples = re.findall(r"```\w*\n(.*?)```", section, re.S)[:2]
    assert examples.splitlines() == list(composed(json.loads(fields), "a"))
