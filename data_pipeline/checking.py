"""Checks the clips of one shard: a pure function, run in any process."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipeline.captioning import write
from data_pipeline.captioning.writing import NAMEABLE
from data_pipeline.embeddings import Embeddings, open_embeddings
from data_pipeline.hashing import digest
from data_pipeline.layout import SAMPLE_RATE, TOLERANCE, Info, info, piece_of
from data_pipeline.reading import Clips, Damaged
from jen1_numpy.errors import Refusal

STEP = 0.01  # width of the bins of a level, which are counted instead of kept


@dataclass(frozen=True)
class Row:
    """What pieces/ says of a recording."""

    id: str
    first: int
    clips: int
    captions: Sequence[str]


@dataclass(frozen=True)
class Shard:
    """A shard to check.

    Args:
        clips: the places of its clips in the split.
        rows: the recordings of which it holds clips, in order; None if pieces/ does not say it.
        checksum: SHA-256 that checksums.json has; None if it has none.
    """

    folder: str
    split: str
    number: int
    clips: range
    rows: Sequence[Row] | None
    checksum: str | None


@dataclass
class Found:
    """What is in a shard, or in several."""

    problems: list[str] = field(default_factory=list)  # sentences
    bad: dict[str, list[int]] = field(default_factory=dict)  # split -> places of clips
    torn: list[tuple[str, int]] = field(default_factory=list)  # shards to write again
    checksums: dict[str, str] = field(default_factory=dict)
    lacking: set[str] = field(default_factory=set)  # captions without an embedding
    withdrawn: Counter[str] = field(default_factory=Counter)  # clips by split
    clips: Counter[str] = field(default_factory=Counter)  # by split, without those
    valid_rows: Counter[str] = field(default_factory=Counter)
    levels: dict[str, Counter] = field(default_factory=dict)  # name -> clips by number of the bin
    shares: Counter[str] = field(default_factory=Counter)  # clips
    captions_each: Counter[int] = field(default_factory=Counter)  # clips by number of captions
    truth: dict[str, np.ndarray] = field(default_factory=dict)  # field -> three counts

    def add(self, other: "Found") -> None:
        self.problems += other.problems
        self.torn += other.torn
        self.checksums |= other.checksums
        self.lacking |= other.lacking
        for split, places in other.bad.items():
            self.bad.setdefault(split, []).extend(places)
        for name in ("withdrawn", "clips", "valid_rows", "shares", "captions_each"):
            getattr(self, name).update(getattr(other, name))
        for name, bins in other.levels.items():
            self.levels.setdefault(name, Counter()).update(bins)
        for name, counts in other.truth.items():
            self.truth[name] = self.truth.get(name, 0) + counts


def check_shard(shard: Shard) -> Found:
    """Reads a shard and all of its clips."""
    about, clips, embeddings = opened(shard.folder, shard.split)
    path, found = about.shard(shard.split, shard.number), Found()
    records = about.shards[shard.split][shard.number]
    try:
        found.checksums[path.name] = digest(path)
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
        held = reader.num_records()
        reader.close()
    except (OSError, RuntimeError, ValueError) as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        return unreadable(shard, f"{path.name} {what}")
    if shard.checksum and shard.checksum != found.checksums[path.name]:
        found.problems.append(f"{path.name} has another checksum than in checksums.json")
        found.torn.append((shard.split, shard.number))
    if held != records:
        found.problems.append(f"{path.name} holds {held} records and not {records}")
        found.torn.append((shard.split, shard.number))
    rows = iter(shard.rows or ())
    row, last = next(rows, None), -1.0  # the start of the clip before in the same recording
    said: set[str] = set()
    for place in shard.clips:
        while row is not None and place >= row.first + row.clips:
            row, last = next(rows, None), -1.0
        try:
            clip = clips.read(place)
        except Damaged as damage:
            of = f" ({row.id})" if row else ""
            found.problems.append(f"clip {place} of {shard.split}{of} is damaged: {damage}")
            found.bad.setdefault(shard.split, []).append(place)
            continue
        if place in clips.withdrawn:
            found.withdrawn[shard.split] += 1
            continue
        wrong = _wrong(about, clip) + (_other(row, clip, last) if row else [])
        last = float(clip["start"])
        if wrong:
            found.problems += [f"{clip['id']}: {what}" for what in wrong]
            found.bad.setdefault(shard.split, []).append(place)
        if 0 < clip[about.data_fields[1]] <= about.shape[0]:
            _count(found, about, shard.split, clip)
            said.update(clip["captions"])
    if embeddings:
        found.lacking = {caption for caption in said if not _embedded(embeddings, caption)}
    return found


def unreadable(shard: Shard, what: str) -> Found:
    """What is found of a shard of which nothing can be read."""
    clips = f"clips {shard.clips[0]} to {shard.clips[-1]} of {shard.split}" if shard.clips else "-"
    return Found(
        problems=[f"{what}: {clips}"],
        bad={shard.split: list(shard.clips)},
        torn=[(shard.split, shard.number)],
    )


@cache
def opened(folder: str, split: str) -> tuple[Info, Clips, Embeddings | None]:
    try:
        embeddings = open_embeddings(folder)
    except Refusal:  # `validate` says so
        embeddings = None
    return info(folder), Clips(folder, split), embeddings


def _embedded(embeddings: Embeddings, caption: str) -> bool:
    try:
        return bool(np.isfinite(embeddings(caption)).all())
    except Refusal:
        return False


def _wrong(about: Info, clip: dict) -> list[str]:
    """What is wrong with a clip by itself."""
    data, valid_name = about.data_fields
    rows, valid, problems = clip[data], int(clip[valid_name]), []
    start, whole = float(clip["start"]), float(clip["total"])
    if not 0 < valid <= len(rows):
        return [f"{valid_name} is {valid}, outside 1 to {len(rows)}"]
    if about.kind == "waveform" and rows[valid:].any():
        problems.append("the padding is not zero")
    if about.kind == "latents" and not np.isfinite(rows).all():
        problems.append("the latents are not finite")
    length = valid / SAMPLE_RATE if about.kind == "waveform" else 0.0
    if not (start >= 0 and start + length <= whole + TOLERANCE):
        problems.append(f"it begins at {start:.2f} s and ends beyond its piece of {whole:.2f} s")
    if not clip["captions"]:
        problems.append("it has no caption, not even an empty one")
    try:
        if not isinstance(json.loads(clip["meta"]), dict):
            raise ValueError
    except (ValueError, RecursionError):
        problems.append("its metadata is no JSON object")
    return problems


def _other(row: Row, clip: dict, last: float) -> list[str]:
    """How a clip differs from what pieces/ says of its place."""
    if piece_of(clip["id"]) != row.id:
        return [f"in pieces/ its place is one of {row.id}"]
    if clip["start"] <= last:
        return ["it does not begin after the clip before it"]
    if not set(clip["captions"]) <= {*row.captions}:
        return ["it has a caption that its recording does not have in pieces/"]
    return []


def _count(found: Found, about: Info, split: str, clip: dict) -> None:
    data, valid_name = about.data_fields
    valid, said = int(clip[valid_name]), [caption for caption in clip["captions"] if caption]
    found.clips[split] += 1
    found.valid_rows[split] += valid
    found.captions_each[len(said)] += 1
    levels, shares = (_audio if about.kind == "waveform" else _latents)(clip[data][:valid])
    found.shares.update(name for name, holds in shares.items() if holds)
    for name, level in levels.items():
        if np.isfinite(level):
            bins = found.levels.setdefault(name, Counter())
            bins[round(float(np.clip(level, -1000, 1000)) / STEP)] += 1
    try:
        named = _named(clip["id"], said, json.loads(clip["meta"]))
    except (ValueError, RecursionError, AttributeError):  # it is among the problems
        named = {}
    for name, counts in named.items():
        found.truth[name] = found.truth.get(name, 0) + np.array(counts)


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


SHARES = {"waveform": ("mono-like", "clipped", "silent"), "latents": ()}


def _audio(audio: np.ndarray) -> tuple[dict[str, float], dict[str, bool]]:
    x = audio.astype(np.float64) / 32767
    peak, power, side = np.abs(x).max(), (x**2).mean(), ((x[:, 0] - x[:, 1]) ** 2).mean() / 4
    return {
        "peak in dBFS": 20 * np.log10(max(peak, 1e-5)),
        "loudness (RMS) in dBFS": 10 * np.log10(max(power, 1e-10)),
    }, {
        "mono-like": side <= 1e-4 * power,
        "clipped": np.mean(np.abs(audio.astype(np.int32)) >= 32767) > 1e-4,
        "silent": peak < 1e-3,
    }


def _latents(latents: np.ndarray) -> tuple[dict[str, float], dict[str, bool]]:
    z = latents.astype(np.float64)
    return {"mean": z.mean(), "standard deviation": z.std(), "largest": np.abs(z).max()}, {}
