"""Draws clips of a prepared data set, and measures their level and stereo image.

    python -m benchmarks.look DATA --out FILE.png [--clips 12] [--seed 0]

The clips come from the training split, each from another piece, and no two have the same style if
there are enough styles. The name of each gives its style, its peak and its mean level in dB
relative to full scale, the level of its side (left minus right) relative to its middle (left plus
right), and the correlation of left and right. Its longest caption follows. Of these four figures
the medians over random clips are printed too, with the 5th and 95th percentiles.
"""

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.features import read
from data_pipeline.layout import piece_of
from jen1_jax.evaluation.pictures import Sound, run_page

MEASURED = 200  # clips
SILENT = 1e-9  # added to powers, so that silence has a level


def choose(clips: Iterable[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Clips of different pieces and styles, in their order; then those of styles seen before."""
    pieces, styles, others = set(), set(), []
    for clip in clips:
        piece, style = piece_of(clip["id"]), clip["meta"].get("style")
        if count == 0:
            return
        if piece in pieces:
            continue
        pieces.add(piece)
        if style in styles:
            if len(others) < count:
                others.append(clip)
            continue
        styles.add(style)
        count -= 1
        yield clip
    yield from others[:count]


def measured(audio: Float[np.ndarray, "samples 2"]) -> dict[str, float]:
    """`peak`, `level` and `side` in dB, and the `correlation` of both channels."""
    left, right = audio.T.astype(np.float64)
    power = lambda x: float(np.mean(x**2)) + SILENT
    decibel = lambda ratio: float(10 * np.log10(ratio))
    return {
        "peak": decibel(float(np.abs(audio).max()) ** 2 + SILENT),
        "level": decibel(power(audio)),
        "side": decibel(power(left - right) / power(left + right)),
        "correlation": float(np.mean(left * right)) / np.sqrt(power(left) * power(right)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="what `jen1 data prepare` has written")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    parser.add_argument("--clips", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    sounds = []
    for clip in choose(read(options.data, "train", options.seed), options.clips):
        audio = clip["audio"][: clip["valid_samples"]]
        found = measured(audio)
        name = (
            f"{clip['meta'].get('style') or clip['id']}: peak {found['peak']:.0f}, "
            f"mean {found['level']:.0f}, side {found['side']:.0f} dB, "
            f"correlation {found['correlation']:.2f}"
        )
        sounds.append(Sound(name, audio, caption=max(clip["captions"], key=len)))
        print(name)
    some = [
        measured(clip["audio"][: clip["valid_samples"]])
        for clip in islice(read(options.data, "train", options.seed), MEASURED)
    ]
    for name in some[0]:
        low, middle, high = np.percentile([found[name] for found in some], (5, 50, 95))
        print(f"{name} of {len(some)} clips: {middle:.2f} ({low:.2f} to {high:.2f})")
    run_page(options.out, f"Clips of {options.data.name}", sounds, sounds_heading="Clips")


if __name__ == "__main__":
    main()
