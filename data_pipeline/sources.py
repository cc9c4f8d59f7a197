"""Where audio comes from: a folder, a CSV or JSONL manifest, or the built-in synthesiser.

A source is an iterable of `Item` and `Rejection`. A new kind is one more function that yields them and a line in `open_source`.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline import synthetic
from jen1_jax.errors import Refusal

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff")
UNSUPPORTED = (
    ".m4a",
    ".aac",
    ".wma",
    ".mp4",
    ".webm",
    ".ape",
    ".alac",
    ".wv",
)  # audio that the decoder does not read


@dataclass(frozen=True)
class Item:
    """One recording: `audio` is a file, or makes float32 [samples, 2] at 48 kHz; `meta` is whatever is known, as JSON values."""

    id: str  # unique in the source, and the same wherever the source lies
    audio: Path | Callable[[], np.ndarray]
    caption: str
    meta: dict


@dataclass(frozen=True)
class Rejection:
    """Why something is not in the data set: `reason` is one of few words to count by, `detail` says more."""

    id: str
    reason: str
    detail: str = ""


def open_source(
    source: str, *, clips: int, seconds: float, seed: int
) -> Sequence[Item | Rejection]:
    """The items of `source`: a folder, a .csv or .jsonl manifest, or "synthetic" (`clips` of `seconds` each).

    Raises:
        Refusal: there is no such source, it cannot be read, or it names no audio at all.
    """
    if source == "synthetic":
        if seed < 0:
            raise Refusal(f"The synthesiser's seed cannot be {seed}; give --seed 0 or more.")
        return list(from_synthesiser(clips, seconds, seed))
    path = Path(source)
    if not path.exists():
        raise Refusal(
            f"There is no {source}; --source takes a folder, a .csv or .jsonl manifest, or the word synthetic."
        )
    readers = {".csv": from_csv, ".jsonl": from_jsonl}
    if not path.is_dir() and path.suffix.lower() not in readers:
        raise Refusal(f"{source} is neither a folder nor a .csv or .jsonl manifest.")
    try:
        items = list(from_folder(path) if path.is_dir() else readers[path.suffix.lower()](path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"Cannot read {source}: {error}.") from None
    if not items:
        raise Refusal(f"{source} names no audio; files end in {' '.join(SUFFIXES)}.")
    return items


def from_synthesiser(clips: int, seconds: float, seed: int) -> Iterator[Item]:
    for index in range(clips):
        style, caption = synthetic.describe(seed, index)
        load = lambda index=index: synthetic.clip(seed, index, seconds).audio
        yield Item(
            f"synthetic-{seed}-{index:06d}", load, caption, style.truth | {"source": "synthetic"}
        )


def from_folder(folder: Path) -> Iterator[Item | Rejection]:
    """All audio files below `folder`; NAME.txt holds NAME's caption, NAME.json an object with "caption" and anything else."""

    def fail(error: OSError):
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        for name in folders:
            if Path(parent, name).is_symlink():
                yield Rejection(
                    Path(parent, name).relative_to(folder).as_posix(),
                    "linked folder",
                    "links to folders are not followed",
                )
        for name in sorted(names):
            path = Path(parent, name)
            if path.suffix.lower() not in SUFFIXES + UNSUPPORTED or name.startswith("."):
                continue
            id, fields = path.relative_to(folder).as_posix(), {}
            if path.suffix.lower() in UNSUPPORTED:
                yield Rejection(id, "unsupported format", "convert it to FLAC or WAV")
                continue
            if not id.isprintable():
                yield Rejection(
                    id.encode("utf-8", "replace").decode(),
                    "unreadable name",
                    "rename it in UTF-8 without control characters",
                )
                continue
            try:
                if (sidecar := path.with_suffix(".json")).exists():
                    fields = dict(json.loads(sidecar.read_text("utf-8")))
                if (sidecar := path.with_suffix(".txt")).exists():
                    fields["caption"] = sidecar.read_text("utf-8").strip()
            except (ValueError, TypeError) as error:  # not UTF-8, not JSON, not an object
                yield Rejection(id, "unreadable caption", f"{sidecar.name}: {error}")
                continue
            yield _item(id, path, fields)


def from_csv(manifest: Path) -> Iterator[Item | Rejection]:
    """Rows of a CSV file with a header; see `_listed`."""
    with open(manifest, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if "path" not in (rows.fieldnames or ()):
            raise Refusal(
                f"{manifest} has no column named path; its columns are {', '.join(rows.fieldnames or ['none'])}."
            )
        for row in rows:
            row.pop(None, None)  # cells beyond the header
            yield _listed(
                manifest, rows.line_num, {key: value for key, value in row.items() if value}
            )


def from_jsonl(manifest: Path) -> Iterator[Item | Rejection]:
    """Lines of JSON objects; see `_listed`."""
    with open(manifest, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _listed(manifest, number, dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                yield Rejection(f"{manifest.name}:{number}", "unreadable line", str(error))


def _listed(manifest: Path, number: int, fields: dict) -> Item | Rejection:
    """An item of a manifest: `path` is relative to the manifest's folder and stays inside it, or absolute."""
    listed = fields.pop("path", None)
    if not isinstance(listed, str) or not listed:
        return Rejection(f"{manifest.name}:{number}", "unreadable line", "no path")
    path = Path(listed)
    if not path.is_absolute():
        normal = os.path.normpath(listed)
        if normal.split(os.sep)[0] == os.pardir:
            return Rejection(
                listed, "outside the manifest's folder", "write an absolute path if it is meant"
            )
        path = manifest.parent / normal
    if not path.is_file():
        return Rejection(listed, "missing")
    return _item(listed, path, fields)


def _item(id: str, path: Path, fields: dict) -> Item:
    """A file with its caption: the given one, else one made of title, artist, game and genre, else none."""
    given = fields.pop("caption", None)
    if given is None:
        title, artist, game, genre = (
            str(fields.get(name) or "") for name in ("title", "artist", "game", "genre")
        )
        by = (
            f"{title} by {artist}"
            if title and artist
            else title or (f"music by {artist}" if artist else "")
        )
        given = ", ".join(part for part in (by, genre, f"from {game}" if game else "") if part)
    return Item(id, path, str(given).strip(), fields)
