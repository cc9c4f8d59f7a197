"""Stored embeddings of captions: written once for each distinct caption, and read in any order.

A file holds, of up to 2,048 captions,
    keys: uint64 [n], of the captions.
    ends: int64 [n], where the tokens of each end in `values`.
    values: float16 [tokens of all, d].
The numbers of tokens and features of a padded embedding are in the file's metadata.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data_pipeline.hashing import hashed
from data_pipeline.layout import EMBEDDINGS
from jen1_numpy.errors import Refusal
from jen1_numpy.files import whole_file

Embed = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
# Captions whose embeddings are in memory and in a file together, and those embedded in one call.
IN_FILE, AT_ONCE = 2048, 128
OPEN_FILES = 64


def write_embeddings(
    folder: Path, captions: Sequence[str], embed: Embed, progress: Callable[[str], None]
) -> None:
    """Writes the embeddings of captions that `folder` lacks, float16 [length, d] each.

    Args:
        captions: distinct ones.
        embed: captions -> (embedding [n, tokens, d], lengths [n]).
    """
    stored = open_embeddings(str(folder))
    missing = [caption for caption in captions if stored is None or caption not in stored]
    missing.sort(key=hashed)
    done, full, tokens = len(captions) - len(missing), 0, 0
    known = (path.stem.rpartition("-")[2] for path in _files(folder))
    first = 1 + max((int(number) for number in known if number.isdecimal()), default=-1)
    for number, chosen in enumerate(_split(missing, IN_FILE), first):
        arrays, shape = _embedded(chosen, embed)
        with whole_file(folder / EMBEDDINGS.replace("*", f"{number:05d}")) as partial:
            # `save_file` would make a file that only its owner can read.
            partial.write_bytes(save(arrays, {"shape": json.dumps(shape)}))
        done, tokens = done + len(chosen), shape[0]
        full += int((np.diff(arrays["ends"], prepend=0) == tokens).sum())
        progress(f"{done}/{len(captions)} captions embedded")
    cut = f", {full} of them with all of {tokens} tokens, where longer ones are cut" if full else ""
    progress(f"{len(captions)} captions embedded{cut}")


def _embedded(captions: Sequence[str], embed: Embed) -> tuple[dict[str, np.ndarray], list[int]]:
    """The arrays of a file, and the [tokens, d] of a padded embedding."""
    parts, lengths, shape = [], [], []
    for chosen in _split(captions, AT_ONCE):
        embedding, valid = embed(chosen)
        shape = [int(size) for size in embedding.shape[1:]]
        lengths += [int(length) for length in valid]
        parts += [
            row[:length] for row, length in zip(embedding, lengths[-len(chosen) :], strict=True)
        ]
    return {
        "keys": np.array(list(map(hashed, captions)), np.uint64),
        "ends": np.cumsum(lengths, dtype=np.int64),
        "values": np.concatenate(parts).astype(np.float16),
    }, shape


def _split(captions: Sequence[str], size: int) -> list[Sequence[str]]:
    return [captions[start : start + size] for start in range(0, len(captions), size)]


class Embeddings:
    """The stored embeddings of a data set. Threads may share it.

    In memory are 24 bytes a caption; the rest is read when it is needed.

    Raises:
        Refusal: a file is damaged.
    """

    def __init__(self, folder: str, paths: Sequence[Path]):
        self._folder, self._paths = folder, paths
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        keys, ends, first = [], [], [0]
        for number in range(len(paths)):
            try:
                with safe_open(paths[number], "numpy") as file:
                    self.shape = tuple(json.loads(file.metadata()["shape"]))
                    keys.append(file.get_tensor("keys"))
                    ends.append(file.get_tensor("ends"))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                raise Refusal(
                    f"{paths[number]} is damaged ({error}); copy it again, or encode again."
                ) from None
            first.append(first[-1] + len(keys[-1]))
        together = np.concatenate(keys)
        self._order = np.argsort(together)  # files may have been added
        self._keys, self._ends, self._first = together[self._order], ends, np.array(first)

    def __contains__(self, caption: str) -> bool:
        return self._place(caption) is not None

    def _place(self, caption: str) -> int | None:
        """The number of a caption's embedding in the files."""
        key = np.uint64(hashed(caption))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        return int(self._order[place])

    def __call__(self, caption: str) -> np.ndarray:
        """Float16 [length, d]. Raises Refusal if there is none of the caption."""
        place = self._place(caption)
        if place is None:
            raise Refusal(
                f"{self._folder} lacks the embedding of the caption {caption!r}: copy its files "
                f"{EMBEDDINGS} again, or make it with `jen1 data embed`."
            )
        number = int(np.searchsorted(self._first, place, side="right")) - 1
        place -= self._first[number]
        begin = int(self._ends[number][place - 1]) if place else 0
        with self._lock:
            values = self._open.pop(number, None)
            if values is None:
                values = safe_open(self._paths[number], "numpy").get_slice("values")
            self._open[number] = values
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return values[begin : int(self._ends[number][place])]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(EMBEDDINGS))


def open_embeddings(folder: str) -> Embeddings | None:
    """The embeddings of a data set; None if it has none."""
    paths = _files(Path(folder))
    return Embeddings(folder, paths) if paths else None
