"""Reads a whole data set, in several processes, and reports its contents and its problems."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from data_pipeline.checking import SHARES, STEP, Found, Shard, check_shard, opened, unreadable
from data_pipeline.commit import CHECKSUMS
from data_pipeline.embeddings import open_embeddings
from data_pipeline.layout import LICENCES, NAME, SAMPLE_RATE, Info, info
from data_pipeline.listed import Listed, among_splits, of_table
from jen1_numpy.errors import Refusal

WORTH = 256 * 2**20  # bytes of shards for which it is worth starting another process


@dataclass(frozen=True)
class Repairs:
    """What `repair` needs to know."""

    bad: Mapping[str, set[int]]  # split -> places of the clips to drop
    torn: set[tuple[str, int]]  # split and number of the shards to write again
    checksums: Mapping[str, str]  # of the others
    listed: bool  # whether pieces/ fits the shards
    lasting: list[str]  # problems that `repair` does not mend


@dataclass(frozen=True)
class Report:
    """What `validate` found."""

    folder: str
    kind: str
    examples: dict[str, int]
    withdrawn: dict[str, int]  # clips of the examples, by split
    valid_rows: dict[str, int]  # samples or frames without padding, by split
    levels: dict[str, tuple[float, float, float]]  # 5th, 50th and 95th percentile over clips
    shares: dict[str, float]  # of clips that are mono-like, clipped, silent
    without_caption: int  # clips
    captions_each: tuple[int, int, int]  # least, median and most of the other clips
    captions: int  # distinct ones
    truth: dict[str, tuple[int, int, int]]  # field -> clips with it, their captions, naming it
    problems: list[str]  # sentences
    repairs: Repairs

    def to_json(self) -> dict:
        """All but the repairs."""
        return {name: value for name, value in vars(self).items() if name != "repairs"}

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.kind}"]
        for split, count in sorted(self.examples.items(), reverse=True):
            rows, gone = self.valid_rows.get(split, 0), self.withdrawn.get(split, 0)
            length = (
                f"{rows / SAMPLE_RATE / 3600:.3f} hours"
                if self.kind == "waveform"
                else f"{rows} frames"
            )
            lines.append(
                f"{split}: {count} clips, {length}" + (f"; {gone} are withdrawn" if gone else "")
            )
        for name, (low, middle, high) in self.levels.items():
            lines.append(
                f"{name}: {low:.2f} / {middle:.2f} / {high:.2f} (5th, 50th, 95th percentile)"
            )
        lines += [
            f"{name}: {100 * share:.1f} % of the clips" for name, share in self.shares.items()
        ]
        least, middle, most = self.captions_each
        lines.append(
            f"captions: {self.captions} distinct; {least} / {middle} / {most} a clip "
            f"(least, median, most); {self.without_caption} clips have none"
        )
        lines += [
            f"{name}: known of {count} clips, in {named} of their {captions} written captions"
            for name, (count, captions, named) in sorted(self.truth.items())
        ]
        return "\n".join([*lines, *(self.problems or ["no problems"])])


def validate(
    folder: str,
    progress: Callable[[str], None] = print,
    *,
    jobs: int | None = None,
    fingerprints: Mapping[str, str] | None = None,
) -> Report:
    """Reads and checks every clip of `folder`, and what is said about it in other files.

    Levels are counted in bins, and of each recording 17 bytes are kept, and 8 of each caption.
    Comparing their fingerprints takes more memory (see `judging.duplicates`).

    Args:
        jobs: processes; by default as many as there are cores and as it is worth.
        fingerprints: of the autoencoder and of the text encoder of a run, which the latents must
            have.

    Raises:
        Refusal: there is no data set.
    """
    about = info(folder)
    (known, wrong), listed, found = _checksums(about), Listed(about), Found()
    shards = _paths(about)
    size = sum(path.stat().st_size for path in shards if path.exists())
    jobs = min(jobs or os.cpu_count() or 1, -(-size // WORTH) or 1)
    began = reported = time.monotonic()
    for done, each in enumerate(_check(listed.shards(folder, known), jobs), 1):
        found.add(each)
        if time.monotonic() - reported > 5:
            reported = time.monotonic()
            rest = (reported - began) * (len(shards) / done - 1)
            end = datetime.now() + timedelta(seconds=rest)
            progress(f"{done}/{len(shards)} shards; ends at about {end:%d %b %H:%M}")
    lasting = [*listed.problems, *_others(about, found, fingerprints), *of_table(folder, listed)]
    expected = {path.name for path in shards}
    strange = {path.name for path in about.folder.glob(f"{NAME}-*.array_record-*")} - expected
    lasting += [f"{name} is no shard of this data set" for name in sorted(strange)]
    bad = {split: set(places) for split, places in found.bad.items()}
    found.problems += wrong
    if not listed.problems:
        if about.licences and about.licences != dict(listed.licences):
            found.problems.append(f"{LICENCES} has other counts than pieces/")
        for problem, split, places in among_splits(folder, listed):
            found.problems.append(problem)
            bad.setdefault(split, set()).update(places)
    count = max(found.clips.total(), 1)
    captioned = Counter({each: n for each, n in found.captions_each.items() if each})
    return Report(
        folder=folder,
        kind=about.kind,
        examples=dict(about.examples),
        withdrawn=dict(found.withdrawn),
        valid_rows=dict(found.valid_rows),
        levels={
            name: tuple(STEP * _percentile(bins, share) for share in (0.05, 0.5, 0.95))
            for name, bins in sorted(found.levels.items(), reverse=True)
        },
        shares={name: found.shares[name] / count for name in SHARES[about.kind]},
        without_caption=found.captions_each[0],
        captions_each=tuple(_percentile(captioned, share) for share in (0, 0.5, 1)),
        captions=listed.captions,
        truth={name: tuple(counts.tolist()) for name, counts in found.truth.items()},
        problems=found.problems + lasting,
        repairs=Repairs(bad, set(found.torn), found.checksums, not listed.problems, lasting),
    )


def _paths(about: Info) -> list[Path]:
    return [
        about.shard(split, number)
        for split, lengths in about.shards.items()
        for number in range(len(lengths))
    ]


def _percentile(bins: Mapping[int, int], share: float) -> int:
    """The bin below which a share of what was counted lies; 0 if nothing was."""
    last, left = 0, share * (sum(bins.values()) - 1)
    for last in sorted(bins):
        left -= bins[last]
        if left < 0:
            break
    return last


def _checksums(about: Info) -> tuple[dict[str, str], list[str]]:
    """What checksums.json says, and what is wrong with it."""
    try:
        known = json.loads((about.folder / CHECKSUMS).read_text())
        if not isinstance(known, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        return {}, [f"{CHECKSUMS} is missing or damaged ({error})"]
    shards = {path.name for path in _paths(about)}
    return known, [f"{CHECKSUMS} lacks {name}" for name in sorted(shards - known.keys())]


def _others(about: Info, found: Found, fingerprints: Mapping[str, str] | None) -> list[str]:
    """What is wrong with embeddings and fingerprints."""
    problems = [
        f"the embedding of {text!r} is missing or damaged" for text in sorted(found.lacking)
    ]
    try:
        if open_embeddings(str(about.folder)) is None and "text" in (about.fingerprint or {}):
            problems.append("there are no embeddings of the captions")
    except Refusal as refusal:
        problems.append(str(refusal))
    if about.kind == "latents":
        theirs = about.fingerprint or {}
        if "autoencoder" not in theirs:
            problems.append("the latents have no fingerprint of their autoencoder")
        for name in theirs.keys() & {"autoencoder", "text"} if fingerprints is not None else ():
            ours = fingerprints.get(name, "none")
            if theirs[name] != ours:
                kind = "autoencoder" if name == "autoencoder" else "text encoder"
                problems.append(
                    f"the {kind} has the fingerprint {theirs[name][:12]}, and that of the run has "
                    f"{ours[:12]}"
                )
    return problems


def _check(shards: Iterator[Shard], jobs: int) -> Iterator[Found]:
    """What is in each shard, found by so many processes; one that crashes costs its shard alone."""
    if jobs == 1:
        opened.cache_clear()  # the data set may have changed since an earlier call
        yield from map(check_shard, shards)
        return
    while True:
        pool, running = _pool(jobs), {}
        try:
            while True:
                for shard in islice(shards, 2 * jobs - len(running)):
                    running[pool.submit(check_shard, shard)] = shard
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del running[future]
        except BrokenProcessPool:
            yield from map(_alone, list(running.values()))
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(shard: Shard) -> Found:
    """What is in a shard that may crash the process that reads it."""
    with _pool(1) as pool:
        try:
            return pool.submit(check_shard, shard).result()
        except BrokenProcessPool:
            name = info(shard.folder).shard(shard.split, shard.number).name
            return unreadable(shard, f"{name} crashes the process that reads it")


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context("spawn"))  # TensorFlow does not survive a fork
