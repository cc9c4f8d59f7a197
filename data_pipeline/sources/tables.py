"""The tables of two public data sets, read as they are published.

Agostinelli et al., "MusicLM" (2023), published MusicCaps; Bogdanov et al., "The MTG-Jamendo Dataset
for Automatic Music Tagging" (2019).
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile

from data_pipeline.sidecars import storable
from data_pipeline.sources.fields import described
from data_pipeline.sources.items import SUFFIXES, UNSUPPORTED, Entry, Item, Rejection, refused
from data_pipeline.sources.manifests import filled, read, rows

_TAGS = {"genre": "genre", "instrument": "instruments", "mood/theme": "mood"}
LONGER = 1.0  # seconds; a file that is longer than its stretch by more is a whole video


@dataclass(frozen=True)
class MusicCaps:
    """The CSV file of MusicCaps; the audio YTID.wav (or another suffix) is beside it.

    It may also be in the folder `audio` or `wav` beside it. A file that is hardly longer than
    `end_s` - `start_s` is this stretch; of a longer one, only the stretch is taken.
    """

    COLUMNS = ("ytid", "start_s", "end_s", "caption")
    manifest: Path

    def entries(self) -> Iterator[Entry | Rejection]:
        return read(self.manifest, lambda lines: map(filled, rows(self.manifest, lines)), _song)

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        folders = [self.manifest.parent / name for name in (".", "audio", "wav")]
        path = _first(folder / (id + end) for end in SUFFIXES + UNSUPPORTED for folder in folders)
        if path is None:
            return Rejection(id, "missing")
        if rejection := refused(path.name, path):
            return replace(rejection, id=id)
        listed = [dict(entry.fields) for entry in entries]
        found = described(id, path, listed)
        if isinstance(found, Item) and len(found.stretches or ()) == 1:
            ((start, stop),) = found.stretches
            try:
                length = soundfile.info(path).duration
            except (OSError, RuntimeError):
                return found  # it is rejected when it is decoded
            if length <= stop - start + LONGER:
                for fields in listed:
                    fields.pop("start_s", None), fields.pop("end_s", None)
                return described(id, path, listed)
        return found


def _song(fields: dict) -> Entry:
    id = fields.pop("ytid", "")
    if not re.fullmatch(r"[\w-]{1,64}", id, re.ASCII):
        raise ValueError("ytid is no name of a video")
    if "aspect_list" in fields:  # "['slow', \"a singer's voice\"]"
        quoted = re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", fields["aspect_list"])
        fields["aspect_list"] = [re.sub(r"\\(.)", r"\1", one or other) for one, other in quoted]
    return Entry(id, None, fields)


@dataclass(frozen=True)
class Jamendo:
    """A TSV file of MTG-Jamendo; the audio is at its PATH below the folder of the TSV file.

    It may also be below the folder `audio` beside it, and the smaller version NAME.low.mp3. The
    tags are lists of texts in `genre`, `instruments` and `mood`. An artist is a group.
    """

    COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
    manifest: Path

    def entries(self) -> Iterator[Entry | Rejection]:
        return read(self.manifest, lambda lines: rows(self.manifest, lines), _track)

    def item(self, id: str, entries: Sequence[Entry]) -> Item | Rejection:
        normal = os.path.normpath(id)
        if normal.split(os.sep)[0] in ("", os.pardir):
            return Rejection(id, "outside the manifest's folder")
        folders = (self.manifest.parent, self.manifest.parent / "audio")
        stem, suffix = os.path.splitext(normal)
        names = (normal, f"{stem}.low{suffix}")
        path = _first(folder / name for name in names for folder in folders)
        if path is None:
            return Rejection(id, "missing")
        return refused(id, path) or described(id, path, [entry.fields for entry in entries])


def _track(row: dict) -> Entry:
    if not all(row.get(name) for name in Jamendo.COLUMNS[:4]):
        raise ValueError(f"{', '.join(Jamendo.COLUMNS[:4])} must not be empty")
    fields: dict = {name.lower(): row[name] for name in ("TRACK_ID", "ARTIST_ID", "ALBUM_ID")}
    fields["group"] = row["ARTIST_ID"]
    for tag in filter(None, [row["TAGS"], *row.get(None, ())]):
        kind, _, name = tag.partition("---")
        fields.setdefault(_TAGS.get(kind, "tags"), []).append(name if kind in _TAGS else tag)
    storable(fields)
    return Entry(row["PATH"], None, fields)


def _first(paths: Iterator[Path]) -> Path | None:
    """The first one that exists."""
    return next(filter(os.path.lexists, paths), None)
