"""Where audio comes from: a folder, a CSV or JSONL manifest, or the built-in synthesiser.

Each kind of source is one file with a function that yields items and rejections. A new kind is one
more such file and a case in `open_source`.
"""

import csv
from collections.abc import Sequence

from data_pipeline.sources.folder import from_folder
from data_pipeline.sources.items import SUFFIXES, About, Item, Rejection
from data_pipeline.sources.manifests import from_csv, from_jsonl
from data_pipeline.sources.synthetic import from_synthesiser
from jen1_jax.errors import Refusal
from jen1_jax.files import local

__all__ = ["About", "Item", "Rejection", "open_source"]


def open_source(
    source: str, *, clips: int, seconds: float, seed: int
) -> Sequence[Item | Rejection]:
    """The items and rejections of a folder, a .csv or .jsonl manifest, or of "synthetic".

    Args:
        clips, seconds, seed: of the synthesiser: number of clips, length of each, and seed.

    Raises:
        Refusal: there is no such source, it cannot be read, or it lists no audio.
    """
    if source == "synthetic":
        if seed < 0:
            raise Refusal(f"The synthesiser's seed cannot be {seed}; give --seed 0 or more.")
        return list(from_synthesiser(clips, seconds, seed))
    path = local(source)
    if not path.exists():
        raise Refusal(
            f"There is no {source}; --source takes a folder, a .csv or .jsonl manifest, "
            "or the word synthetic."
        )
    kinds = {".csv": from_csv, ".jsonl": from_jsonl}
    read = from_folder if path.is_dir() else kinds.get(path.suffix.lower())
    if read is None:
        raise Refusal(f"{source} is neither a folder nor a .csv or .jsonl manifest.")
    try:
        entries = list(read(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"Cannot read {source}: {error}.") from None
    if not entries:
        raise Refusal(f"{source} lists no audio; names of audio files end in {' '.join(SUFFIXES)}.")
    return entries
