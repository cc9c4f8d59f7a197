"""Draws one page of a run: losses, the autoencoder's round trips, and generated audio.

matplotlib is imported when it is first used, since it takes long.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jen1_numpy.files import whole_file

FFT, HOP, MELS = 2048, 480, 128
FLOOR = -100.0  # dB; lower levels are raised to it
RANGE = 80.0  # dB between the darkest and the brightest colour
HERTZ = (500, 1000, 2000, 4000, 8000, 16_000)  # labels, up to half the sample rate

INK, GREY, RULE = "#1f2430", "#6b7280", "#d9dce3"
CHANNELS, GENERATED = ("#2f5d8a", "#7096bd"), "#e08a1e"
PARTS = ("#b5573a", "#4f8f97", "#8a6fa8", "#5b8c5a", "#b08a3c")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
}
DPI = 150
# Widths in inches; the tick labels of each of the two columns lie left of it.
WIDTH, MARGIN, LABELS, GUTTER = 12.0, 0.5, 0.5, 0.3
COLUMN = (WIDTH - 2 * MARGIN - 2 * LABELS - GUTTER) / 2
# Heights in inches; BELOW is the space under a panel, for its tick labels.
TITLE, HEADING, NAME, CAPTION, BELOW = 0.75, 0.45, 0.22, 0.155, 0.5
WAVEFORM, MEL, CURVE = 0.6, 1.25, 2.1
LETTERS = 16.5  # of a caption, per inch


@dataclass(frozen=True)
class Sound:
    """The content of one panel; `audio` is float [samples, 2].

    Generated `spans` (start, end) are drawn shaded, `marks` as lines; both are in seconds.
    """

    name: str
    audio: Float[np.ndarray, "samples 2"]
    spans: Sequence[tuple[float, float]] = ()
    marks: Sequence[float] = ()
    caption: str = ""


def mel_spectrogram_db(
    audio: Float[np.ndarray, "samples channels"], sample_rate: int = 48_000
) -> Float[np.ndarray, "mels frames"]:
    """Mel spectrogram in dB of the channels' mean power, one frame every 480 samples, up to 20 kHz.

    A sine of amplitude 1 has about 0 dB; the lowest level is -100 dB.
    """
    import librosa

    audio = np.pad(audio, ((0, max(0, FFT - len(audio))), (0, 0)))
    power = np.mean(np.abs(librosa.stft(audio.T, n_fft=FFT, hop_length=HOP)) ** 2, axis=0)
    filters = librosa.filters.mel(
        sr=sample_rate, n_fft=FFT, n_mels=MELS, fmax=_top(sample_rate), norm=None
    )
    # The window sums to FFT / 2, and half of the sine's amplitude is at negative frequencies.
    power_of_sine = (FFT / 4) ** 2
    return 10 * np.log10(np.maximum(filters @ power / power_of_sine, 10 ** (FLOOR / 10)))


def run_page(
    path: str | Path,
    title: str,
    sounds: Sequence[Sound] = (),
    pairs: Sequence[tuple[Sound, Sound]] = (),
    metrics: Mapping[str, Sequence[Mapping[str, float | int]]] = {},
    sample_rate: int = 48_000,
    sounds_heading: str = "Generated",
) -> None:
    """Draws one PNG page, 1800 pixels wide; its height depends on the content.

    `metrics` maps the title of a panel to its records from metrics.jsonl. `pairs` are originals and
    reconstructions, drawn side by side; `sounds` follow in two columns. All panels share the scale
    of the waveforms and of the levels; panels of one section share the time axis. The file appears
    under its final name only when it is complete.
    """
    import matplotlib
    from matplotlib.figure import Figure

    curves, rows = _rows(list(metrics.items())), _rows(sounds)
    sections = [
        ("Training", curves, [NAME + CURVE + BELOW for _ in curves]),
        ("Autoencoder: original and reconstruction", pairs, [_height(pair) for pair in pairs]),
        (sounds_heading, rows, [_height(row) for row in rows]),
    ]
    sections = [section for section in sections if section[1]]
    height = TITLE + MARGIN + sum(HEADING + sum(heights) for _, _, heights in sections)
    shown = [sound for row in (*pairs, *rows) for sound in row]
    mels = {id(sound): mel_spectrogram_db(sound.audio, sample_rate) for sound in shown}
    loudest = max((float(mel.max()) for mel in mels.values()), default=FLOOR)
    peak = max((float(np.abs(sound.audio).max(initial=0)) for sound in shown), default=0.0)
    level = max(10.0 * np.ceil(loudest / 10) + 0.0, FLOOR + RANGE)  # + 0.0 turns -0 into 0
    scale = _Scale(sample_rate, max(peak, 0.01), level)

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
        page = _Page(figure, height)
        short_title = textwrap.shorten(title, 90, placeholder=" …")
        page.text(MARGIN, 0.45, short_title, size=14, weight="bold")
        if shown:
            _legend(page, scale.level, any(sound.spans for sound in shown))
        y = TITLE
        for heading, items, heights in sections:
            page.rule(y)
            page.text(MARGIN, y + 0.25, heading, size=10, weight="bold")
            y += HEADING
            if items is not curves:
                longest = max(len(sound.audio) for row in items for sound in row)
                scale = replace(scale, seconds=max(longest, HOP) / sample_rate)
            for row, row_height in zip(items, heights, strict=True):
                for column, item in enumerate(row):
                    x = MARGIN + LABELS + column * (COLUMN + GUTTER + LABELS)
                    if items is curves:
                        width = COLUMN if len(row) == 2 else WIDTH - MARGIN - x
                        _curves(page, x, y, width, *item)
                    else:
                        _sound(page, x, y, y + row_height, item, mels[id(item)], scale)
                y += row_height
        with whole_file(path) as partial:
            figure.savefig(partial, format="png")


@dataclass(frozen=True)
class _Scale:
    """The axes that panels share, so that sounds can be compared.

    `peak` is the amplitude at the edge of the waveform panels, `level` the level in dB of the
    brightest colour, and `seconds` the length of the time axis.
    """

    sample_rate: int
    peak: float
    level: float
    seconds: float = 1.0


class _Page:
    """A figure in which positions are inches from the upper left corner."""

    def __init__(self, figure, height: float):
        self.figure, self.height = figure, height

    def axes(self, x: float, y: float, width: float, height: float):
        return self.figure.add_axes(
            (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        )

    def text(self, x: float, y: float, text: str, **style):
        self.figure.text(x / WIDTH, 1 - y / self.height, text, parse_math=False, **style)

    def rule(self, y: float):
        self.axes(MARGIN, y, WIDTH - 2 * MARGIN, 0.01).set(
            facecolor=RULE, xticks=[], yticks=[], frame_on=True
        )


def _rows(items: Sequence) -> list[Sequence]:
    return [items[i : i + 2] for i in range(0, len(items), 2)]


def _caption(sound: Sound) -> list[str]:
    return textwrap.wrap(sound.caption, int(COLUMN * LETTERS), max_lines=2, placeholder=" …")


def _height(row: Sequence[Sound]) -> float:
    return NAME + CAPTION * max(len(_caption(sound)) for sound in row) + WAVEFORM + MEL + BELOW


def _top(sample_rate: int) -> float:
    return min(20_000.0, sample_rate / 2)


def _sound(
    page: _Page, x: float, y: float, end: float, sound: Sound, image: np.ndarray, scale: _Scale
) -> None:
    """Draws name, caption, the waveforms of both channels and the mel spectrogram `image`.

    The panel lies between `y` and `end`.
    """
    import librosa
    from matplotlib.ticker import MaxNLocator

    name = textwrap.shorten(sound.name, 70, placeholder=" …")
    page.text(x, y + 0.13, name, size=8.5, weight="bold")
    for line, text in enumerate(_caption(sound)):
        page.text(x, y + NAME + 0.08 + line * CAPTION, text, size=7.5, color=GREY, style="italic")
    y = end - BELOW - MEL - WAVEFORM
    duration = len(sound.audio) / scale.sample_rate

    waveform = page.axes(x, y, COLUMN, WAVEFORM)
    bins = max(1, round(COLUMN * DPI * duration / scale.seconds))
    pieces = [piece for piece in np.array_split(sound.audio / scale.peak, bins) if len(piece)]
    time = np.linspace(0, duration, len(pieces))
    for channel, (centre, colour) in enumerate(zip((1, -1), CHANNELS, strict=True)):
        low = np.array([piece[:, channel].min() for piece in pieces]) * 0.85 + centre
        high = np.array([piece[:, channel].max() for piece in pieces]) * 0.85 + centre
        # With 0.02 on both sides, silence is visible as a thin line.
        waveform.fill_between(time, low - 0.02, high + 0.02, color=colour, linewidth=0)
    for start, end in sound.spans:
        waveform.axvspan(start, end, color=GENERATED, alpha=0.16, linewidth=0)
    waveform.set(xlim=(0, scale.seconds), ylim=(-2, 2))
    waveform.set(xticks=[], yticks=[1, -1], yticklabels=["L", "R"])
    waveform.tick_params(length=0)
    waveform.spines[:].set_visible(False)

    mel = page.axes(x, y + WAVEFORM, COLUMN, MEL)
    left, right = (np.array([0, image.shape[1]]) - 0.5) * HOP / scale.sample_rate
    mel.imshow(
        image,
        origin="lower",
        aspect="auto",
        extent=(left, right, 0, MELS),
        cmap="magma",
        vmin=scale.level - RANGE,
        vmax=scale.level,
    )
    for start, end in sound.spans:
        bar = dict(color=GENERATED, linewidth=2.5, solid_capstyle="butt", clip_on=False)
        mel.plot([start, end], [MELS + 1.5] * 2, **bar)
        edges = [edge for edge in (start, end) if 0 < edge < duration]
        mel.vlines(edges, 0, MELS, color="white", linewidth=0.8, linestyle=(0, (3, 2)))
    for mark in sound.marks:
        waveform.axvline(mark, color=GENERATED, linewidth=1)
        mel.axvline(mark, color=GENERATED, linewidth=1)
    top = _top(scale.sample_rate)
    hertz = [f for f in HERTZ if f < top]
    position = librosa.hz_to_mel(np.array(hertz)) / librosa.hz_to_mel(top) * MELS
    labels = [f"{f / 1000:g}" for f in hertz[:-1]] + [f"{hertz[-1] / 1000:g} kHz"]
    mel.set(xlim=(0, scale.seconds), ylim=(0, MELS), yticks=position, yticklabels=labels)
    mel.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    mel.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    mel.spines[:].set_visible(False)


def _curves(
    page: _Page,
    x: float,
    y: float,
    width: float,
    name: str,
    records: Sequence[Mapping[str, float | int]],
) -> None:
    """Draws the loss and its parts over the steps: thin as logged, thick as a moving average."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    logged = {key for record in records for key in record}
    keys = sorted(key for key in logged if re.fullmatch("loss(/[^/]+)?", key))
    legend = 0.17 * -(-len(keys) // 4)  # four labels per line
    page.text(x, y + 0.13, textwrap.shorten(name, 70, placeholder=" …"), size=8.5, weight="bold")
    axes = page.axes(x, y + NAME + legend, width, CURVE - legend)
    drawn = []
    for i, key in enumerate(keys):
        having = [record for record in records if np.isfinite(record.get(key, np.nan))]
        if not having:
            continue
        steps = np.array([record["step"] for record in having], float)
        values = np.array([record[key] for record in having], float)
        window = np.ones(max(1, len(values) // 20))
        count = np.convolve(np.ones_like(values), window, "same")  # fewer at both ends
        smooth = np.convolve(values, window, "same") / count
        colour, weight = (INK, 1.6) if key == "loss" else (PARTS[i % len(PARTS) - 1], 1.0)
        label = key.removeprefix("loss/")
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
        axes.plot(steps, smooth, color=colour, linewidth=weight, label=label, zorder=3)
        drawn.append(smooth)
    axes.margins(x=0.01)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("step", size=7, labelpad=2)
    if not drawn:
        axes.text(0.5, 0.5, "nothing logged yet", color=GREY, ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    values = np.concatenate(drawn)
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        ticks = (1, 2, 5) if values.max() < 100 * values.min() else (1,)  # in each decade
        axes.yaxis.set_major_locator(LogLocator(subs=ticks))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=1.2,
        columnspacing=1.5,
    )


def _legend(page: _Page, level: float, with_spans: bool) -> None:
    """Explains the colours, at the upper right."""
    bar = page.axes(WIDTH - MARGIN - 1.6, 0.32, 1.6, 0.09)
    extent = (level - RANGE, level, 0, 1)
    bar.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap="magma", extent=extent)
    bar.set(yticks=[], xticks=[level - RANGE, level - RANGE / 2, level])
    bar.xaxis.set_major_formatter(lambda value, _: f"{value:g} dB")
    bar.tick_params(length=0, pad=2)
    bar.spines[:].set_visible(False)
    if with_spans:
        swatch = page.axes(WIDTH - MARGIN - 2.75, 0.3, 0.16, 0.12)
        swatch.set(facecolor=GENERATED, xticks=[], yticks=[])
        swatch.patch.set_alpha(0.35)
        swatch.spines[:].set_visible(False)
        page.text(WIDTH - MARGIN - 2.53, 0.405, "generated", size=7.5, color=GREY)
