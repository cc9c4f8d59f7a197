"""A source to a data set: its items are cut into clips, which are counted and written.

They are written as waveforms, or encoded at once and written as latents.

Every rejection is counted and listed in rejected.jsonl. No other file takes a rejected one's place.
"""

import hashlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_pipeline.clips import Dropped, cut
from data_pipeline.latents import Encoder, LatentWriter, latent_writer
from data_pipeline.shards import SAMPLE_RATE, Writer, waveform_features
from data_pipeline.sources import Item, Rejection, open_source
from jen1_jax.errors import Refusal
from jen1_jax.files import whole_folder

MIN_CLIP, MAX_CLIP = 0.1, 600.0  # seconds


@dataclass(frozen=True)
class Report:
    """What `prepare` did: files and clips by what became of them."""

    out: str
    files: int
    accepted: int
    rejected: dict[str, int]  # reason -> files
    not_needed: int  # files that were left over once limit_hours was reached
    source_splits: bool  # whether the source decides the splits, and not the test fraction
    clips: dict[str, int]  # split -> clips
    hours: dict[str, float]  # split -> hours without padding
    dropped_seconds: dict[str, float]  # of accepted files, by the reason in `clips.Dropped`
    captions: int  # distinct ones

    def __str__(self) -> str:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
            or "none"
        )
        lines = [f"files: {self.accepted} accepted of {self.files}; rejected: {reasons}"]
        if self.not_needed:
            lines.append(f"{self.not_needed} files were not needed to reach the limit of hours")
        if self.source_splits:
            lines.append("the source decides the splits; the test fraction was not used")
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
    encoder: Encoder | None = None,
    seconds: float = 10.24,
    seed: int = 0,
    clips: int = 1000,
    limit_hours: float | None = None,
    test_fraction: float = 0.1,
    progress: Callable[[str], None] = print,
) -> Report:
    """Writes the data set `out` from `source`: a folder, a .csv or .jsonl manifest, or "synthetic".

    Args:
        encoder: writes the clips' latents, the same as `latents.encode` of the waveforms; None
            writes the waveforms.
        seconds: length of every clip; see `clips.cut`.
        seed: of the synthesiser, of the split and of the sample that `limit_hours` takes.
        clips: number of clips of the synthesiser; other sources ignore it.
        limit_hours: stop after this much accepted audio, taken from files in the order of a hash
            of their names: a random sample of each split, the same every time. Its share of the
            hours is that of its files.
        test_fraction: share of the files in the split "test", at least one; all clips of a file
            are in one split. It is not used if the source gives any file a split; the files
            without one are then in the split "train".

    Raises:
        Refusal: the source is unusable, no file was accepted, latents are not finite or of another
            shape than the encoder says, or `out` exists or cannot be written.
            Nothing is left under `out`.
    """
    if not (MIN_CLIP <= seconds <= MAX_CLIP):
        raise Refusal(
            f"--seconds {seconds} is no length for a clip; give {MIN_CLIP} to {MAX_CLIP}."
        )
    if not (0 <= test_fraction < 1 and clips > 0 and (limit_hours is None or limit_hours > 0)):
        raise Refusal("--clips and --limit-hours must be positive and the test fraction in [0, 1).")
    found = open_source(source, clips=clips, seconds=seconds, seed=seed)
    rejections = [entry for entry in found if isinstance(entry, Rejection)]
    # In hash order the test files come first. If none of them is accepted, the next accepted file
    # goes into the test split.
    items = sorted(
        ((_hash(f"{seed}:{item.id}"), item) for item in found if isinstance(item, Item)),
        key=lambda entry: (entry[0], entry[1].id),
    )
    decided = [item.split for _, item in items if item.split]
    share = decided.count("test") / len(items) if decided else test_fraction
    shares = {"test": share, "train": 1 - share}
    count, length, captions = Counter(), Counter(), set()
    dropped, digests, accepted, not_needed = {"tail": 0.0, "silence": 0.0}, {}, 0, 0
    began = reported = time.monotonic()

    def split_of(place: float, item: Item) -> str:
        if decided:
            return item.split or "train"
        test = test_fraction > 0 and len(items) > 1 and (place < test_fraction or not count["test"])
        return "test" if test else "train"

    def full(split: str) -> bool:
        return limit_hours is not None and length[split] >= limit_hours * 3600 * shares[split]

    what = f"48 kHz stereo clips of {seconds} s from {Path(source).name}"
    with whole_folder(out) as folder:
        writing: AbstractContextManager[Writer | LatentWriter]
        if encoder is None:
            writing = Writer(folder, waveform_features(round(seconds * SAMPLE_RATE)), what)
        else:
            writing = latent_writer(folder, encoder, seconds, f"latents of {what}", progress)
        with writing as writer:
            ahead = _render_ahead(items, lambda *entry: not full(split_of(*entry)))
            for done, (place, item) in enumerate(ahead, 1):
                split = split_of(place, item)
                if full(split):
                    not_needed += 1
                    continue
                recording = cut(item, seconds)
                if not isinstance(recording, Rejection) and recording.digest in digests:
                    same = f"the same bytes as {digests[recording.digest]}"
                    recording = Rejection(item.id, "duplicate", same)
                if isinstance(recording, Rejection):
                    rejections.append(recording)
                    continue
                if recording.digest is not None:
                    digests[recording.digest] = item.id
                accepted += 1
                for piece in recording.pieces:
                    if isinstance(piece, Dropped):
                        dropped[piece.reason] += piece.seconds
                        continue
                    writer.write(split, piece)
                    captions.update(piece["captions"])
                    count[split] += 1
                    length[split] += piece["valid_samples"] / SAMPLE_RATE
                    if full(split):
                        break
                if time.monotonic() - reported > 5:
                    reported, total = time.monotonic(), sum(length.values())
                    progress(
                        f"{done}/{len(items)} files, {total / 3600:.2f} hours, "
                        f"{total / (reported - began):.0f} times real time"
                    )
            if not accepted:
                raise Refusal(
                    f"No file of {source} was accepted: {_listing(rejections)}; "
                    "nothing was written."
                )
            if not count["train"] and decided:
                raise Refusal(
                    f"No file of {source} that was accepted is in the split train; give some of "
                    'them "split": "train", or none a split.'
                )
            if not count["train"]:
                raise Refusal(
                    f"Only one file of {source} is usable and it went into the test split; "
                    "use a test fraction of 0."
                )
        report = Report(
            out=out,
            files=len(found),
            accepted=accepted,
            rejected=dict(Counter(rejection.reason for rejection in rejections)),
            not_needed=not_needed,
            source_splits=bool(decided),
            clips=dict(count),
            hours={split: length[split] / 3600 for split in count},
            dropped_seconds=dropped,
            captions=len(captions),
        )
        (folder / "rejected.jsonl").write_text(
            "".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rejections)
        )
        (folder / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    return report


def _render_ahead(
    items: list[tuple[float, Item]], wanted: Callable[[float, Item], bool]
) -> Iterator[tuple[float, Item]]:
    """The same items, with the audio of the next few synthetic ones rendered in threads.

    Rendering spends its time in numpy, so threads use all cores. `wanted` tells of an entry
    whether its audio will be read.
    """
    cores = os.cpu_count() or 1
    waiting: deque[tuple[float, Item]] = deque()
    pool = ThreadPoolExecutor(cores)
    try:
        for place, item in items:
            if not isinstance(item.audio, Path) and wanted(place, item):
                item = replace(item, audio=pool.submit(item.audio).result)
            waiting.append((place, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft()
        yield from waiting
    finally:  # also if the caller stops early
        pool.shutdown(cancel_futures=True)


def _hash(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _listing(rejections: list[Rejection], most: int = 3) -> str:
    shown = "; ".join(f"{r.id}: {r.reason}" for r in rejections[:most])
    return shown + (f"; and {len(rejections) - most} more" if len(rejections) > most else "")
