"""The built-in music: stereo clips with captions and truth, deterministic from (seed, index).

A clip draws a style (key, tempo, metre, progression, parts), writes each part as notes, plays them
with `instruments`, pans them and adds a room. It needs no download, so quickstart, tests and
benchmarks run on any machine. The truth, as JSON values, allows a program to check captions.
"""

from dataclasses import dataclass

import numpy as np

from data_pipeline.synthesis.playing import render
from data_pipeline.synthesis.styles import Style, caption, draw_style

__all__ = ["Clip", "caption", "clip", "describe"]


@dataclass(frozen=True)
class Clip:
    audio: np.ndarray  # float32 [samples, 2] at 48 kHz, peak 0.5-0.9
    caption: str
    truth: dict


def describe(seed: int, index: int) -> tuple[Style, str]:
    """Style and caption of clip number `index` of the data set `seed`, without playing it."""
    style = draw_style(np.random.default_rng([seed, index, 0]))
    return style, caption(style, np.random.default_rng([seed, index, 1]))


def clip(seed: int, index: int, seconds: float) -> Clip:
    """Clip number `index` of the data set `seed`; style and caption do not depend on `seconds`."""
    style, words = describe(seed, index)
    return Clip(render(style, seconds, np.random.default_rng([seed, index, 2])), words, style.truth)
