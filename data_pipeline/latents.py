"""Waveform clips to a data set of latents, unit by unit; a unit that is finished is kept."""

import fcntl
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from data_pipeline.commit import name_shards
from data_pipeline.embeddings import Embed, write_embeddings
from data_pipeline.encoding import Encoder, encoded
from data_pipeline.layout import (
    FINGERPRINT,
    LICENCES,
    PIECES,
    SAMPLE_RATE,
    Info,
    blocks_of,
    info,
    latent_features,
)
from data_pipeline.layout import pieces as rows
from data_pipeline.reading import Clips, Damaged, joined
from data_pipeline.stream import captions
from data_pipeline.tombstones import WITHDRAWN, tombstones
from data_pipeline.units import outcomes_file
from data_pipeline.writing import Shards, read_part, serialise
from jen1_jax.files import local_place, whole_folder
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local, write_text

__all__ = ["Encoder", "add_embeddings", "encode", "encode_unit", "write_texts"]


def encode(
    folder: str,
    out: str,
    encoder: Encoder,
    progress: Callable[[str], None] = print,
    *,
    process: int = 0,
    processes: int = 1,
) -> Info | None:
    """Writes the latent data set `out` from the waveform data set `folder`, in the same order.

    A call that is interrupted leaves a hidden folder beside `out`, and the same call goes on with
    the units that are not finished there.

    Args:
        process, processes: this call encodes every `processes`-th unit, from number `process` on;
            calls on other machines, which share the folder of `out`, encode the others. The one
            that finishes last makes `out`; the others return None.

    Raises:
        Refusal: `folder` is no waveform data set, latents are not finite or of another shape, or
            `out` cannot be written.
    """
    about = info(folder)
    if about.kind != "waveform" or about.seconds is None:
        raise Refusal(f"{folder} holds {about.kind}; `encode` takes a waveform data set.")
    if not 0 <= process < processes:
        raise Refusal(f"There is no process {process} of {processes}; the first one is 0.")
    pieces = sorted(Path(folder, PIECES).glob("*.jsonl"))
    listed: Counter[str] = Counter()
    for row in rows(folder):
        listed[row["split"]] += row["clips"]
    if listed != Counter(about.examples):
        raise Refusal(f"{Path(folder, PIECES)} does not list all clips; see `jen1 data validate`.")
    command = dict(folder=folder, fingerprint=encoder.fingerprint, examples=dict(about.examples))
    command |= dict(withdrawn=sorted(tombstones(folder)))
    key = hashlib.sha256(json.dumps(command, sort_keys=True).encode()).hexdigest()[:16]
    with _staging(out, key, process, processes) as work:
        mine = range(process, len(pieces), processes)
        todo = [number for number in mine if not outcomes_file(work, number).exists()]
        if len(todo) < len(mine):
            progress(f"continues after {len(mine) - len(todo)} units that are finished")
        clips = {split: Clips(folder, split) for split in about.examples}
        began = time.monotonic()
        for done, number in enumerate(todo, 1):
            encode_unit(work, number, _read(folder, clips, pieces[number]), encoder, about.seconds)
            took = time.monotonic() - began
            end = datetime.now() + timedelta(seconds=took * (len(todo) - done) / done)
            progress(f"{done}/{len(todo)} units; ends at about {end:%d %b %H:%M}")
        if not all(outcomes_file(work, number).exists() for number in range(len(pieces))):
            progress("the other processes have units to encode")
            return None
        with whole_folder(out, key) as target:
            _commit(target, work, folder, about, encoder, progress)
            written = info(str(target))
        shutil.rmtree(work, ignore_errors=True)
    return written


