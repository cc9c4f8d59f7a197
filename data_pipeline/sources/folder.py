"""The source that reads a folder of audio files."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.sidecars import parse, read_text
from data_pipeline.sources.items import SUFFIXES, UNSUPPORTED, Item, Rejection, file_item, refused

MIDI = (".mid", ".midi")


def from_folder(folder: Path) -> Iterator[Item | Rejection]:
    """All audio files below `folder`, in the order of their names.

    NAME.txt holds the caption of NAME.wav; NAME.json holds an object with "caption" or
    "captions" (a list), "split" ("train" or "test") and metadata, all optional.
    """

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
            if path.suffix.lower() in SUFFIXES + UNSUPPORTED and not name.startswith("."):
                yield _read(path, path.relative_to(folder).as_posix(), folder)


def midi_files(folder: Path) -> list[Path]:
    """All MIDI files below `folder`, in the order of their names, without linked folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in MIDI and not path.name.startswith(".")
    )


def _read(path: Path, id: str, folder: Path) -> Item | Rejection:
    if rejection := refused(id, path):
        return rejection
    fields = {}
    try:
        if (text := read_text(sidecar := path.with_suffix(".json"), folder)) is not None:
            fields = parse(text)
        if (text := read_text(sidecar := path.with_suffix(".txt"), folder)) is not None:
            fields["caption"] = text.strip()
    except ValueError as error:
        return Rejection(id, "unreadable caption", f"{sidecar.name}: {error}")
    return file_item(id, path, fields)
