"""Measures how much of held-out music a linear model predicts from what is known of it.

    python -m benchmarks.predictable LATENTS [--draws 3]

LATENTS is a latent data set with the metadata of scores, from `jen1 data encode`. For each clip its
latents are averaged over time. A ridge regression predicts them from the fields of the score:
instruments, style, drums, dynamics, density, register, mode, meter and tempo. It is fitted to the
clips of some training pieces, drawn at random, and tested on the held-out clips. What is printed is
the share of the variance of the held-out means that it predicts (R squared), by the number of
pieces: the mean over the draws, each with the best of four penalties.

The more it grows with the number of pieces, the more a generator would gain from more pieces. A
generator can do better than a linear model; but if R squared is near 0, hardly anything of the
captions can be learnt from so few pieces.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_pipeline.layout import piece_of
from data_pipeline.reading import examples

PENALTIES = (30.0, 100.0, 300.0, 1000.0)
FIELDS = ("style", "dynamics", "density", "register", "mode", "meter")
FEWEST = 40  # pieces


def features(meta: Mapping[str, Any]) -> dict[str, float]:
    """The fields of a clip's score as numbers by name; of a missing field there is none."""
    found = {f"instrument {each['name']}": 1.0 for each in meta.get("instruments") or ()}
    for field in FIELDS:
        value = meta.get(field)
        if isinstance(value, str):
            found[f"{field} {value}"] = 1.0
        elif value is not None:
            found[field] = float(value) / 10
    found["drums"] = float(bool(meta.get("drums")))
    found["tempo"] = (meta.get("tempo") or 100.0) / 100 - 1
    return found | {"constant": 1.0}


def matrix(
    clips: Sequence[Mapping[str, float]], names: Sequence[str]
) -> Float[np.ndarray, "clips names"]:
    return np.array([[clip.get(name, 0.0) for name in names] for clip in clips])


def explained(
    known: Sequence[Mapping[str, float]],
    means: Float[np.ndarray, "clips k"],
    held_out: Sequence[Mapping[str, float]],
    true: Float[np.ndarray, "held_out k"],
) -> float:
    """R squared of the held-out means, by a regression fitted to the other clips."""
    names = sorted({name for clip in known for name in clip})
    x, test, centre = matrix(known, names), matrix(held_out, names), means.mean(0)
    errors = []
    for penalty in PENALTIES:
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(len(names)), x.T @ (means - centre))
        errors.append(((test @ weights + centre - true) ** 2).sum())
    return float(1 - min(errors) / ((true - true.mean(0)) ** 2).sum())


def read(folder: Path, split: str) -> tuple[np.ndarray, list[dict[str, float]], np.ndarray]:
    """Means of the latents, features and pieces of the clips of a split."""
    means, known, pieces = [], [], []
    for clip in examples(str(folder), split):
        latents = clip["latents"][: int(clip["valid_frames"])]
        means.append(latents.astype(np.float64).mean(0))
        known.append(features(json.loads(clip["meta"])))
        pieces.append(piece_of(clip["id"]))
    return np.array(means), known, np.array(pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("latents", type=Path, help="what `jen1 data encode` has written")
    parser.add_argument("--draws", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args()
    means, known, pieces = read(options.latents, "train")
    true, held_out, others = read(options.latents, "test")
    names = np.unique(pieces)
    print(f"{len(true)} held-out clips of {len(np.unique(others))} pieces")
    counts = [len(names)]
    while counts[-1] // 2 >= FEWEST:
        counts.append(counts[-1] // 2)
    for count in reversed(counts):
        found, clips = [], 0
        for draw in range(options.draws if count < len(names) else 1):
            chosen = np.random.default_rng(draw).permutation(names)[:count]
            rows = np.flatnonzero(np.isin(pieces, chosen))
            clips = len(rows)
            found.append(explained([known[row] for row in rows], means[rows], held_out, true))
        print(f"{count} pieces, {clips} clips: R squared {np.mean(found):.3f}")


if __name__ == "__main__":
    main()
