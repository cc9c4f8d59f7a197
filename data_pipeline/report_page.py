"""Draws the report of a preparation: report.html, which needs no other file, and report.png.

Names, captions and reasons come from anyone's files. They are shown as text alone, never as markup.
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.report_picture import clean, draw, largest
from data_pipeline.statistics import Field, Statistics
from jen1_numpy.files import whole_file, write_text

PAGE, PICTURE = "report.html", "report.png"
MOST_FIELDS, MOST_VALUES, LONGEST = 60, 6, 1000
_CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2430;max-width:72rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}p{margin:.3rem 0}
.grey{color:#6b7280}.tiles{display:flex;flex-wrap:wrap;gap:.7rem;margin:1.2rem 0}
.tiles div{border:1px solid #d9dce3;border-radius:.5rem;padding:.6rem 1rem;min-width:7rem}
.tiles b{display:block;font-size:1.5rem}img{width:100%}
.warning{background:#fbeee9;border-left:4px solid #b5573a;padding:.5rem .9rem;margin:.5rem 0}
table{border-collapse:collapse;margin:.8rem 0}td,th{text-align:left;vertical-align:top;
padding:.3rem 1.6rem .3rem 0;border-bottom:1px solid #d9dce3;overflow-wrap:anywhere}
td:first-child{min-width:6rem}
th{color:#6b7280;font-weight:600}td.n,th.n{text-align:right;white-space:nowrap}
"""


def write(report: Mapping[str, Any], folder: Path) -> None:
    """Writes report.html and report.png into `folder`.

    Args:
        report: JSON values:
            source, out: texts.
            files, accepted, not_needed: numbers of recordings.
            rejected: {reason: {"files": number, "examples": [{"id", "detail"}, ...]}}.
            splits: {split: {"clips": number, "hours": hours}}.
            dropped_seconds: {reason: seconds} of accepted recordings.
            durations, loudness: {lower edge of a bin in seconds, in LUFS: recordings}, with the
                edges `statistics.DURATIONS` and `statistics.LOUDNESS`.
            sample_rates: {Hz: recordings}. channels: {"mono" or the like: recordings}.
            clipped: recordings. licences: {licence, "" for none: clips}.
            statistics: `Statistics.to_json()`.
    """
    statistics = Statistics.from_json(report["statistics"])
    with whole_file(folder / PICTURE) as partial:
        draw(_title(report), report, statistics, partial)
        picture = partial.read_bytes()
    write_text(folder / PAGE, _page(report, statistics, picture))


def _title(report: Mapping[str, Any]) -> str:
    hours = sum(split["hours"] for split in report["splits"].values())
    return (
        f"{Path(report['out']).name}: {hours:,.2f} hours; "
        f"{report['accepted']:,} of {report['files']:,} files accepted"
    )


def problems(report: Mapping[str, Any], statistics: Statistics) -> list[str]:
    """Sentences about what needs a person's eye."""
    rejected = sum(each["files"] for each in report["rejected"].values())
    total = report["accepted"] + rejected + report["not_needed"]
    found = []
    if total != report["files"]:
        found.append(
            f"The totals do not add up: {report['files']:,} files were found, and {total:,} were "
            "accepted, rejected or not needed."
        )
    return found + statistics.warnings()


