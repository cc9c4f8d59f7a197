import csv
import hashlib
import json
import random
import tracemalloc

import pytest

from data_pipeline import caption_table
from data_pipeline.caption_table import CaptionTable
from jen1_numpy.errors import Refusal


def table(tmp_path, *lines, name="captions.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    return CaptionTable(path)


def test_the_lines_of_a_clip_decide_before_those_of_its_recording(tmp_path):
    captions = table(
        tmp_path,
        {"id": "a/b.wav", "captions": ["whole", "  piece ", "", "whole"]},
        {"path": "c@d.wav", "caption": "ä"},
        {"id": "a/b.wav@10.240", "caption": "clip"},
        {"id": "a/b.wav", "caption": "more"},
    )
    assert captions.captions("a/b.wav@0.000") == ("whole", "piece", "more")
    assert captions.captions("a/b.wav@10.240", ("own",)) == ("clip",)
    assert captions.captions("c@d.wav@1.000") == captions.captions("c@d.wav") == ("ä",)
    assert captions.captions("e.wav@0.000") is captions.captions("b.wav") is None
    assert sorted(captions.distinct()) == ["clip", "more", "piece", "whole", "ä"]


def test_captions_are_added_where_all_lines_say_so(tmp_path):
    captions = table(
        tmp_path,
        {"id": "a", "caption": "new", "add": True},
        {"id": "b", "caption": "new", "add": True},
        {"id": "b", "caption": "other", "add": False},
    )
    assert captions.captions("a@0.000", ("own", "new")) == ("own", "new")
    assert captions.captions("a@0.000", ("",)) == ("new",)
    assert captions.captions("b@0.000", ("own",)) == ("new", "other")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_all_formats_give_the_same_captions(tmp_path, suffix):
    rng = random.Random(0)
    rows = [(f"é {rng.randrange(300)}.wav", f'said "{rng.randrange(9)}", ä') for _ in range(500)]
    path = tmp_path / f"t.{suffix}"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        if suffix == "jsonl":
            file.writelines(json.dumps({"id": id, "caption": text}) + "\n\n" for id, text in rows)
        elif suffix == "csv":
            csv.writer(file).writerows([("x", "path", "caption"), *((1, *row) for row in rows)])
        else:
            file.writelines("\t".join(row) + "\r\n" for row in [("id", "caption"), *rows])
    captions = CaptionTable(path)
    for id in {id for id, _ in rows}:
        expected = tuple(dict.fromkeys(text for other, text in rows if other == id))
        assert captions.captions(f"{id}@0.000") == expected
    assert set(captions.distinct()) == {text for _, text in rows}
    assert captions.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


A = b'{"id": "a", "caption": "fine"}'
DAMAGED = [
    b"{", b"[]", b"3", b"{}", b'{"id": "b"}', b'{"caption": "x"}', b'{"id": 3, "caption": "x"}',
    b'{"id": "b", "caption": 1}', b'{"id": "b", "captions": "x"}', b'{"id": "b", "captions": [1]}',
    b'{"id": "b", "caption": " "}', b'{"id": "b", "captions": []}', b"[" * 100_000,
    b'{"id": "\\ud800", "caption": "x"}', b'{"id": "b", "caption": "\\ud800"}',
    b'{"id": "b", "caption": "\xe9"}', b'{"id": "b", "caption": "x", "add": 1}',
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "captions.jsonl"
    path.write_bytes(b"\n".join([A, line, A]))
    with pytest.raises(Refusal, match=r"captions\.jsonl, line 2: .*; correct it"):
        CaptionTable(path)


def test_a_long_line_is_refused(tmp_path):
    with pytest.raises(Refusal, match="line 1: it has more than 1048576 bytes"):
        table(tmp_path, {"id": "b", "caption": "x" * 2**20})


@pytest.mark.parametrize(
    ("name", "content", "number"),
    [
        ("t.csv", b"id,text\n", 1),
        ("t.csv", b"caption\n", 1),
        ("t.csv", b'id,caption\na,"two\nlines"\n', 2),
        ("t.csv", b"id,caption\na\n", 2),
        ("t.tsv", b"id\tcaption\na\tb\tc\n", 2),
        ("t.tsv", b"id\tcaption\n\tb\n", 2),
    ],
)
def test_a_damaged_row_is_refused_with_its_number(tmp_path, name, content, number):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal, match=f"line {number}: "):
        CaptionTable(tmp_path / name)


def test_what_is_no_table_is_refused(tmp_path):
    for name in ("missing.jsonl", "table.txt", "folder.jsonl"):
        (tmp_path / "folder.jsonl").mkdir(exist_ok=True)
        with pytest.raises(Refusal, match=name):
            CaptionTable(tmp_path / name)
    (tmp_path / "empty.jsonl").write_text("")
    empty = CaptionTable(tmp_path / "empty.jsonl")
    assert empty.captions("a@0.000") is None and list(empty.distinct()) == []


def test_a_table_that_changes_is_refused(tmp_path):
    lines = [{"id": f"{n}", "caption": f"c{n}"} for n in range(9)]
    captions, path = table(tmp_path, *lines), tmp_path / "captions.jsonl"
    content = path.read_bytes()
    for changed in (content[::-1], content.replace(b'"id": "3"', b'"id": "5"'), b""):
        path.write_bytes(changed)
        with pytest.raises(Refusal, match="has changed"):
            captions.captions("3")


def test_ids_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_table, "hashed", lambda text: len(text))
    captions = table(tmp_path, *({"id": f"{n}", "caption": f"c{n}"} for n in range(9)))
    assert [captions.captions(f"{n}@0.000") for n in range(9)] == [(f"c{n}",) for n in range(9)]


def test_distinct_captions_need_bounded_memory(tmp_path, monkeypatch):
    lines = [{"id": f"{n}", "caption": f"{n % 1800}"} for n in range(2400)]
    captions = table(tmp_path, *lines)
    peaks = []
    for held in (10**6, 200):
        monkeypatch.setattr(caption_table, "HELD", held)
        tracemalloc.start()
        number = sum(1 for _ in captions.distinct())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert number == 1800
    assert peaks[1] < 0.3 * peaks[0]
