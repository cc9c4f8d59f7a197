import json
import random
from collections import Counter

import pytest

from data_pipeline.statistics import DURATIONS, EXACT, MOST_FIELDS, Statistics, lower_edge


def records(n, seed=0):
    rng = random.Random(seed)
    for number in range(n):
        meta = {"bpm": rng.choice([90, 120.5, "130"]), "genre": rng.choice([["a", "b"], "a", []])}
        meta |= {"title": f"number {number}", "licence": "CC0", "mood": rng.choice([None, "", "c"])}
        yield meta, [f"caption {rng.randrange(50)}", "a Piano, in C#"][: rng.randrange(3)]


def counted(found):
    statistics = Statistics()
    for meta, captions in found:
        statistics.add(meta, captions)
    return statistics


def test_statistics_are_those_of_the_records():
    found = list(records(400))
    statistics = counted(found)
    about = statistics.fields
    assert statistics.records == 400
    bpm = Counter(f"{meta['bpm']}" for meta, _ in found)
    assert about["bpm"].values.counts == bpm and about["bpm"].values.distinct == "3"
    assert (about["bpm"].numbers, about["bpm"].low, about["bpm"].high) == (400, 90, 130)
    assert about["genre"].records == sum(bool(meta["genre"]) for meta, _ in found)
    assert (
        about["genre"].values.counts["a"] == about["genre"].records and not about["genre"].numbers
    )
    assert about["mood"].records == sum(meta["mood"] == "c" for meta, _ in found)
    said = [caption for _, captions in found for caption in captions]
    assert statistics.captions == len(said) == statistics.lengths.total()
    assert statistics.without_caption == sum(not captions for _, captions in found)
    assert statistics.texts.distinct == str(len(set(said)))
    assert (
        statistics.words.counts["c#"]
        == statistics.words.counts["piano"]
        == said.count("a Piano, in C#")
    )
    assert set(statistics.examples.values()) <= set(said)


def test_statistics_are_the_same_through_json():
    whole = counted(records(600))
    text = json.dumps(whole.to_json(), allow_nan=False)
    assert Statistics.from_json(json.loads(text)) == whole


def test_many_values_take_bounded_memory_and_the_frequent_ones_are_found():
    statistics, added = Statistics(), 0
    for number in range(30 * EXACT):
        statistics.add({"x": number if number % 3 else "often", f"name {number}": 1}, [])
        added += 2
        assert len(statistics.fields["x"].values.counts) <= 2 * EXACT
    about = statistics.fields["x"]
    assert about.values.distinct == "more than 1,000"
    [(value, count)] = about.values.counts.most_common(1)
    assert value == "often" and 10 * EXACT - 30 <= count <= 10 * EXACT
    assert (about.low, about.high) == (1, 30 * EXACT - 1)
    assert len(statistics.fields) == MOST_FIELDS
    assert statistics.other_fields + sum(f.records for f in statistics.fields.values()) == added
    assert len(json.dumps(statistics.to_json())) < 100_000
    about.values.counts.clear()
    assert about.values.distinct == "more than 1,000"


def test_a_field_that_never_varies_is_warned_of():
    same = counted(({"key": "C", "licence": "CC0"}, []) for _ in range(200))
    [warning] = same.warnings()
    assert "'key' is 'C' in all 200 records" in warning
    varied = counted(({"key": "CD"[n % 2]}, []) for n in range(200))
    few = counted(({"key": "C"}, []) for _ in range(5))
    assert varied.warnings() == few.warnings() == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("bmp", "bpm"), ("Tempo", "tempo"), ("genres", "genre"), ("Title ", "title")]
    + [("license", "licence"), ("capton", "caption"), ("instrument", "instruments")]
    + [
        (name, None)
        for name in ("bpm", "metre", "name", "note", "velocity", "language", "node", "x", "")
    ],
)
def test_a_name_that_is_nearly_that_of_a_field_is_warned_of(name, meant):
    warnings = counted([({name: "a"}, [])]).warnings()
    assert len(warnings) == (meant is not None)
    assert all(repr(name) in each and repr(meant) in each for each in warnings)


def test_captions_that_are_all_the_same_are_warned_of():
    assert "'music'" in counted(({}, ["music"]) for _ in range(200)).warnings()[0]
    assert counted(({}, [f"music {n % 2}"]) for n in range(200)).warnings() == []
    assert counted(({}, [""]) for _ in range(200)).warnings() == []


def test_strange_values_are_counted():
    values = [None, True, 10**400, float("nan"), {}, {"a": []}, [[]], [{"name": "Flute"}], "\n", 0]
    statistics = counted(({"x": value}, ["ä" * 10**5, "\ud800"]) for value in values)
    assert statistics.fields["x"].values.counts["Flute"] == 1
    assert len(json.dumps(statistics.to_json())) < 10_000


def test_a_value_belongs_to_the_bin_of_the_edge_below_it():
    assert [lower_edge(x, DURATIONS) for x in (0.1, 4.99, 5, 10**6)] == [0, 0, 5, 3600]
    assert lower_edge(-99, (-60, -57)) == -60
