"""The source that reads a folder of audio and MIDI files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from jen1_numpy.errors import Refusal

MIDI = (".mid", ".midi")


@dataclass(frozen=True)
class Folder:
    """All audio and MIDI files below `folder`, in the order of their names.

    NAME.txt holds the caption of NAME.wav; NAME.json holds an object with "caption" or
    "captions" (a list), "split" ("train" or "test") and metadata, all optional. For MIDI files see
    `midi.Scores`, which also says what `soundfonts` are for.
    """

    folder: Path
    soundfonts: tuple[Path, ...] = ()

    def entries(self) -> Iterator[Entry | Rejection]:
        scores = False
        for found in walk(self.folder, SUFFIXES + UNSUPPORTED + MIDI):
            if _is_midi(found.id) and not scores:
                self._scores()  # a soundfont that cannot be used is refused at once
                scores = True
            yield found
        if self.soundfonts and not scores:
            raise Refusal(f"{self.folder} holds no MIDI files; leave out --soundfont.")

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        path = self.folder / id
        if rejection := refused(id, path):
            return rejection
        if _is_midi(id):
            return self._scores().item(path, id)
        fields = {}
        try:
            if (text := read_text(sidecar := path.with_suffix(".json"), self.folder)) is not None:
                fields = parse(text)
            if (text := read_text(sidecar := path.with_suffix(".txt"), self.folder)) is not None:
                fields["caption"] = text.strip()
        except ValueError as error:
            return Rejection(id, "unreadable caption", f"{sidecar.name}: {error}")
        return described(id, path, [fields])

    def _scores(self):
        # It imports packages that audio files do not need.
        from data_pipeline.sources.midi import open_scores

        return open_scores(self.folder, self.soundfonts)


def walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Entry | Rejection]:
    """The files below `folder` whose names have one of these suffixes, in the order of their names.

    An id is a path in `folder`. Hidden files and links to folders are left out.
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
            if path.suffix.lower() in suffixes and not name.startswith("."):
                id = path.relative_to(folder).as_posix()
                yield misnamed(id) or Entry(id)


def _is_midi(id: str) -> bool:
    return id.lower().endswith(MIDI)
