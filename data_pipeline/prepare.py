"""A source to a data set: its items are cut into clips, which are counted and written.

They are written as waveforms, or encoded at once and written as latents.

Every rejection is counted and listed in rejected.jsonl. No other file takes a rejected one's place.
"""

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, replace
from pathlib import Path

from data_pipeline.clips import Dropped, cut
from data_pipeline.latents import Encoder, LatentWriter, latent_writer
from data_pipeline.report import Report, Tally
from data_pipeline.shards import SAMPLE_RATE, Writer, waveform_features
from data_pipeline.sources import Entry, Item, Rejection, Source, empty, open_source
from jen1_jax.files import whole_folder
from jen1_numpy.errors import Refusal
from jen1_numpy.files import write_text

MIN_CLIP, MAX_CLIP = 0.1, 600.0  # seconds
SAVE_SECONDS = 7200.0  # of audio that is written before the state is saved again
SAVED = "state.json"  # of an unfinished data set
STATE = 2  # version of what it holds; an unfinished data set of another version is not gone on with


def prepare(
    source: str,
    out: str,
    *,
    encoder: Encoder | None = None,
    seconds: float = 10.24,
    seed: int = 0,
    clips: int = 1000,
    soundfonts: Sequence[str] = (),
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
        soundfonts: files that the MIDI files of a folder are rendered with.
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

    A call that is interrupted leaves a hidden folder beside `out`. The same call goes on from the
    last state that was saved there.
    """
    if not (MIN_CLIP <= seconds <= MAX_CLIP):
        raise Refusal(
            f"--seconds {seconds} is no length for a clip; give {MIN_CLIP} to {MAX_CLIP}."
        )
    if not (0 <= test_fraction < 1 and clips > 0 and (limit_hours is None or limit_hours > 0)):
        raise Refusal("--clips and --limit-hours must be positive and the test fraction in [0, 1).")
    reading = dict(clips=clips, seconds=seconds, seed=seed, soundfonts=soundfonts)
    found = _recordings(open_source(source, **reading))
    if not found:
        raise empty(source)
    # In hash order the test files come first. If none of them is accepted, the next accepted file
    # goes into the test split.
    items = sorted(
        ((_hash(f"{seed}:{item.id}"), item) for item in found if isinstance(item, Item)),
        key=lambda entry: (entry[0], entry[1].id),
    )
    decided = [item.split for _, item in items if item.split]
    share = decided.count("test") / len(items) if decided else test_fraction
    shares = {"test": share, "train": 1 - share}
    what = f"48 kHz stereo clips of {seconds} s from {Path(source).name}"
    command = dict(reading, limit_hours=limit_hours, test_fraction=test_fraction)
    command |= dict(source=source, encoder=encoder and encoder.fingerprint)
    command |= dict(items=[item.id for _, item in items], state=STATE)
    key = hashlib.sha256(json.dumps(command).encode()).hexdigest()[:16]
    with whole_folder(out, key) as folder:
        saved = _saved(folder / SAVED)
        rejected = [entry for entry in found if isinstance(entry, Rejection)]
        tally = Tally.from_json(saved["tally"]) if saved else Tally(rejected=rejected)
        if tally.done:
            progress(f"continues after {tally.done} files that an earlier call has finished")

        def split_of(place: float, item: Item) -> str:
            if decided:
                return item.split or "train"
            few = place < test_fraction or not tally.clips["test"]
            return "test" if test_fraction > 0 and len(items) > 1 and few else "train"

        def full(split: str) -> bool:
            most = float("inf") if limit_hours is None else limit_hours * 3600 * shares[split]
            return tally.seconds[split] >= most

        writing: AbstractContextManager[Writer | LatentWriter]
        if encoder is None:
            features = waveform_features(round(seconds * SAMPLE_RATE))
            writing = Writer(folder, features, what, saved.get("written"))
        else:
            text = f"latents of {what}"
            writing = latent_writer(folder, encoder, seconds, text, progress, saved.get("written"))
        ahead = _render_ahead(items[tally.done :], lambda *entry: not full(split_of(*entry)))
        # Closed at once also by an error: no thread renders on after this call.
        with writing as writer, closing(ahead):
            before = last = sum(tally.seconds.values())
            began = reported = time.monotonic()

            def save(done: int) -> None:
                tally.done = done
                state = dict(tally=tally.to_json(), written=writer.pause())
                write_text(folder / SAVED, json.dumps(state))

            for done, (place, item) in enumerate(ahead, tally.done):
                total = sum(tally.seconds.values())
                if total - last >= SAVE_SECONDS:
                    save(done)
                    last = total
                if time.monotonic() - reported > 5:
                    reported = time.monotonic()
                    progress(
                        f"{done}/{len(items)} files, {total / 3600:.2f} hours, "
                        f"{(total - before) / (reported - began):.0f} times real time"
                    )
                split = split_of(place, item)
                if full(split):
                    tally.not_needed += 1
                    continue
                recording = tally.accept(item, cut(item, seconds))
                for piece in recording.pieces if recording else ():
                    tally.count(split, piece)
                    if not isinstance(piece, Dropped):
                        writer.write(split, piece)
                    if full(split):
                        break
            _check(tally, source, bool(decided))
            save(len(items))  # what follows may fail where the disk is full
        report = tally.report(out, len(found), bool(decided))
        lines = (json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in tally.rejected)
        # Names may hold bytes that are no text.
        (folder / "rejected.jsonl").write_bytes("".join(lines).encode(errors="backslashreplace"))
        (folder / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    Path(out, SAVED).unlink()
    return report


def _recordings(source: Source) -> list[Item | Rejection]:
    """All that a source lists, opened."""
    found: list[Item | Rejection] = []
    listed: dict[str, list[Entry]] = {}
    for entry in source.entries():
        if isinstance(entry, Rejection):
            found.append(entry)
        else:
            listed.setdefault(entry.id, []).append(entry)
    return found + [source.item(id, entries) for id, entries in listed.items()]


def _render_ahead(
    items: list[tuple[float, Item]], wanted: Callable[[float, Item], bool]
) -> Iterator[tuple[float, Item]]:
    """The same items, with the audio of the next few ones rendered in threads.

    Rendering spends its time in numpy or in another process, so threads use all cores. At most two
    pieces a core are held: 140 MB of memory if pieces last three minutes. `wanted` tells of an
    entry whether its audio will be read.
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


def _check(tally: Tally, source: str, decided: bool) -> None:
    """Refuses a source that gives nothing to train on."""
    if not tally.accepted:
        raise Refusal(
            f"No file of {source} was accepted: {_listing(tally.rejected)}; nothing was written."
        )
    if not tally.clips["train"] and decided:
        raise Refusal(
            f"No file of {source} that was accepted is in the split train; give some of them "
            '"split": "train", or none a split.'
        )
    if not tally.clips["train"]:
        raise Refusal(
            f"Only one file of {source} is usable and it went into the test split; "
            "use a test fraction of 0."
        )


def _saved(path: Path) -> dict:
    """What an earlier call of the same command has saved; empty if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def _hash(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _listing(rejections: list[Rejection], most: int = 3) -> str:
    shown = "; ".join(f"{r.id}: {r.reason}" for r in rejections[:most])
    return shown + (f"; and {len(rejections) - most} more" if len(rejections) > most else "")
