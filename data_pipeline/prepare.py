"""Audio to stereo shards: every file is decoded, judged, resampled to 48 kHz stereo and cut into clips of one length.

A file is read twice, in blocks: first to judge it as a whole, then to cut it. Memory stays bounded whatever its length, and
nothing of a bad file reaches the shards. Every rejection is counted and listed in rejected.jsonl; no file stands in for another.
"""

import hashlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_pipeline.shards import SAMPLE_RATE, Writer, waveform_features
from data_pipeline.sources import Item, Rejection, open_source
from jen1_jax.errors import Refusal
from jen1_jax.files import whole_folder

SILENCE = 10 ** (-60 / 20)  # peak
BLOCK = 1 << 18  # frames
MIN_CLIP, MAX_CLIP = 0.1, 600.0  # seconds
MIN_SECONDS = 1.0  # of a file, and of the last piece of one; half a clip where that is less


@dataclass(frozen=True)
class Report:
    """What `prepare` did: counts of files and clips, hours by split, and why things were left out."""

    out: str
    files: int
    accepted: int
    rejected: dict[str, int]  # reason -> files
    not_needed: int  # files left over once limit_hours was reached
    clips: dict[str, int]  # split -> clips
    hours: dict[str, float]  # split -> hours without padding
    dropped_seconds: dict[
        str, float
    ]  # of accepted files: "tail" too short for a clip, "silence" of whole clips
    captions: int  # distinct ones

    def __str__(self) -> str:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
            or "none"
        )
        lines = [f"files: {self.accepted} accepted of {self.files}; rejected: {reasons}"]
        if self.not_needed:
            lines.append(f"{self.not_needed} files were not needed for the hours asked for")
        lines += [
            f"{split}: {self.clips[split]} clips, {self.hours[split]:.3f} hours"
            for split in sorted(self.clips, reverse=True)
        ]
        dropped = ", ".join(
            f"{seconds:.1f} s {what}" for what, seconds in self.dropped_seconds.items() if seconds
        )
        lines += [f"dropped from accepted files: {dropped}"] if dropped else []
        return "\n".join([*lines, f"{self.captions} distinct captions", f"wrote {self.out}"])