def _page(report: Mapping[str, Any], statistics: Statistics, picture: bytes) -> str:
    hours = sum(split["hours"] for split in report["splits"].values())
    clips = sum(split["clips"] for split in report["splits"].values())
    rejected = {reason: each["files"] for reason, each in report["rejected"].items()}
    tiles = [
        (f"{hours:,.2f}", "hours"),
        (f"{clips:,}", "clips"),
        (f"{report['accepted']:,}", "files accepted"),
        (f"{sum(rejected.values()):,}", "files rejected"),
        (statistics.texts.distinct, "distinct captions"),
    ]
    licensed = sum(report["licences"].values())
    image = base64.b64encode(picture).decode()
    dropped = ", ".join(f"{s:,.1f} s {name}" for name, s in report["dropped_seconds"].items() if s)
    total = (
        f"{report['files']:,} files = {report['accepted']:,} accepted + "
        f"{sum(rejected.values()):,} rejected + {report['not_needed']:,} not needed"
    )
    parts = [
        f"<h1>{_text(Path(report['out']).name)}</h1>",
        f'<p class="grey">prepared from {_text(report["source"])}</p>',
        '<div class="tiles">'
        + "".join(f"<div><b>{_text(number)}</b>{_text(what)}</div>" for number, what in tiles)
        + "</div>",
        *(f'<p class="warning">{_text(problem)}</p>' for problem in problems(report, statistics)),
        f"<p>{_text(total)}.</p>",
        f"<p>Dropped from accepted files: {_text(dropped or 'nothing')}.</p>",
        _table(
            ("split", "clips", "hours"),
            [
                (name, f"{split['clips']:,}", f"{split['hours']:,.3f}")
                for name, split in sorted(report["splits"].items(), reverse=True)
            ],
        ),
        f'<img alt="Durations, loudness, sample rates, rejects, captions" '
        f'src="data:image/png;base64,{image}">',
        "<h2>Rejected files</h2>",
        _table(
            ("reason", "files", "examples"),
            [
                (reason, f"{count:,}", _examples(report["rejected"][reason]["examples"]))
                for reason, count in largest(rejected)
            ],
        ),
        "<h2>Recordings</h2>",
        _table(
            ("", "recordings", "share of the accepted"),
            [
                (name, f"{count:,}", _share(count, report["accepted"]))
                for name, count in [*largest(report["channels"]), ("clipped", report["clipped"])]
            ],
        ),
        "<h2>Licences</h2>",
        _table(
            ("licence", "clips", "share"),
            [
                (name or "none stated", f"{count:,}", _share(count, licensed))
                for name, count in largest(report["licences"])
            ],
        ),
        "<h2>Metadata</h2>",
        *_fields(statistics),
        "<h2>Captions</h2>",
        f"<p>{statistics.captions:,} captions, {statistics.texts.distinct} of them distinct; "
        f"{statistics.without_caption:,} of {statistics.records:,} records have none.</p>",
        "<ul>" + "".join(f"<li>{_text(each)}</li>" for each in statistics.examples.values()),
        "</ul>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(Path(report['out']).name)}: report</title><style>{_CSS}</style></head>\n"
        "<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _fields(statistics: Statistics) -> Iterable[str]:
    known = sorted(statistics.fields.items(), key=lambda item: -item[1].records)
    rows = [
        (
            name,
            f"{about.records:,}",
            _share(about.records, statistics.records),
            about.values.distinct,
            _range(about),
            ", ".join(f"{text} ({count:,})" for text, count in _most(about)),
        )
        for name, about in known[:MOST_FIELDS]
    ]
    heads = (
        "field",
        "records with it",
        "share",
        "distinct values",
        "range",
        "most frequent values",
    )
    yield _table(heads, rows)
    if len(known) > MOST_FIELDS or statistics.other_fields:
        yield f"<p>The {MOST_FIELDS} most frequent fields are shown.</p>"


def _most(about: Field) -> list[tuple[str, int]]:
    """The most frequent values, if some come again."""
    most = about.values.counts.most_common(MOST_VALUES)
    return most if most and (most[0][1] > 1 or len(about.values.counts) == 1) else []


def _range(about: Field) -> str:
    numbers = about.numbers and about.numbers >= 0.9 * about.values.counts.total()
    return f"{about.low:,g} to {about.high:,g}" if numbers else ""


def _examples(examples: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(
        f"{each['id']}: {each['detail']}" if each["detail"] else each["id"] for each in examples
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns that hold only numbers are aligned to the right."""
    if not rows:
        return '<p class="grey">none</p>'
    number = re.compile(r"[\d,.]*( %)?|more than [\d,]+|[-+\d,.e]+ to [-+\d,.e]+")
    classes = [
        ' class="n"' if all(map(number.fullmatch, column)) else ""
        for column in zip(*rows, strict=True)
    ]
    lines = [
        "".join(f"<{tag}{c}>{_text(cell)}</{tag}>" for cell, c in zip(row, classes, strict=True))
        for row, tag in [(heads, "th"), *((row, "td") for row in rows)]
    ]
    return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _text(text: str) -> str:
    """A text as markup that shows it; lines stay lines, and half surrogates become visible."""
    lines = [clean(line, LONGEST) for line in text.split("\n")]
    return "<br>".join(html.escape(line) for line in lines)


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else ""
