"""The source that reads a folder of audio and MIDI files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_pipeline.sidecars import parse, read_text
from data_pipeline.sources.fields import described
from data_pipeline.sources.items import (
    SUFFIXES,
    UNSUPPORTED,
    Entry,
    Item,
    Rejection,
    misnamed,
    refused,
)
from data_pipeline.sources.tars import COMPRESSED, TAR, UNCOMPRESS, member_item, members
from jen1_jax.files import AnyPath, listing
from jen1_numpy.errors import Refusal

MIDI = (".mid", ".midi")
SIDECARS = (".json", ".txt")
LOCAL = "MIDI files and tars are read from local folders alone; mount the bucket or copy them"


@dataclass(frozen=True)
class Folder:
    """All audio and MIDI files below `folder`, also in tars, in the order of their names.

    NAME.txt holds the caption of NAME.wav; NAME.json holds an object with "caption" or
    "captions" (a list), "split" ("train" or "test") and metadata, all optional. For MIDI files see
    `midi.Scores`, which also says what `soundfonts` are for.
    """

    folder: AnyPath
    soundfonts: tuple[Path, ...] = ()

    def entries(self) -> Iterator[Entry | Rejection]:
        if not isinstance(self.folder, Path):
            yield from _in_bucket(self.folder)
            return
        scores = False
        for found in walk(self.folder, (*SUFFIXES, *UNSUPPORTED, *MIDI, TAR, *COMPRESSED)):
            if isinstance(found, Entry) and found.id.lower().endswith(TAR):
                yield from members(self.folder / found.id, found.id)
                continue
            if isinstance(found, Entry) and found.id.lower().endswith(COMPRESSED):
                found = Rejection(found.id, "compressed tar", UNCOMPRESS)
            elif _is_midi(found.id) and not scores:
                self._scores()  # a soundfont that cannot be used is refused at once
                scores = True
            yield found
        if self.soundfonts and not scores:
            raise Refusal(f"{self.folder} holds no MIDI files; leave out --soundfont.")

    def place(self, id: str) -> AnyPath:
        return self.folder / id

    def item(self, id: str, entries: Sequence[Entry], copy: Path | None = None) -> Item | Rejection:
        """Of a folder in a bucket, `copy` is a copy of the file, beside which its sidecars are."""
        path = copy or Path(self.folder / id)
        folder = path.parent if copy else Path(self.folder)
        if entries[0].place:
            return member_item(folder, id, entries)
        if rejection := refused(id, path):
            return rejection
        if _is_midi(id):
            return self._scores().item(path, id)
        fields = {}
        try:
            if (text := read_text(sidecar := path.with_suffix(".json"), folder)) is not None:
                fields = parse(text)
            if (text := read_text(sidecar := path.with_suffix(".txt"), folder)) is not None:
                fields["caption"] = text.strip()
        except ValueError as error:
            name = PurePosixPath(id).with_suffix(sidecar.suffix).name
            return Rejection(id, "unreadable caption", f"{name}: {error}")
        return described(id, path, [fields])

    def _scores(self):
        # It imports packages that audio files do not need.
        from data_pipeline.sources.midi import open_scores

        return open_scores(self.folder, self.soundfonts)


def walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Entry | Rejection]:
    """The files below `folder` whose names have one of these suffixes, in the order of their names.

    An id is a path in `folder`. Hidden files and links to folders are left out. Memory holds the
    names of one folder, and those of the folders that are still to be read.

    Raises:
        Refusal: `folder` itself cannot be read.
    """
    waiting = [""]  # ids of folders
    while waiting:
        parent = waiting.pop()
        names, folders, links = [], [], []
        try:
            with os.scandir(folder / parent) as found:
                for each in found:
                    if each.is_dir(follow_symlinks=False):
                        folders.append(each.name)
                    elif each.is_symlink() and os.path.isdir(each.path):
                        links.append(each.name)
                    elif each.name.lower().endswith(suffixes) and not each.name.startswith("."):
                        names.append(each.name)
        except OSError as error:
            if not parent:
                raise Refusal(f"Cannot read {folder}: {error.strerror}.") from None
            yield Rejection(parent, "unreadable folder", error.strerror)
            continue
        prefix = f"{parent}/" if parent else ""
        for name in sorted(links):
            yield Rejection(prefix + name, "linked folder", "links to folders are not followed")
        for name in sorted(names):
            yield misnamed(prefix + name) or Entry(prefix + name)
        waiting += [prefix + name for name in sorted(folders, reverse=True)]


def _in_bucket(folder: AnyPath) -> Iterator[Entry | Rejection]:
    """The audio files below a folder in a bucket, as `walk` gives those of a local one."""
    for id, _ in listing(folder):
        name = PurePosixPath(id).name.lower()
        if name.startswith("."):
            continue
        if name.endswith((*MIDI, TAR, *COMPRESSED)):
            yield misnamed(id) or Rejection(id, "in a bucket", LOCAL)
        elif name.endswith((*SUFFIXES, *UNSUPPORTED)):
            yield misnamed(id) or Entry(id)


def _is_midi(id: str) -> bool:
    return id.lower().endswith(MIDI)
