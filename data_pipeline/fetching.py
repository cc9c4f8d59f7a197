"""Reads the clips of a batch: where a clip cannot be used, its row stays empty."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.caption_table import TABLE, CaptionTable
from data_pipeline.damage import Damages
from data_pipeline.embeddings import open_embeddings
from data_pipeline.layout import adjoining
from data_pipeline.reading import Clips, Damaged

TEXTS = ("caption", "meta")
TIMING = ("start", "total")


class Fetcher:
    """Reads the clips of a batch from the data sets. Threads may share it."""

    def __init__(
        self,
        clips: Sequence[Clips],
        crop: int | None,
        around: int,
        damages: Damages,
        table: CaptionTable | None,
    ):
        self.clips, self.damages = clips, damages
        self._crop, self._around, self._about = crop, around, clips[0].about
        folders = [str(each.about.folder) for each in clips]
        self._first = np.cumsum([0, *map(len, self.clips)])  # index of each data set's first clip
        self._tables = [table or open_table(folder) for folder in folders]
        self._embeddings = [open_embeddings(folder) for folder in folders]

    def empty(self, size: int) -> dict[str, np.ndarray]:
        """A batch in which nothing is valid."""
        data, valid = self._about.data_fields
        rows, channels = self._about.shape
        dtype, ints = np.int16 if data == "audio" else np.float16, np.zeros(size, np.int32)
        batch = {data: np.zeros((size, self._crop or rows, channels), dtype), valid: ints}
        batch["index"] = np.zeros(size, np.int64)
        if self._crop is None:
            batch |= {name: np.zeros(size, np.float32) for name in TIMING}
        for name in ("before", "after") if self._around else ():
            batch[name] = np.zeros((size, self._around, channels), dtype)
            batch[f"{name}_samples"] = ints.copy()
        if self._embeddings[0]:
            batch["text_embedding"] = np.zeros((size, *self._embeddings[0].shape), np.float16)
            batch["text_lengths"] = ints.copy()
        return batch | {name: np.full(size, "", object) for name in TEXTS}

    def fetch(self, parts, places, starts, choices) -> dict[str, np.ndarray]:
        """A batch of the clips that are drawn."""
        batch = self.empty(len(parts))
        columns = (array.tolist() for array in (parts, places, starts, choices))
        for row, (part, place, start, choice) in enumerate(zip(*columns, strict=True)):
            batch["index"][row] = self._first[part] + place
            data, valid = self._about.data_fields
            clip = self._read(part, place, start, batch[data][row])
            if clip is None:
                batch[data][row] = 0
                continue
            for name in (valid, *TIMING):
                if name in batch:
                    batch[name][row] = clip[name]
            captions = clip["captions"]
            if table := self._tables[part]:
                captions = table.captions(clip["id"], captions) or captions
            caption = captions[int(choice * len(captions))]
            batch["caption"][row], batch["meta"][row] = caption, clip["meta"]
            if embeddings := self._embeddings[part]:
                found = embeddings(caption)
                batch["text_embedding"][row, : len(found)] = found
                batch["text_lengths"][row] = len(found)
            if self._around:
                self._add_surroundings(batch, row, part, place, clip)
        return batch

    def _read(self, part: int, place: int, start: float, into: np.ndarray) -> dict[str, Any] | None:
        """A whole clip, or a window at the share `start` of its valid part.

        None if it is damaged or withdrawn.
        """
        clips = self.clips[part]
        if (part, place) in self.damages or place in clips.withdrawn:
            return None
        rows, valid = self._about.shape[0], self._about.data_fields[1]
        crop = self._crop or rows
        try:
            first = int(start * (rows - crop + 1))
            clip = clips.read(place, first, first + crop, into)
            if clip[valid] < rows and crop < rows:  # known only now
                first = int(start * (max(clip[valid] - crop, 0) + 1))
                clip = clips.read(place, first, first + crop, into)
        except Damaged as damage:
            self.damages.add(
                part, place, f"clip {place} of {clips.split} in {clips.about.folder}", damage
            )
            return None
        clip[valid] = min(clip[valid], crop)
        return clip

    def _add_surroundings(self, batch: dict, row: int, part: int, place: int, clip: dict) -> None:
        """The last samples of the clip before, and the first ones of the clip after it."""
        samples = self._about.shape[0]
        for name, neighbour in (("before", place - 1), ("after", place + 1)):
            clips = self.clips[part]
            if not 0 <= neighbour < len(clips) or neighbour in clips.withdrawn:
                continue
            first = samples - self._around if name == "before" else 0
            try:
                other = clips.read(neighbour, first, first + self._around)
            except Damaged:  # it is counted when its turn comes
                continue
            order = (other, clip) if name == "before" else (clip, other)
            ids, begins = [each["id"].encode() for each in order], [each["start"] for each in order]
            if adjoining(ids, begins, self._about.seconds)[0]:
                batch[name][row] = other["audio"]
                valid = self._around if name == "before" else other["valid_samples"]
                batch[f"{name}_samples"][row] = min(valid, self._around)


def open_table(folder: str) -> CaptionTable | None:
    """The table of captions in a data set's folder; None if there is none."""
    path = Path(folder, TABLE)
    return CaptionTable(path) if path.exists() else None
