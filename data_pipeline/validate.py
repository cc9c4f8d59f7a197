"""Reads a whole data set and reports its contents and its problems."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data_pipeline.captioning import write
from data_pipeline.captioning.writing import NAMEABLE
from data_pipeline.layout import SAMPLE_RATE, TOLERANCE, info, piece_of
from data_pipeline.reading import Clips, Damaged
from jen1_numpy.errors import Refusal


@dataclass(frozen=True)
class Report:
    """What `validate` found."""

    folder: str
    kind: str
    examples: dict[str, int]
    valid_rows: dict[str, int]  # samples or frames without padding, by split
    levels: dict[str, tuple[float, float, float]]  # 5th, 50th and 95th percentile over records
    shares: dict[str, float]  # of records that are mono-like, clipped, silent
    without_caption: int  # records
    captions_each: tuple[float, float, float]  # least, median and most of the other records
    captions: int  # distinct ones
    truth: dict[str, tuple[int, int, int]]  # field -> records with it, their captions, naming it
    problems: list[str]  # sentences

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.kind}"]
        for split, count in sorted(self.examples.items(), reverse=True):
            rows = self.valid_rows[split]
            length = (
                f"{rows / SAMPLE_RATE / 3600:.3f} hours"
                if self.kind == "waveform"
                else f"{rows} frames"
            )
            lines.append(f"{split}: {count} records, {length}")
        for name, (low, middle, high) in self.levels.items():
            lines.append(
                f"{name}: {low:.2f} / {middle:.2f} / {high:.2f} (5th, 50th, 95th percentile)"
            )
        lines += [
            f"{name}: {100 * share:.1f} % of the records" for name, share in self.shares.items()
        ]
        least, middle, most = self.captions_each
        lines.append(
            f"captions: {self.captions} distinct; {least:g} / {middle:g} / {most:g} a record "
            f"(least, median, most); {self.without_caption} records have none"
        )
        lines += [
            f"{name}: known of {count} records, in {named} of their {captions} written captions"
            for name, (count, captions, named) in sorted(self.truth.items())
        ]
        return "\n".join([*lines, *(self.problems or ["no problems"])])


def validate(folder: str, progress: Callable[[str], None] = print) -> Report:
    """Reads and checks every record of `folder`.

    Raises:
        Refusal: there is no data set, or a shard cannot be read.
    """
    about = info(folder)
    data, valid_name = about.data_fields
    figures, valid_rows, files = defaultdict(list), Counter(), defaultdict(set)
    captions, captions_each, truth = set(), [], defaultdict(lambda: np.zeros(3, int))
    problems, reported, done, total = [], time.monotonic(), 0, sum(about.examples.values())
    for split, count in about.examples.items():
        clips = Clips(folder, split)
        for place in range(count):
            try:
                example = clips.read(place)
                rows, valid = example[data], int(example[valid_name])
            except Damaged as error:
                raise Refusal(
                    f"Record {place} of {split} in {folder} is broken ({error}); "
                    "prepare the data set again."
                ) from None
            id, said = example["id"], [caption for caption in example["captions"] if caption]
            start, whole = float(example["start"]), float(example["total"])
            if not 0 < valid <= len(rows):
                problems.append(f"{id}: {valid_name} is {valid}, outside 1 to {len(rows)}")
                continue
            if about.kind == "waveform" and rows[valid:].any():
                problems.append(f"{id}: the padding is not zero")
            length = valid / SAMPLE_RATE if about.kind == "waveform" else 0.0
            if not (start >= 0 and start + length <= whole + TOLERANCE):
                problems.append(
                    f"{id}: it begins at {start:.2f} s and ends beyond its piece of {whole:.2f} s"
                )
            valid_rows[split] += valid
            captions.update(said)
            captions_each.append(len(said))
            for name, counts in _named(id, said, json.loads(example["meta"])).items():
                truth[name] += counts
            files[split].add(piece_of(id))
            for name, figure in (_audio if about.kind == "waveform" else _latents)(
                rows[:valid]
            ).items():
                figures[name].append(figure)
            done += 1
            if time.monotonic() - reported > 5:
                reported = time.monotonic()
                progress(f"{done}/{total} records")
    for split in files.keys() - {"train"}:
        if leaked := files["train"] & files[split]:
            problems.append(
                f"{len(leaked)} files are in train and in {split}, for instance {min(leaked)}"
            )
    if "not finite" in figures and any(figures.pop("not finite")):
        problems.append("some latents are not finite")
    shares = {
        name: float(np.mean(figures.pop(name)))
        for name in ("mono-like", "clipped", "silent")
        if name in figures
    }
    levels = {
        name: tuple(float(p) for p in np.percentile(values, (5, 50, 95)))
        for name, values in figures.items()
    }
    captioned = [count for count in captions_each if count] or [0]
    return Report(
        folder=folder,
        kind=about.kind,
        examples=dict(about.examples),
        valid_rows=dict(valid_rows),
        levels=levels,
        shares=shares,
        without_caption=captions_each.count(0),
        captions_each=(min(captioned), float(np.median(captioned)), max(captioned)),
        captions=len(captions),
        truth={name: tuple(counts.tolist()) for name, counts in truth.items()},
        problems=problems,
    )


def _named(id: str, captions: list[str], meta: dict) -> dict[str, tuple[int, int, int]]:
    """Of each field of a score's truth: 1, how many captions were written, how many name it.

    Captions that were given with the score are left out.
    """
    if meta.get("source") != "midi":
        return {}
    written = {each.text: each.fields for each in write(meta, id)}
    fields = [written[caption] for caption in captions if caption in written]
    return {
        name: (1, len(fields), sum(name in each for each in fields))
        for name in NAMEABLE
        if name in meta
    }


def _audio(audio: np.ndarray) -> dict[str, float | bool]:
    x = audio.astype(np.float64) / 32767
    peak, power, side = np.abs(x).max(), (x**2).mean(), ((x[:, 0] - x[:, 1]) ** 2).mean() / 4
    return {
        "peak in dBFS": 20 * np.log10(max(peak, 1e-5)),
        "loudness (RMS) in dBFS": 10 * np.log10(max(power, 1e-10)),
        "mono-like": side <= 1e-4 * power,
        "clipped": np.mean(np.abs(audio.astype(np.int32)) >= 32767) > 1e-4,
        "silent": peak < 1e-3,
    }


def _latents(latents: np.ndarray) -> dict[str, float | bool]:
    z = latents.astype(np.float64)
    return {
        "mean": z.mean(),
        "standard deviation": z.std(),
        "largest": np.abs(z).max(),
        "not finite": not np.isfinite(z).all(),
    }
