"""Where audio comes from: a folder of audio and MIDI files, a manifest, or the synthesiser.

Each kind of source is one file with a class that has the methods of `Source`. A new kind is one
more such file and a case in `open_source`.
"""

from collections.abc import Sequence
from pathlib import Path

from data_pipeline.sources.fma import TRACKS, Fma
from data_pipeline.sources.folder import MIDI, Folder
from data_pipeline.sources.items import SUFFIXES, About, Entry, Item, Rejection, Source
from data_pipeline.sources.manifests import Manifest, header
from data_pipeline.sources.sections import Section
from data_pipeline.sources.synthetic import Synthesiser
from data_pipeline.sources.tables import Jamendo, MusicCaps
from data_pipeline.sources.tars import COMPRESSED, TAR, find
from jen1_jax.files import AnyPath, StoreError, anywhere, kind
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

__all__ = ["About", "Entry", "Item", "Rejection", "Section", "Source", "empty", "open_source"]

_MANIFEST = ".csv, .tsv or .jsonl manifest"


def open_source(
    source: str, *, clips: int, seconds: float, seed: int, soundfonts: Sequence[str] = ()
) -> Source:
    """A folder, a .csv, .tsv or .jsonl manifest, a pattern of tars, or "synthetic".

    Its files, or the columns of a manifest, tell whether it is one of the public data sets.

    Args:
        clips, seconds, seed: of the synthesiser: number of clips, length of each, and seed.
        soundfonts: files that MIDI files are rendered with; see `midi.Scores`.

    Raises:
        Refusal: there is no such source.
    """
    path = anywhere(source)
    try:
        found = kind(path)
        if soundfonts and found != "directory":
            raise Refusal(f"{source} is no folder; --soundfont is for folders with MIDI files.")
        if source == "synthetic":
            if seed < 0:
                raise Refusal(f"The synthesiser's seed cannot be {seed}; give --seed 0 or more.")
            return Synthesiser(clips, seconds, seed)
        opened = _opened(path, found, soundfonts)
    except StoreError as error:
        raise Refusal(f"{error}; nothing was written.") from None
    if isinstance(path, Path) or type(opened) in (Folder, Manifest):
        return opened
    raise _local_alone(source)


def _opened(path: AnyPath, found: str | None, soundfonts: Sequence[str]) -> Source:
    if path.name.lower().endswith((TAR, *COMPRESSED)) and found != "directory":
        if not isinstance(path, Path):
            raise _local_alone(str(path))
        return find(str(path))
    if found is None:
        raise Refusal(
            f"There is no {path}; --source takes a folder, a {_MANIFEST}, a pattern of .tar "
            "files, or the word synthetic."
        )
    if found == "directory":
        if kind(path / TRACKS):
            return Fma(path)
        if kind(path / "dataset_info.json"):
            # It imports TensorFlow.
            from data_pipeline.sources.tfds import Tfds

            return Tfds(path)
        return Folder(path, tuple(local(font) for font in soundfonts))
    if path.suffix.lower() in (".csv", ".tsv", ".jsonl") and found == "file":
        columns = header(path)
        published = (table for table in (MusicCaps, Jamendo) if set(table.COLUMNS) <= set(columns))
        return next(published, Manifest)(path)
    raise Refusal(f"{path} is neither a folder nor a {_MANIFEST}.")


def _local_alone(source: str) -> Refusal:
    return Refusal(
        f"{source} is in a bucket, from which only folders of audio files and manifests are read; "
        "mount the bucket or copy it, and give the local path."
    )


def empty(source: str) -> Refusal:
    """Why a source that lists nothing cannot be used."""
    return Refusal(
        f"{source} lists no audio; names of audio files end in {' '.join(SUFFIXES)}, and of "
        f"MIDI files in {' '.join(MIDI)}."
    )
