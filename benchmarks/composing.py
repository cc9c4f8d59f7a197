"""Measures whether a composing model follows captions, understands new words, and copies nothing.

    python -m benchmarks.composing RUN [--data DATA] [--latents LATENTS] [--captions 64] [--seeds 2]
        [--out DIR]

RUN is a trained run; DATA the music from which its held-out clips are taken, with the truth from
their scores (default: RUN/data); LATENTS what the diffusion model was trained on (default:
RUN/latents). `bash launch/compose.sh` makes all of them.

**Captions.** The model generates from held-out captions, of as many pieces as possible, with each
seed. Tempo (within 5 %), key, meter (triple or not) and drums of the results are measured, and
compared with the truth of the clip of the caption. "tempo or octave" also accepts half, double, a
third and three times the tempo; "key or near" the relative key and those a fifth away. A clip
counts for what its truth says. "shuffled" are the same results compared with the truth of all clips
of other pieces, as if each caption had been exchanged for that of another piece. The held-out clips
themselves and their round trips through the autoencoder show how good the measurements are. The
interval of the difference is a 95 % bootstrap interval over the pieces.

**New words.** `paraphrases.jsonl` has requests with words that no caption of composed music has. A
request whose new word occurs in a training caption of LATENTS is left out. Each result is compared
with the results of the requests that do not ask for the same: how often is it slower, more in
three, or with less evidence of drums, if that is what its request asks for? By chance it is half of
the time. The same comparison of held-out clips, by what their truth is, shows the ceiling.

**Copies.** `jen1_jax/evaluation/copies.py` says what a copy is. Of the held-out clips about 1 %
should be called copies, and all training clips that begin a second later and went through the
autoencoder.

It writes the generated audio, figures.json and plan.json into --out (default: RUN/composing). When
it was interrupted, the same command goes on with the clips that are missing.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.features import read
from data_pipeline.layout import info, piece_of
from data_pipeline.reading import examples
from jen1_jax.evaluation import adherence, copies, musical
from jen1_jax.generation.model import Model
from jen1_jax.models.checkpoints import Checkpoints
from jen1_numpy.errors import Refusal
from jen1_numpy.files import whole_file, write_text
from jen1_numpy.options import SamplingOptions

PARAPHRASES = Path(__file__).with_name("paraphrases.jsonl")
REQUEST_SEEDS = 2  # results of each paraphrase
EXAMPLES = 300  # training clips from which drums are learnt
DISTINCT = 500  # training clips whose nearest clips of other pieces give the threshold of copies
SHIFTED = 16  # training clips that must be recognised as copies
OFFSETS = 4  # places within a pooled frame of latents at which a clip begins when it is compared
BATCH, DRAWS = 16, 2000


@dataclass(frozen=True)
class Clip:
    """A held-out clip, its longest caption and what its score says."""

    piece: str
    caption: str
    audio: np.ndarray  # [samples, 2]
    truth: dict[str, Any]
    place: tuple[float, float]  # seconds at which it begins in its piece, and those of the piece


@dataclass(frozen=True)
class Job:
    """One clip to generate."""

    name: str  # of its file
    prompt: str
    seed: int
    place: tuple[float, float] | None = None


def held_out(data: Path, count: int, samples: int) -> list[Clip]:
    """`count` held-out clips of at least `samples`, drawn at random, as many from each piece."""
    by_piece = defaultdict(list)
    for clip in read(data, "test", seed=0):
        if clip["valid_samples"] >= samples and any(clip["captions"]):
            by_piece[piece_of(clip["id"])].append(clip["id"])
    places = sorted((turn, id) for ids in by_piece.values() for turn, id in enumerate(ids))
    chosen = {id for _, id in places[:count]}
    if len(chosen) < count or len(by_piece) < 2:
        raise Refusal(
            f"{data} has {len(chosen)} held-out clips of {samples / 48_000:.2f} s, of "
            f"{len(by_piece)} pieces; give fewer --captions, or data of more pieces."
        )
    return [
        Clip(
            piece_of(clip["id"]),
            max(clip["captions"], key=len),
            clip["audio"][:samples],
            musical.truth(clip["meta"]),
            (float(clip["start"]), float(clip["total"])),
        )
        for clip in read(data, "test", seed=0)
        if clip["id"] in chosen
    ]


def generate(model: Model, jobs: Sequence[Job], samples: int, out: Path) -> list[np.ndarray]:
    """The audio of all jobs, which is kept in `out`; only what is missing is generated."""
    path = lambda job: out / f"{job.name}.flac"
    missing = [job for job in jobs if not path(job).exists()]
    timed = "timing" in model.sampler.unet.conditioning
    for first in range(0, len(missing), BATCH):
        part = missing[first : first + BATCH]
        options: SamplingOptions = {}
        if timed:
            seconds = samples / model.sample_rate
            starts, totals = zip(*(job.place or (0.0, seconds) for job in part), strict=True)
            options = {"start": list(starts), "total": list(totals)}
        prompts, seeds = [job.prompt for job in part], [job.seed for job in part]
        pieces = model.generate(prompts, samples / model.sample_rate, seeds, **options)
        for job, audio in zip(part, pieces, strict=True):
            with whole_file(path(job)) as partial:
                soundfile.write(partial, audio, model.sample_rate, format="FLAC")
        print(f"generated {first + len(part)} of {len(missing)} clips", flush=True)
    return [soundfile.read(path(job), dtype="float32")[0] for job in jobs]


def agreement(
    measured: Sequence[Sequence[Mapping[str, Any]]], clips: Sequence[Clip]
) -> dict[str, dict[str, Any]]:
    """How often measurements agree with the truth of their clip, and with that of other pieces.

    `measured[s][n]` belongs to clip n and seed s. For each of `musical.AGREEMENTS`, `right` is the
    share of agreement with the truth, `shuffled` that with the truth of clips of other pieces, and
    `difference` their difference with its 95 % interval over the pieces.
    """
    found = {}
    for name, (field, agrees) in musical.AGREEMENTS.items():
        rows = [row for row, clip in enumerate(clips) if field in clip.truth]
        own = np.array([clips[row].piece for row in rows])
        if len(set(own)) < 2:
            continue
        agreed = np.mean(
            [
                [[agrees(seed[a][field], clips[b].truth[field]) for b in rows] for a in rows]
                for seed in measured
            ],
            axis=0,
        )
        weights = resampled(own)
        right = weights @ np.diag(agreed) / weights.sum(1)
        shuffled = weighted_mean(agreed, own[:, None] != own, weights)
        found[name] = {
            "clips": len(rows),
            "pieces": len(set(own)),
            "right": float(right[0]),
            "right_interval": interval(right),
            "shuffled": float(shuffled[0]),
            "difference": float(right[0] - shuffled[0]),
            "difference_interval": interval(right - shuffled),
        }
    return found


def resampled(groups: np.ndarray) -> np.ndarray:
    """Weights [draws, rows] of a bootstrap over groups of rows; those of the first draw are 1."""
    names, group = np.unique(groups, return_inverse=True)
    draws = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), DRAWS)
    return np.concatenate([np.ones((1, len(group))), draws[:, group]])


def weighted_mean(values: np.ndarray, valid: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over the valid pairs [rows, rows], with the weights of both rows, of each draw."""
    total = lambda pairs: np.einsum("da,ab,db->d", weights, pairs, weights, optimize=True)
    with np.errstate(invalid="ignore"):  # NaN where a draw has no valid pair
        return total(values * valid) / total(valid.astype(float))


