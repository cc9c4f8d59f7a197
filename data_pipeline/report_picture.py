"""Draws the histograms and the counts of a preparation's report."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.statistics import DURATIONS, LOUDNESS, Statistics

INK, GREY, RULE = "#1f2430", "#6b7280", "#d9dce3"
BLUE, RED = "#2f5d8a", "#b5573a"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "axes.edgecolor": RULE,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.color": GREY,
    "ytick.color": GREY,
}
MOST_WORDS, MOST_BARS = 12, 10
# Words that are in most captions whatever the music is.
_COMMON = {
    "a", "an", "and", "at", "by", "can", "for", "from", "have", "i", "i'd", "in", "is", "it",
    "like", "make", "me", "music", "of", "on", "or", "over", "piece", "play", "please", "that",
    "the", "there", "this", "to", "track", "tune", "with", "you",
}  # fmt: skip


def clean(text: str, longest: int) -> str:
    """One line in which what cannot be printed is visible, so that nothing is hidden or turned."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:longest])
    return shown + ("…" if len(text) > longest else "")


def largest(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The counts in falling order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def draw(title: str, report: Mapping[str, Any], statistics: Statistics, path: Path) -> None:
    """A PNG of six panels; `report` is that of `report_page.write`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the font lacks a script
        page = Figure(figsize=(12, 7), layout="constrained")
        page.suptitle(clean(title, 120), x=0.012, ha="left", size=12)
        page.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
        panels = page.subplots(2, 3).flat
        seconds = _bins(report["durations"], DURATIONS)
        _bars(
            next(panels),
            "Durations, in bins that grow",
            [(_duration(s), n) for s, n in seconds],
            "recordings",
        )
        levels = _bins(report["loudness"], LOUDNESS)
        _bars(next(panels), "Loudness in LUFS", [(f"{s:g}", n) for s, n in levels], "recordings")
        lengths = _bins(statistics.lengths, range(max(statistics.lengths, default=0) + 1))
        _bars(next(panels), "Words of a caption", [(f"{s:g}", n) for s, n in lengths], "captions")
        rates = largest({f"{float(r) / 1000:g} kHz": n for r, n in report["sample_rates"].items()})
        _rows(next(panels), "Sample rates", rates, BLUE)
        rejected = {reason: each["files"] for reason, each in report["rejected"].items()}
        _rows(next(panels), "Rejected files", largest(rejected), RED)
        frequent = statistics.words.counts.most_common(MOST_WORDS + len(_COMMON))
        said = [(word, count) for word, count in frequent if word not in _COMMON]
        _rows(next(panels), "Captions with the word", said[:MOST_WORDS], BLUE)
        page.savefig(path, format="png", dpi=150, facecolor="white")


def _bins(counts: Mapping[Any, int], edges: Sequence[float]) -> list[tuple[float, int]]:
    """The bins from the first to the last that holds anything."""
    held = {float(edge): count for edge, count in counts.items() if count}
    if not held:
        return []
    return [(e, held.get(float(e), 0)) for e in edges if min(held) <= e <= max(held)]


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _bars(axes, title: str, bins: Sequence[tuple[str, int]], unit: str) -> None:
    """A histogram; the label of a bin is its lower edge and stands at it."""
    axes.set_title(f"{title}" if bins else f"{title}: none")
    axes.bar(range(len(bins)), [count for _, count in bins], width=0.92, align="edge", color=BLUE)
    step = max(1, -(-len(bins) // 9))
    axes.set_xticks(range(0, len(bins), step), [name for name, _ in bins[::step]])
    axes.set_ylabel(unit)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.get_major_locator().set_params(integer=True)


def _rows(axes, title: str, counts: Sequence[tuple[str, int]], color: str) -> None:
    """Horizontal bars with their numbers, the largest one at the top."""
    axes.set_title(title if counts else f"{title}: none")
    if len(counts) > MOST_BARS + 2:
        rest = sum(count for _, count in counts[MOST_BARS:])
        counts = [*counts[:MOST_BARS], ("others", rest)]
    bars = axes.barh(range(len(counts)), [count for _, count in counts], color=color, height=0.7)
    axes.bar_label(bars, [f"{count:,}" for _, count in counts], padding=3, fontsize=8, color=GREY)
    axes.set_yticks(range(len(counts)), [clean(name, 28) for name, _ in counts])
    axes.set_ylim(max(len(counts), 6) - 0.5, -0.5)
    axes.margins(x=0.18)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)
