"""Where audio comes from: a folder of audio and MIDI files, a manifest, or the synthesiser.

Each kind of source is one file with a function that yields items and rejections. A new kind is one
more such file and a case in `open_source`.
"""

import csv
from collections.abc import Sequence

from data_pipeline.sources.folder import MIDI, from_folder, midi_files
from data_pipeline.sources.items import SUFFIXES, About, Item, Rejection
from data_pipeline.sources.manifests import from_csv, from_jsonl
from data_pipeline.sources.synthetic import from_synthesiser
from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

__all__ = ["About", "Item", "Rejection", "open_source"]


def open_source(
    source: str, *, clips: int, seconds: float, seed: int, soundfonts: Sequence[str] = ()
) -> Sequence[Item | Rejection]:
    """The items and rejections of a folder, a .csv or .jsonl manifest, or of "synthetic".

    Args:
        clips, seconds, seed: of the synthesiser: number of clips, length of each, and seed.
        soundfonts: files that MIDI files are rendered with; see `midi.from_midi`.

    Raises:
        Refusal: there is no such source, it cannot be read, or it lists no audio.
    """
    path = local(source)
    if soundfonts and not path.is_dir():
        raise Refusal(f"{source} is no folder; --soundfont is for folders with MIDI files.")
    if source == "synthetic":
        if seed < 0:
            raise Refusal(f"The synthesiser's seed cannot be {seed}; give --seed 0 or more.")
        return list(from_synthesiser(clips, seconds, seed))
    if not path.exists():
        raise Refusal(
            f"There is no {source}; --source takes a folder, a .csv or .jsonl manifest, "
            "or the word synthetic."
        )
    try:
        if path.is_dir():
            entries = list(from_folder(path))
            if midi_files(path):
                # It imports packages that the other sources do not need.
                from data_pipeline.sources.midi import from_midi

                entries += from_midi(path, [local(font) for font in soundfonts])
            elif soundfonts:
                raise Refusal(f"{source} holds no MIDI files; leave out --soundfont.")
        elif read := {".csv": from_csv, ".jsonl": from_jsonl}.get(path.suffix.lower()):
            entries = list(read(path))
        else:
            raise Refusal(f"{source} is neither a folder nor a .csv or .jsonl manifest.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"Cannot read {source}: {error}.") from None
    if not entries:
        raise Refusal(
            f"{source} lists no audio; names of audio files end in {' '.join(SUFFIXES)}, and of "
            f"MIDI files in {' '.join(MIDI)}."
        )
    return entries