def interval(draws: np.ndarray) -> list[float]:
    """The 95 % interval of the draws after the first one."""
    return [round(float(end), 3) for end in np.nanpercentile(draws[1:], (2.5, 97.5))]


def directions(asks: Mapping[str, Any]) -> dict[str, int]:
    """Of each field, whether larger (1) or smaller (-1) measurements are right."""
    signs = {}
    if "tempo" in asks:
        signs["tempo"] = -1 if asks["tempo"][0] == 0 else 1
    if "meter" in asks:
        signs["meter"] = 1 if asks["meter"] == "3/4" else -1
    if "drums" in asks:
        signs["drums"] = 1 if asks["drums"] else -1
    return signs


def true_directions(truth: Mapping[str, Any]) -> dict[str, int]:
    """What a request for a clip with this truth would ask for, as the paraphrases do."""
    signs = {field: 1 if truth[field] else -1 for field in ("meter", "drums") if field in truth}
    if not 80 <= truth.get("tempo", 100) < 130:
        signs["tempo"] = -1 if truth["tempo"] < 80 else 1
    return signs


def moved(
    measured: Sequence[Sequence[Mapping[str, Any]]],
    signs: Sequence[Mapping[str, int]],
    groups: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """How often results lie further in the right direction than those of other requests.

    `measured[s][n]` belongs to request n, which asks for `signs[n]`. A result is compared with
    those of requests of other groups that do not ask for the same; equal ones count half. For each
    field and for `all`: the `share` and its 95 % interval over the groups.
    """
    own = np.array(groups)
    weights, counted = resampled(own), {}
    for field in ("tempo", "meter", "drums"):
        sign = np.array([each.get(field, 0) for each in signs])
        values = np.array([[each[field] for each in seed] for seed in measured])
        difference = values[:, None, :, None] - values[None, :, None, :]
        right = (np.sign(difference).mean((0, 1)) * sign[:, None] + 1) / 2
        valid = (sign[:, None] != 0) & (sign[:, None] != sign) & (own[:, None] != own)
        if valid.any():
            counted[field] = weighted_mean(right, valid, weights), int((sign != 0).sum())
    # Each field counts by the number of requests that ask for it.
    everything = np.average(
        [each for each, _ in counted.values()], 0, [n for _, n in counted.values()]
    )
    counted["all"] = everything, sum(n for _, n in counted.values())
    return {
        field: {"asked": n, "share": float(draws[0]), "share_interval": interval(draws)}
        for field, (draws, n) in counted.items()
    }


def training_latents(folder: Path, frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """Pieces and pooled latents of the training clips."""
    for clip in examples(str(folder), "train"):
        yield (
            piece_of(clip["id"]),
            copies.pooled(clip["latents"][: int(clip["valid_frames"])], frames),
        )


def unseen(paraphrases: Sequence[Mapping[str, Any]], latents: Path) -> list[Mapping[str, Any]]:
    """The paraphrases none of whose new words occurs in a training caption."""
    words: set[str] = set()
    for clip in examples(str(latents), "train"):
        words.update(*(re.findall(r"\w+", caption.lower()) for caption in clip["captions"]))
    return [each for each in paraphrases if words.isdisjoint(each["new"])]


def count_copies(
    model: Model, groups: Mapping[str, Sequence[np.ndarray]], data: Path, latents: Path
) -> dict[str, Any]:
    """The share of copies in each group of clips, and the similarity from which one is a copy.

    The group "shifted" is added: training clips that begin a second later, after the autoencoder.
    Its attacks lie elsewhere in the frames, so each clip is compared from `OFFSETS` places on.
    """
    frames = model.sampler.window
    codec, second = model.codec, model.sample_rate
    trained = {clip["id"] for clip in examples(str(latents), "train")}
    whole = (
        clip["audio"]
        for clip in read(data, "train", seed=1)
        if clip["valid_samples"] == len(clip["audio"]) and clip["id"] in trained
    )
    known = [audio[second:] for audio in islice(whole, SHIFTED)]
    shifted = [codec.decode(codec.encode(audio), len(audio)) for audio in known]
    groups = {**groups, "shifted": shifted}
    encoded = [
        copies.pooled(codec.encode(audio[place * copies.POOL * codec.hop // OFFSETS :]), frames)
        for audio in chain(*groups.values())
        for place in range(OFFSETS)
    ]
    count = info(str(latents)).examples["train"]
    places = np.random.default_rng(0).permutation(count)[:DISTINCT].tolist()
    distinct, pieces = [], []
    for clip in examples(str(latents), "train", places):
        distinct.append(copies.pooled(clip["latents"][: int(clip["valid_frames"])], frames))
        pieces.append(piece_of(clip["id"]))
    found = copies.nearest(
        np.stack(encoded + distinct),
        [""] * len(encoded) + pieces,
        training_latents(latents, frames),
    )
    threshold = float(np.quantile(found[len(encoded) :], 1 - copies.CLOSEST))
    found = found[: len(encoded)].reshape(-1, OFFSETS).max(1)
    result: dict[str, Any] = {"threshold": threshold, "training_clips": count}
    for name, clips in groups.items():
        ours, found = found[: len(clips)], found[len(clips) :]
        result[name] = {
            "copies": float((ours > threshold).mean()),
            "median_similarity": float(np.median(ours)),
            "largest_similarity": float(ours.max()),
        }
    return result


def table(
    rows: Mapping[str, Mapping[str, Any]],
    words: Mapping[str, Mapping[str, Any]],
    similar: Mapping[str, Any],
) -> str:
    """All figures as text."""
    cell = lambda row, name: (
        f"{row[name]:.0%} ({' to '.join(f'{x:.0%}' for x in row[name + '_interval'])})"
    )
    titles = ("real", "round trip", "generated", "shuffled", "difference")
    lines = [f"{'':16}{'clips':>6}{'pieces':>7}" + "".join(f"{title:>20}" for title in titles)]
    for name, ours in rows["generated"].items():
        cells = [cell(rows[row][name], "right") for row in ("real", "round trip", "generated")]
        cells += [f"{ours['shuffled']:.0%}", cell(ours, "difference")]
        line = f"{name:16}{ours['clips']:6}{ours['pieces']:7}"
        lines.append(line + "".join(f"{each:>20}" for each in cells))
    lines += ["", "results that lie in the right direction (by chance 50%):"]
    for field, ours in words["generated"].items():
        real = words["real"].get(field)
        ceiling = f"; real clips {cell(real, 'share')}" if real else ""
        lines.append(f"{field:16}{ours['asked']:6} requests  {cell(ours, 'share')}{ceiling}")
    lines += ["", f"copies: more similar than {similar['threshold']:.3f} to a training clip"]
    for name in ("generated", "real", "shifted"):
        one = similar[name]
        lines.append(f"{name:16}{one['copies']:6.1%}  median {one['median_similarity']:.3f}")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a trained run")
    parser.add_argument("--data", type=Path, help="prepared music; default: RUN/data")
    parser.add_argument("--latents", type=Path, help="default: RUN/latents")
    parser.add_argument("--captions", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: RUN/composing")
    options = parser.parse_args()
    if options.captions < 2 or options.seeds < 1:
        parser.error("--captions must be at least 2, and --seeds at least 1.")
    options.data = options.data or options.run / "data"
    options.latents = options.latents or options.run / "latents"
    options.out = options.out or options.run / "composing"
    return options


def main() -> None:
    options = parse_arguments()
    model = Model.load(options.run)
    rate = model.sample_rate
    samples = min(model.sampler.window * model.codec.hop, info(str(options.data)).shape[0])
    clips = held_out(options.data, options.captions, samples)
    lines = PARAPHRASES.read_text("utf-8").splitlines()
    paraphrases = [json.loads(line) for line in lines]
    asked = unseen(paraphrases, options.latents)
    jobs = [
        Job(f"caption-{number:03}-seed-{seed}", clip.caption, seed * 1000 + number, clip.place)
        for seed in range(options.seeds)
        for number, clip in enumerate(clips)
    ]
    requests = [
        Job(f"request-{paraphrases.index(each):02}-seed-{seed}", each["request"], seed)
        for seed in range(REQUEST_SEEDS)
        for each in asked
    ]
    step = Checkpoints.newest(model.run.checkpoints("diffusion"))
    plan = {"step": step, "jobs": [[job.name, job.prompt] for job in jobs + requests]}
    options.out.mkdir(parents=True, exist_ok=True)
    recorded = options.out / "plan.json"
    if recorded.exists() and json.loads(recorded.read_text()) != plan:
        raise Refusal(
            f"{options.out} has music of another checkpoint or of other captions; "
            "name another folder with --out."
        )
    write_text(recorded, json.dumps(plan, indent=1))
    results = generate(model, jobs + requests, samples, options.out)
    real = [clip.audio for clip in clips]
    round_trip = [model.codec.decode(model.codec.encode(audio), samples) for audio in real]

    known = list(islice(read(options.data, "train", seed=0), EXAMPLES))
    known = [clip for clip in known if clip["meta"].get("drums") is not None]
    describe = lambda audio: adherence.describe(audio, rate)["drums"]
    drums = adherence.log_odds(
        np.stack([describe(clip["audio"][:samples]) for clip in known]),
        [clip["meta"]["drums"] for clip in known],
    )
    del known

    def measure(audio: Sequence[np.ndarray], seeds: int = 1) -> list[list[dict[str, Any]]]:
        odds = drums(np.stack([describe(clip) for clip in audio]))
        found = [
            musical.measure(clip, rate) | {"drums": float(each)}
            for clip, each in zip(audio, odds, strict=True)
        ]
        size = len(found) // seeds
        return [found[seed * size : (seed + 1) * size] for seed in range(seeds)]

    measured = measure(real)
    rows = {
        "real": agreement(measured, clips),
        "round trip": agreement(measure(round_trip), clips),
        "generated": agreement(measure(results[: len(jobs)], options.seeds), clips),
    }
    words = {
        "real": moved(
            measured,
            [true_directions(clip.truth) for clip in clips],
            [clip.piece for clip in clips],
        ),
        "generated": moved(
            measure(results[len(jobs) :], REQUEST_SEEDS),
            [directions(each["asks"]) for each in asked],
            [each["request"] for each in asked],
        ),
    }
    groups = {"generated": results, "real": real}
    similar = count_copies(model, groups, options.data, options.latents)
    print(table(rows, words, similar))
    record = {
        "run": str(options.run),
        "data": str(options.data),
        "step": step,
        "captions": options.captions,
        "seeds": options.seeds,
        "seconds": samples / rate,
        "left_out": [each["request"] for each in paraphrases if each not in asked],
        "rows": rows,
        "words": words,
        "copies": similar,
    }
    write_text(options.out / "figures.json", json.dumps(record))
    print(json.dumps(record))


if __name__ == "__main__":
    main()
