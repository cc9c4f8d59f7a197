"""The source that renders MIDI files with soundfonts, and writes captions from their scores."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import pretty_midi

from data_pipeline.captioning import captions
from data_pipeline.scores.reading import MAX_BYTES, Score, read, read_sidecar
from data_pipeline.scores.renderer import Renderer
from data_pipeline.scores.rendering import ROOM
from data_pipeline.scores.truth import truth
from data_pipeline.sidecars import read_text, texts
from data_pipeline.sources.fields import Unusable, distinct, group_of, normal
from data_pipeline.sources.items import About, Item, Rejection
from jen1_numpy.errors import Refusal

DEFAULT_SOUNDFONT = Path(pretty_midi.__file__).with_name("TimGM6mb.sf2")
# Fields of the sidecar that are not copied to the metadata: the truth of a stretch has its own.
_APART = ("caption", "captions", "chords", "sections", "melody", "split", "group")


class Scores:
    """The MIDI files of a folder, and the soundfonts that they are rendered with.

    NAME.json holds what is known about NAME.mid (see `scores.reading`). Captions are written from
    the score if neither NAME.txt nor the JSON file has any. A damaged file is refused when the
    audio of its item is read.

    Args:
        soundfonts: a score is rendered with the one that its sidecar names, or with one that a
            hash of its id chooses. Without any, that of pretty_midi is used.

    Raises:
        Refusal: a soundfont cannot be used.
    """

    def __init__(self, folder: Path, soundfonts: Sequence[Path]):
        if not soundfonts:
            soundfonts = [DEFAULT_SOUNDFONT]
            logging.getLogger(__name__).warning(
                f"Without --soundfont, MIDI files are rendered with {DEFAULT_SOUNDFONT.name} of "
                "pretty_midi, a small one (GPL-2)."
            )
        self._folder, self._fonts = folder, {font.name: font for font in soundfonts}
        if len(self._fonts) < len(soundfonts):
            raise Refusal("Two soundfonts have the same file name; rename one of them.")
        self._renderer = Renderer(soundfonts)
        # The clips of a score ask for it one after the other.
        self._read = lru_cache(maxsize=2)(read)

    def item(self, path: Path, id: str) -> Item | Rejection:
        try:
            sidecar = read_sidecar(path, self._folder)
            if (text := read_text(path.with_suffix(".txt"), self._folder)) is not None:
                sidecar["caption"] = text
            sidecar = normal(sidecar)
        except Refusal as refusal:
            return Rejection(id, "unreadable sidecar", str(refusal))
        except Unusable as unusable:
            return Rejection(id, *unusable.args)
        except ValueError as error:
            return Rejection(id, "unreadable caption", f"{path.stem}.txt: {error}")
        font = sidecar.get("soundfont") or _choose(id, sorted(self._fonts))
        if font not in self._fonts:
            given = ", ".join(self._fonts)
            return Rejection(id, "soundfont not given", f"it names {font}; given are {given}")
        meta = {"room": ROOM} | {name: sidecar[name] for name in sidecar if name not in _APART}
        meta |= {"source": "midi", "soundfont": font}
        given = texts(sidecar.get("caption")) + texts(sidecar.get("captions"))
        return Item(
            id,
            partial(self._renderer.render, path, id, self._fonts[font]),
            partial(_about, partial(self._read, path, id), meta, given),
            sidecar.get("split"),
            sidecar.get("group") or group_of(sidecar),
            digest=_digest(path),
        )


# One for each process: its renderer holds the soundfonts in memory.
open_scores = lru_cache(maxsize=1)(Scores)


def _about(
    score: Callable[[], Score], meta: dict, given: list[str], start: float, stop: float
) -> About:
    known = truth(score(), start, stop)
    written = distinct(given) if given else captions(known, f"{score().id}@{start:.3f}")
    return About(written, meta | known)


def _choose(id: str, names: list[str]) -> str:
    """One of the names, which depends on them and on `id` alone."""
    digest = hashlib.sha256(f"soundfont:{id}".encode()).digest()
    return names[int.from_bytes(digest[:8], "big") % len(names)]


def _digest(path: Path) -> str:
    """A digest of the MIDI file and its sidecar."""
    digest = hashlib.sha256()
    for part in (path, path.with_suffix(".json")):
        if os.path.isfile(part):  # also where a name has no room for the suffix
            with open(part, "rb") as file:
                digest.update(file.read(MAX_BYTES))
    return digest.hexdigest()
