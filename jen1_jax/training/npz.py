"""Training data from one `.npz` file, for machines without TensorFlow."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from jen1_numpy.errors import Refusal
from jen1_numpy.files import local

_KINDS = {"latents": "valid_frames", "audio": "valid_samples"}
_TIMING = {"start", "total"}  # left out with `crop`, since a window begins elsewhere


class NpzData:
    """Waveforms or latents that fit in memory; batch s is the same whatever the first step.

    Each example stands alone: what comes before and after it in its piece is not known. `batches`
    and `sweep` therefore accept `around`, as `ShardData` does, and yield no such arrays.

    The file holds these arrays:
        audio: float32 [n, samples, 2], with valid_samples [n]; or
        latents: [n, frames, k], with valid_frames [n] and the string `fingerprint`.
        caption: strings [n].
        test: bool [n], true for held-out examples.
        start, total: [n], only needed for the conditioner "timing": the seconds at which each
            example begins in its piece, and the seconds that the piece lasts.

    Args:
        crop: cut a random window of so many samples out of each example.
        limit: use so many training examples, evenly spread; 0 means all.

    Raises:
        Refusal: the file cannot be read, lacks an array or a training example, or is too short.
    """

    def __init__(
        self, path: str, batch_size: int, seed: int, crop: int | None = None, limit: int = 0
    ):
        path = local(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {
                    name: file[name] for name in file.files if crop is None or name not in _TIMING
                }
        except (OSError, EOFError, BadZipFile, ValueError) as error:
            raise Refusal(
                f"{path} cannot be read as an .npz file without pickled objects ({error})."
            ) from None
        kind = next((kind for kind in _KINDS if kind in arrays), "latents")
        missing = {kind, "caption", "test", _KINDS[kind]} - arrays.keys()
        if missing:
            raise Refusal(
                f"{path} lacks the arrays {', '.join(sorted(missing))}; "
                "jen1_jax/training/npz.py lists what the file must hold."
            )
        length = arrays[kind].shape[1]
        if crop is not None and (kind != "audio" or length < crop):
            raise Refusal(
                f"Cannot crop {crop} samples out of the {kind} of length {length} in {path}; "
                "prepare longer audio."
            )
        self.description: Mapping[str, Any] = {
            "dir": str(path.absolute()),
            "kind": "waveform" if kind == "audio" else kind,
            "length": length,
            "fields": sorted(arrays),
            "limit": limit,
            "seed": seed,
            "content": _content(path),
        }
        if "fingerprint" in arrays:
            self.description |= {"fingerprint": str(arrays.pop("fingerprint"))}
        test = arrays.pop("test")
        train = np.flatnonzero(~test)
        train = train[_spread(len(train), limit)]
        self._splits = {"train": _rows(arrays, train), "test": _rows(arrays, test)}
        if len(train) == 0:
            raise Refusal(f"{path} holds no training example: `test` is true everywhere.")
        self._batch_size, self._seed, self._crop = batch_size, seed, crop or 0  # 0: whole examples

    def captions(self) -> list[str]:
        """The distinct captions of the training split."""
        return sorted({str(caption) for caption in self._splits["train"]["caption"]})

    def batches(
        self, start_step: int, around: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Endless batches of the training examples from `start_step` on, or of each the `rows`."""
        arrays, step = self._splits["train"], start_step
        count = len(arrays["caption"])
        places = np.arange(self._batch_size) if rows is None else np.array(rows)
        while True:
            slots = step * self._batch_size + places
            order = {
                epoch: np.random.default_rng((self._seed, epoch)).permutation(count)
                for epoch in set((slots // count).tolist())
            }
            index = np.array([order[slot // count][slot % count] for slot in slots.tolist()])
            batch = _rows(arrays, index) | {"index": index}
            yield self._cropped(batch, slots) if self._crop else batch
            step += 1

    def sweep(
        self, split: str, around: int = 0, limit: int = 0, share: tuple[int, int] = (0, 1)
    ) -> Iterator[dict[str, Any]]:
        """One pass over the whole examples of a split, "train" or "test", in order.

        Of all, or of at most `limit`; a `share` is that of a process, as in `training.loop.Data`.
        """
        arrays, (process, processes) = self._splits[split], share
        taken = _spread(len(arrays["caption"]), limit)[process::processes]
        for start in range(0, len(taken), self._batch_size):
            yield _rows(arrays, taken[start : start + self._batch_size])

    def _cropped(self, batch: dict[str, Any], slots: np.ndarray) -> dict[str, Any]:
        room = np.maximum(batch["valid_samples"] - self._crop, 0)
        starts = [
            np.random.default_rng((self._seed, 1, slot)).integers(most + 1)
            for slot, most in zip(slots.tolist(), room, strict=True)
        ]
        audio = np.stack(
            [
                clip[start : start + self._crop]
                for clip, start in zip(batch["audio"], starts, strict=True)
            ]
        )
        return batch | {
            "audio": audio,
            "valid_samples": np.minimum(batch["valid_samples"], self._crop),
        }


def _content(path: Path) -> str:
    """What tells the file from others: a hash of its size and of its table of checksums."""
    with ZipFile(path) as file:
        parts = [(part.filename, part.file_size, part.CRC) for part in file.infolist()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _spread(count: int, limit: int) -> np.ndarray:
    """Evenly spread places of at most `limit` of `count` examples; of all with a limit of 0."""
    return np.arange(count)[:: max(count // (limit or count or 1), 1)][: limit or None]


def _rows(arrays: Mapping[str, np.ndarray], rows) -> dict[str, np.ndarray]:
    return {name: array[rows] for name, array in arrays.items()}
