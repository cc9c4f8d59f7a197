"""Is the border between given audio and made audio heard? Held-out clips of a run with a hole inpainted, and with a new ending.

    bash launch/quickstart.sh && python -m benchmarks.borders [RUN] [--clips 16]

Level and spectral flux at a border are ranked among all places of the same clip, as `benchmarks/reach.py` ranks its seams: a
click or a jump would raise them, and by chance 5 % of the borders are high (95th percentile). The original clip, ranked at the
same places, is the control: music itself may change there. What is given must come back as it was.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--clips", type=int, default=16)
    options = parser.parse_args()
    model = jen1_jax.load(options.run)
    rate, records = model.sample_rate, []
    for number, clip in enumerate(islice(clips_of(ShardData(str(options.run / "data"), 8, seed=0).sweep("test")), options.clips)):
        audio, seconds = clip.audio, len(clip.audio) / model.sample_rate
        hole, half = (0.4 * seconds, 0.6 * seconds), len(audio) // 2
        inpainted = model.inpaint(audio, [hole], clip.caption, seed=number)
        extended = model.extend(audio[:half], seconds - half / rate, clip.caption, seed=number)
        first, last = (round(edge * rate) for edge in hole)
        kept = half - round(EXTEND_FADE * rate)
        for ours, span in ((inpainted, slice(first)), (inpainted, slice(last, None)), (extended, slice(kept))):
            if not np.array_equal(ours[span], audio[span]):
                raise SystemExit(f"Clip {number} is changed where it was given.")
        for kind, made, borders in (("inpainted", inpainted, hole), ("continued", extended, (half / rate,))):
            records.append({"clip": number, "kind": kind} | judge(made, rate, borders))
            records.append({"clip": number, "kind": f"{kind}: original"} | judge(audio, rate, borders))
    print("By chance 5 % of the borders are high (95th percentile).")
    for kind in dict.fromkeys(record["kind"] for record in records):
        flux, level = (np.concatenate([r[name] for r in records if r["kind"] == kind]) for name in ("flux", "level"))
        high = f"high by flux {np.mean(flux > 0.95):4.0%}, by level step {np.mean(level > 0.95):4.0%}"
        print(f"{kind:20} {len(flux)} borders, {high}; medians {np.median(flux):.2f}, {np.median(level):.2f}")
    print(json.dumps(records))


if __name__ == "__main__":
    main()
