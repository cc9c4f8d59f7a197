from html.parser import HTMLParser

import pytest

from data_pipeline import report_page
from data_pipeline.statistics import Statistics

EVIL = "<script>alert('1')</script> & \"$x^$\" \u202efdp\ud800\n\x00 ä漢"


def report(text="plain", records=3):
    statistics = Statistics()
    for n in range(records):
        caption = text.replace("\ud800", "")
        statistics.add({text: text, "bpm": 100 + n}, [f"{caption} number {n}"])
    return dict(
        source=text, out=f"/somewhere/{text}", files=10, accepted=6, not_needed=1,
        rejected={text: dict(files=3, examples=[dict(id=text, detail=text)])},
        splits={"train": dict(clips=20, hours=1.5), "test": dict(clips=2, hours=0.25)},
        dropped_seconds={"tail": 3.5, "silence": 0.0}, durations={"60": 4, 90: 2},
        loudness={"-15": 6}, sample_rates={"44100": 5, "48000": 1},
        channels={"stereo": 5, "mono": 1}, clipped=2, licences={text: 20, "": 2},
        statistics=statistics.to_json(),
    )  # fmt: skip


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = set(), "", []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data + "\n"


def read(folder):
    reader = Reader()
    reader.feed((folder / report_page.PAGE).read_text("utf-8"))
    return reader


def test_the_page_tells_the_totals_and_the_picture_is_one(tmp_path):
    report_page.write(report(), tmp_path)
    text = read(tmp_path).text
    assert "10 files = 6 accepted + 3 rejected + 1 not needed" in text and "add up" not in text
    for said in ("1.75\nhours", "22\nclips", "bpm", "100 to 102", "plain number 2", "none stated"):
        assert said in text
    assert (tmp_path / report_page.PICTURE).read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in tmp_path.iterdir()} == {report_page.PAGE, report_page.PICTURE}


def test_texts_are_no_markup_and_nothing_is_loaded_from_elsewhere(tmp_path):
    report_page.write(report(), tmp_path)
    plain = read(tmp_path)
    report_page.write(report(EVIL), tmp_path)
    evil = read(tmp_path)
    assert evil.tags <= plain.tags | {"br"} and "script" not in evil.tags
    assert [name for name, _ in evil.attributes] == [name for name, _ in plain.attributes]
    links = [value for name, value in evil.attributes if name in ("src", "href")]
    assert all(value.startswith("data:image/png;base64,") for value in links)
    assert "<script>alert('1')</script>" in evil.text and r"\u202efdp\ud800" in evil.text


@pytest.mark.parametrize("change", [{"files": 11}, {"not_needed": 0}])
def test_totals_that_do_not_add_up_are_shown(tmp_path, change):
    report_page.write(report() | change, tmp_path)
    assert "The totals do not add up" in read(tmp_path).text


def test_warnings_are_shown(tmp_path):
    report_page.write(report("bmp", records=200), tmp_path)
    assert "'bmp' of 200 records has no effect" in read(tmp_path).text


def test_an_empty_report_is_drawn(tmp_path):
    empty = report() | dict(
        files=0, accepted=0, not_needed=0, rejected={}, splits={}, durations={}, loudness={},
        sample_rates={}, channels={}, clipped=0, licences={}, statistics=Statistics().to_json(),
    )  # fmt: skip
    report_page.write(empty, tmp_path)
    assert "0 files = 0 accepted" in read(tmp_path).text
