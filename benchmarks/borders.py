"""Is the border between given audio and made audio heard? Held-out clips of a run with a hole inpainted, and with a new ending.

    bash launch/quickstart.sh && python -m benchmarks.borders [RUN] [--clips 16]

Level and spectral flux at a border are ranked among all places of the same clip, as `benchmarks/reach.py` ranks its seams, and so
is the largest second difference of the samples within 5 ms, which a click would raise. By chance 5 % of the borders are high
(95th percentile). The original, ranked at the same places, is the control: music may change there. What is given must come back.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np

import jen1_jax
from benchmarks.reach import judge
from data_pipeline.shard_data import ShardData
from jen1_jax.evaluation.autoencoder import clips_of
from jen1_jax.generation.model import EXTEND_FADE


def clicks(audio: np.ndarray, rate: int, borders: tuple[float, ...]) -> list[float]:
    """The rank (0 to 1) of the sharpest bend of the waveform at each border (seconds) among those of all places."""
    bend, reach = np.abs(np.diff(audio, n=2, axis=0)).max(1), round(0.005 * rate)
    sharpest = lambda at: bend[at - reach : at + reach].max()
    everywhere = np.array([sharpest(at) for at in range(reach, len(bend) - reach, reach)])
    return [float((everywhere < sharpest(round(border * rate))).mean()) for border in borders]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--clips", type=int, default=16)
    options = parser.parse_args()
    model = jen1_jax.load(options.run)
    rate, records = model.sample_rate, []
    for number, clip in enumerate(
        islice(
            clips_of(ShardData(str(options.run / "data"), 8, seed=0).sweep("test")), options.clips
        )
    ):
        audio, seconds = clip.audio, len(clip.audio) / model.sample_rate
        hole, half = (0.4 * seconds, 0.6 * seconds), len(audio) // 2
        inpainted = model.inpaint(audio, [hole], clip.caption, seed=number)
        extended = model.extend(audio[:half], seconds - half / rate, clip.caption, seed=number)
        first, last = (round(edge * rate) for edge in hole)
        kept = half - round(EXTEND_FADE * rate)
        for ours, span in (
            (inpainted, slice(first)),
            (inpainted, slice(last, None)),
            (extended, slice(kept)),
        ):
            if not np.array_equal(ours[span], audio[span]):
                raise SystemExit(f"Clip {number} is changed where it was given.")
        for kind, made, borders in (
            ("inpainted", inpainted, hole),
            ("continued", extended, (kept / rate, half / rate)),
        ):
            for name, sound in ((kind, made), (f"{kind}: original", audio)):
                figures = judge(sound, rate, borders) | {"click": clicks(sound, rate, borders)}
                records.append({"clip": number, "kind": name} | figures)
    print("By chance 5 % of the borders are high (95th percentile).")
    for kind in dict.fromkeys(record["kind"] for record in records):
        says = []
        for name in ("flux", "level", "click"):
            ranks = np.concatenate([record[name] for record in records if record["kind"] == kind])
            says.append(f"{name} {np.mean(ranks > 0.95):4.0%} (median rank {np.median(ranks):.2f})")
        print(f"{kind:20} {len(ranks)} borders, high by " + ", ".join(says))
    print(json.dumps(records))


if __name__ == "__main__":
    main()
