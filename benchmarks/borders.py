"""Measures whether the border between given and generated audio can be heard.

    bash launch/quickstart.sh
    python -m benchmarks.borders [RUN] [--clips 16]

It inpaints a part of each held-out clip, and continues its first half. At each border it ranks the
step of the level, the spectral flux, and the largest second difference of the samples within 5 ms,
which a click raises, among all places of the same clip. A border is high where its rank is above
the 95th percentile; by chance 5 % are. The original clip at the same places is the control, since
music changes there too. It also checks that the given audio is unchanged. It needs a trained RUN
with its data, and takes some minutes on two CPU cores.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np

import jen1_jax
from benchmarks.reach import rank_seams
from data_pipeline.shard_data import ShardData
from jen1_jax.evaluation.autoencoder import clips_of
from jen1_numpy.generation import EXTEND_FADE


def clicks(audio: np.ndarray, rate: int, borders: tuple[float, ...]) -> list[float]:
    """The rank (0 to 1) of each border (seconds) among all places, by second difference.

    Of a place counts the largest second difference of the samples within 5 ms.
    """
    bend, reach = np.abs(np.diff(audio, n=2, axis=0)).max(1), round(0.005 * rate)
    sharpest = lambda at: bend[at - reach : at + reach].max()
    everywhere = np.array([sharpest(at) for at in range(reach, len(bend) - reach, reach)])
    return [float((everywhere < sharpest(round(border * rate))).mean()) for border in borders]


def check_given(number: int, generated: np.ndarray, original: np.ndarray, given: slice) -> None:
    if not np.array_equal(generated[given], original[given]):
        raise SystemExit(f"The given audio of clip {number} has changed.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        default=Path("runs/quickstart"),
        help="a trained run; default: %(default)s",
    )
    parser.add_argument(
        "--clips", type=int, default=16, help="number of held-out clips; default: %(default)s"
    )
    options = parser.parse_args()
    model = jen1_jax.load(options.run)
    rate, records = model.sample_rate, []
    held_out = ShardData(str(options.run / "data"), 8, seed=0).sweep("test")
    for number, clip in enumerate(islice(clips_of(held_out), options.clips)):
        audio, seconds = clip.audio, len(clip.audio) / rate
        hole, half = (0.4 * seconds, 0.6 * seconds), len(audio) // 2
        inpainted = model.inpaint(audio, [hole], clip.caption, seed=number)
        extended = model.extend(audio[:half], seconds - half / rate, clip.caption, seed=number)
        first, last = (round(edge * rate) for edge in hole)
        kept = half - round(EXTEND_FADE * rate)
        check_given(number, inpainted, audio, slice(first))
        check_given(number, inpainted, audio, slice(last, None))
        check_given(number, extended, audio, slice(kept))
        fade = (kept / rate, half / rate)
        for kind, sound, borders in (
            ("inpainted", inpainted, hole),
            ("inpainted: original", audio, hole),
            ("continued", extended, fade),
            ("continued: original", audio, fade),
        ):
            figures = rank_seams(sound, rate, borders) | {"click": clicks(sound, rate, borders)}
            records.append({"clip": number, "kind": kind} | figures)
    print("By chance 5 % of the borders are high (95th percentile).")
    for kind in dict.fromkeys(record["kind"] for record in records):
        parts = []
        for name in ("flux", "level", "click"):
            ranks = np.concatenate([record[name] for record in records if record["kind"] == kind])
            high, median = np.mean(ranks > 0.95), np.median(ranks)
            parts.append(f"{name} {high:4.0%} (median rank {median:.2f})")
        print(f"{kind:20} {len(ranks)} borders, high by " + ", ".join(parts))
    print(json.dumps(records))


if __name__ == "__main__":
    main()