@contextmanager
def _staging(out: str, key: str, process: int, processes: int) -> Iterator[Path]:
    """The folder for the units of `out`, in which this process is the only one of its number."""
    if processes > 1:
        local(out)  # in a bucket, they would not see each other's units
    target = local_place(out)
    work = target.with_name(f".{target.name}.{key}.units")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with open(work / f"{process}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Refusal(f"Another command is writing {out}; wait for its end.") from None
            try:
                yield work
            except Refusal:
                if processes == 1 and not any(work.glob("*.json")):  # no unit is finished
                    shutil.rmtree(work, ignore_errors=True)
                raise
    except OSError as error:
        raise Refusal(
            f"Writing {out} failed: {error.strerror or error}; if the disk is full, free some "
            "space or name another folder."
        ) from None


def encode_unit(
    work: Path,
    number: int,
    clips: Iterable[tuple[str, Mapping]],
    encoder: Encoder,
    seconds: float,
    outcomes: list[dict] | None = None,
) -> None:
    """Writes the latents of a unit's clips, which come with their lot or split, and finishes it."""
    lots: dict[str, Shards] = {}
    said: dict[str, None] = {}
    named = ({**clip, "lot": lot} for lot, clip in clips)
    for example in encoded(named, encoder, seconds):
        lot = example.pop("lot")
        shards = lots.setdefault(lot, Shards(work, f"{number:05d}-{lot}"))
        shards.write([serialise(example)])
        said |= dict.fromkeys(example["captions"])
    shards = {lot: shards.close() for lot, shards in lots.items()}
    content = {"shards": shards, "captions": list(said), "outcomes": outcomes or []}
    write_text(outcomes_file(work, number), json.dumps(content))


def read_unit(folder: Path, unit: Mapping, seconds: float) -> Iterator[tuple[str, dict]]:
    """The clips of a unit of waveforms, as `units.prepare_unit` has written it, and their lots."""
    samples = round(seconds * SAMPLE_RATE)
    count = blocks_of(samples)
    for lot, shards in unit["shards"].items():
        for shard in shards:
            records = read_part(folder / shard["name"], range(shard["records"]))
            for clip in zip(*[records] * count, strict=True):
                audio = np.empty((samples, 2), np.int16)
                yield lot, joined(clip, "audio", samples // count, audio)


def _read(folder: str, clips: Mapping[str, Clips], pieces: Path) -> Iterator[tuple[str, dict]]:
    """The clips of the recordings that a file in pieces/ lists, and their splits."""
    with open(pieces) as lines:
        rows = [json.loads(line) for line in lines]
    for row in sorted(rows, key=lambda row: (row["split"], row["first"])):
        for place in range(row["first"], row["first"] + row["clips"]):
            split = clips[row["split"]]
            try:
                clip = split.read(place)
            except Damaged as damage:
                raise Refusal(
                    f"Clip {place} of {row['split']} in {folder} is damaged ({damage}); see "
                    "`jen1 data validate`."
                ) from None
            if place in split.withdrawn:  # it keeps its place, and nothing of it is left
                audio = np.zeros_like(clip["audio"])
                clip |= dict(audio=audio, valid_samples=0, captions=[""], meta="{}")
            yield row["split"], clip


def _commit(
    target: Path,
    work: Path,
    folder: str,
    about: Info,
    encoder: Encoder,
    progress: Callable[[str], None],
) -> None:
    shards: dict[str, list[dict]] = {split: [] for split in about.examples}
    said: set[str] = set()
    for number in range(len(list(Path(folder, PIECES).glob("*.jsonl")))):
        unit = json.loads(outcomes_file(work, number).read_text())
        said.update(unit["captions"])
        for split, those in unit["shards"].items():
            shards[split] += those
    features = latent_features(encoder.frames(about.seconds or 0), encoder.k)
    name_shards(work, target, shards, 1, features, f"latents of {folder}")
    shutil.copytree(Path(folder, PIECES), target / PIECES, dirs_exist_ok=True)
    for name in (LICENCES, WITHDRAWN):
        if Path(folder, name).exists():
            shutil.copy(Path(folder, name), target)
    write_texts(target, said, encoder, progress)


def write_texts(
    folder: Path, captions: Iterable[str], encoder: Encoder, progress: Callable[[str], None]
) -> None:
    """Writes the fingerprint and the embeddings of captions, of which none comes twice."""
    fingerprint = json.dumps(dict(encoder.fingerprint), indent=2, sort_keys=True)
    (folder / FINGERPRINT).write_text(fingerprint + "\n")
    if encoder.embed is not None:
        write_embeddings(folder, sorted(captions), encoder.embed, progress)


def add_embeddings(
    folder: str, fingerprint: str, embed: Embed, progress: Callable[[str], None] = print
) -> None:
    """Adds to latents the embeddings of captions that they lack, such as those of a new table.

    Args:
        fingerprint: of the text encoder, whose `embed` is as in `write_embeddings`.

    Raises:
        Refusal: `folder` holds no latents, or its embeddings come from another text encoder.
    """
    about = info(folder)
    if about.fingerprint is None:
        raise Refusal(f"{folder} holds no latents; waveforms are trained on without embeddings.")
    theirs = about.fingerprint.get("text", fingerprint)
    if theirs != fingerprint:
        raise Refusal(
            f"The embeddings in {folder} come from another text encoder (fingerprint "
            f"{theirs[:12]}) than this one ({fingerprint[:12]}), or from another maximum length "
            "or dtype; give the same, or delete its files embeddings-*.safetensors and the line "
            f"with text in {FINGERPRINT}."
        )
    found = {caption for split in about.examples for caption in captions(folder, split)}
    write_embeddings(Path(folder), sorted(found), embed, progress)
    identity = json.dumps(dict(about.fingerprint) | {"text": fingerprint}, indent=2, sort_keys=True)
    write_text(Path(folder, FINGERPRINT), identity + "\n")