def prepare(
    source: str,
    out: str,
    *,
    seconds: float = 10.24,
    seed: int = 0,
    clips: int = 1000,
    limit_hours: float | None = None,
    test_fraction: float = 0.1,
    progress: Callable[[str], None] = print,
) -> Report:
    """Writes the data set `out` from `source`: a folder, a .csv or .jsonl manifest, or "synthetic".

    Args:
        seconds: length of every clip; the last piece of a file is padded with zeros if it lasts `MIN_SECONDS`, else dropped.
        seed: of the synthesiser, of the split and of the sample that `limit_hours` takes.
        clips: how many clips the synthesiser makes; other sources ignore it.
        limit_hours: stop after this much accepted audio, taken from files in hash order: a fair sample, the same every time.
        test_fraction: share of the files that goes into the split "test", one at least; all clips of a file stay in one split.

    Raises:
        Refusal: the source is unusable, no file was accepted, or `out` exists or cannot be written; nothing is left under `out`.
    """
    if not (MIN_CLIP <= seconds <= MAX_CLIP):
        raise Refusal(
            f"--seconds {seconds} is no length for a clip; give {MIN_CLIP} to {MAX_CLIP}."
        )
    if not (0 <= test_fraction < 1 and clips > 0 and (limit_hours is None or limit_hours > 0)):
        raise Refusal("--clips and --limit-hours must be positive and the test fraction in [0, 1).")
    found = open_source(source, clips=clips, seconds=seconds, seed=seed)
    samples, shortest = round(seconds * SAMPLE_RATE), min(MIN_SECONDS, seconds / 2)
    rejections = [entry for entry in found if isinstance(entry, Rejection)]
    # In hash order the test files come first; if none of them is any good, the next ones take their place.
    items = sorted(
        (_hash(f"{seed}:{item.id}"), item.id, item) for item in found if isinstance(item, Item)
    )
    budget = {"test": test_fraction, "train": 1 - test_fraction}
    budget = {
        split: np.inf if limit_hours is None else limit_hours * 3600 * share
        for split, share in budget.items()
    }
    count, length, captions = Counter(), Counter(), set()
    dropped, seen, accepted, not_needed = {"tail": 0.0, "silence": 0.0}, {}, 0, 0
    began = told = time.monotonic()

    def split_of(place: float) -> str:
        test = test_fraction > 0 and len(items) > 1 and (place < test_fraction or not count["test"])
        return "test" if test else "train"

    def full(split: str) -> bool:
        return length[split] >= budget[split]

    with whole_folder(out) as folder:
        with Writer(
            folder,
            waveform_features(samples),
            f"48 kHz stereo clips of {seconds} s from {Path(source).name}",
        ) as writer:
            for done, (place, _, item) in enumerate(
                _played_ahead(items, lambda place: not full(split_of(place)))
            ):
                split = split_of(place)
                if full(split):
                    not_needed += 1
                    continue
                try:
                    total, pieces = _pieces(item, samples, shortest, seen)
                except _Bad as bad:
                    rejections.append(Rejection(item.id, bad.reason, bad.detail))
                    continue
                accepted += 1
                captions.add(item.caption)
                for start, piece in pieces:
                    at = start / SAMPLE_RATE
                    if len(piece) < shortest * SAMPLE_RATE and start:
                        dropped["tail"] += len(piece) / SAMPLE_RATE
                        continue
                    if np.abs(piece.astype(np.int32)).max() < SILENCE * 32767:
                        dropped["silence"] += len(piece) / SAMPLE_RATE
                        continue
                    count[split] += 1
                    length[split] += len(piece) / SAMPLE_RATE
                    audio = np.pad(piece, ((0, samples - len(piece)), (0, 0)))
                    texts = dict(
                        caption=item.caption,
                        id=f"{item.id}@{at:.3f}",
                        meta=json.dumps(item.meta, default=str),
                    )
                    writer.write(
                        split,
                        dict(audio=audio, valid_samples=len(piece), start=at, total=total, **texts),
                    )
                    if full(split):
                        break
                if time.monotonic() - told > 5:
                    told, hours = time.monotonic(), sum(length.values()) / 3600
                    speed = sum(length.values()) / (told - began)
                    progress(
                        f"{done + 1}/{len(items)} files, {hours:.2f} hours, {speed:.0f} times real time"
                    )
            if not accepted:
                raise Refusal(
                    f"No file of {source} was accepted: {_listing(rejections)}; nothing was written."
                )
            if not count["train"]:
                raise Refusal(
                    f"Only one file of {source} is usable and it went into the test split; use a test fraction of 0."
                )
        report = Report(
            out, len(found), accepted, dict(Counter(r.reason for r in rejections)), not_needed, dict(count),
            {split: length[split] / 3600 for split in count}, dropped, len(captions),
        )  # fmt: skip
        (folder / "rejected.jsonl").write_text(
            "".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rejections)
        )
        (folder / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    return report


def _played_ahead(
    items: list[tuple[float, str, Item]], wanted: Callable[[float], bool]
) -> Iterator[tuple[float, str, Item]]:
    """The same items; what the synthesiser makes is made by every core, a few items ahead (it spends its time in numpy).

    `wanted` says by an item's place whether it is still needed: what is not is left to whoever reads it.
    """
    cores = os.cpu_count() or 1
    waiting: deque[tuple[float, str, Item]] = deque()
    pool = ThreadPoolExecutor(cores)
    try:
        for place, name, item in items:
            if not isinstance(item.audio, Path) and wanted(place):
                item = replace(item, audio=pool.submit(item.audio).result)
            waiting.append((place, name, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft()
        yield from waiting
    finally:  # also where the reader stops midway
        pool.shutdown(cancel_futures=True)


class _Bad(Exception):
    """This file cannot be used."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _hash(text: str) -> float:
    """A place in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _listing(rejections: list[Rejection], most: int = 3) -> str:
    shown = "; ".join(f"{r.id}: {r.reason}" for r in rejections[:most])
    return shown + (f"; and {len(rejections) - most} more" if len(rejections) > most else "")


def _pieces(
    item: Item, samples: int, shortest: float, seen: dict[str, str]
) -> tuple[float, Iterator[tuple[int, np.ndarray]]]:
    """The item's seconds, and int16 [<= samples, 2] pieces with their first sample's number; `seen` maps contents to ids.

    Raises _Bad.
    """
    if not isinstance(item.audio, Path):
        audio = item.audio()
        return len(audio) / SAMPLE_RATE, _cut([audio], samples)
    peak, total = _judge(item.audio, shortest)
    with open(item.audio, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest in seen:
        raise _Bad("duplicate", f"the same bytes as {seen[digest]}")
    seen[digest] = item.id
    return total, _cut(_decode(item.audio, 1 / max(1.0, peak)), samples)


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Float32 [frames, channels] to the end; unlike `file.blocks`, which repeats old audio where a file breaks off early."""
    while len(block := file.read(BLOCK, "float32", always_2d=True)):
        yield block


def _judge(path: Path, shortest: float) -> tuple[float, float]:
    """Peak and seconds of a file that is fit to be used. Raises _Bad."""
    peak, frames = 0.0, 0
    try:
        with soundfile.SoundFile(path) as file:
            if file.channels > 2:
                raise _Bad(
                    "more than two channels", f"{file.channels} channels; mix down to stereo first"
                )
            if not 4_000 <= file.samplerate <= 768_000:
                raise _Bad("absurd sample rate", f"{file.samplerate} Hz")
            for block in _blocks(file):
                if not np.isfinite(block).all():
                    raise _Bad("NaN or Inf", f"within {BLOCK} frames of frame {frames}")
                peak, frames = max(peak, float(np.abs(block).max(initial=0))), frames + len(block)
            if frames < 0.99 * file.frames:
                raise _Bad("undecodable", f"ends after {frames} of {file.frames} frames")
            seconds = frames / file.samplerate
            if seconds < shortest:
                raise _Bad("too short", f"{seconds:.2f} s")
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise _Bad("undecodable", str(error)) from None
    if peak < SILENCE:
        raise _Bad("silent", f"peak {peak:.1e}")
    return peak, seconds


def _decode(path: Path, gain: float) -> Iterator[np.ndarray]:
    """Blocks of float32 [frames, 2] at 48 kHz; `gain` brings files louder than full scale back to it."""
    with soundfile.SoundFile(path) as file:
        stream = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, file.channels, dtype="float32")
        for block in _blocks(file):
            block = gain * block
            yield block if file.samplerate == SAMPLE_RATE else stream.resample_chunk(block)
        if file.samplerate != SAMPLE_RATE:
            yield stream.resample_chunk(np.zeros((0, file.channels), np.float32), last=True)


def _cut(blocks, samples: int) -> Iterator[tuple[int, np.ndarray]]:
    start, held = 0, np.zeros((0, 2), np.int16)
    for block in blocks:
        stereo = np.broadcast_to(block, (len(block), 2))  # mono goes to both sides
        held = np.concatenate([held, np.round(np.clip(stereo, -1, 1) * 32767).astype(np.int16)])
        while len(held) >= samples:
            yield start, held[:samples]
            start, held = start + samples, held[samples:]
    if len(held):
        yield start, held
