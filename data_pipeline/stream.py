"""Prepared shards to batches: a pipeline whose only state is a counter.

```
step s, row j -> global index g = s * batch + j -> data set and clip (order) -> window, caption
```
Every example depends on (seed, g) alone. A batch is therefore the same for any number of processes
that share it, and a run that starts at step s continues as if it had never stopped.
"""

import atexit
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline._tf import tf
from data_pipeline.caption_table import TABLE, CaptionTable
from data_pipeline.damage import Damages
from data_pipeline.embeddings import open_embeddings
from data_pipeline.layout import Info, adjoining, info, pieces
from data_pipeline.order import Order
from data_pipeline.reading import Clips, Damaged
from data_pipeline.tombstones import naming, tombstones
from jen1_numpy.errors import Refusal

__all__ = ["Info", "batches", "captions", "info"]

TEXTS = ("caption", "meta")
TIMING = ("start", "total")
THREADS = 2  # that read batches


def batches(
    folders: str | Sequence[str],
    split: str,
    batch_size: int,
    *,
    shares: Sequence[int] = (),
    seed: int = 0,
    start_step: int = 0,
    crop: int | None = None,
    shuffle: bool = True,
    epochs: int | None = None,
    limit: int = 0,
    around: int = 0,
    rows: Sequence[int] | None = None,
    prefetch: int = 2,
    damages: Damages | None = None,
    table: CaptionTable | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a split of one or several data sets, endless unless `epochs` is given.

    Args:
        folders: the data sets, which must hold the same kind of clips.
        batch_size: of the global batch.
        shares: of sum(shares) consecutive examples, how many come from each data set, in an order
            drawn anew each time; default: one of each.
        start_step: the batch to begin with.
        crop: length of a random window in the valid part of a clip, in samples or frames of
            latents, another one each epoch; None for whole clips.
        shuffle: a new permutation of each whole split each epoch, and of each clip any one of
            its captions; False reads in order, and the first caption of each clip.
        epochs: of one data set only: stop after so many. The last batch then holds the rest, and a
            process that has no row of it gets no such batch.
        rows: of each global batch, in rising order, that this process gets (default: all).
        limit: use so many of a split's clips, evenly spread, so that they come from different
            files; 0 means all.
        around: samples of audio directly before and after each clip in its piece, to yield with
            it; of waveforms without `crop` only, otherwise ignored.
        prefetch: batches that are read ahead.
        damages: what becomes of clips that cannot be read; default: a refusal.
        table: other captions; default: the one in a data set's folder, if there is one.

    Yields:
        Waveforms: audio int16 [b, samples, 2] and valid_samples int32 [b]. With `around`, also
        before and after int16 [b, around, 2], and before_samples and after_samples int32 [b]: how
        many of their samples next to the clip are audio; the others are zero. There are none where
        no clip adjoins, at the ends of a piece or at a clip that was dropped.
        Latents: latents float16 [b, frames, k], valid_frames int32 [b]. If the data set holds
        embeddings, also text_embedding float16 [b, tokens, d] and text_lengths int32 [b].
        Both: caption and meta (JSON), object arrays of str [b], and index int64 [b], the clip's
        place in the split, counted on through the data sets. Whole clips also have start and total
        float32 [b], the seconds at which they begin in their piece, and those that the whole piece
        lasts. A damaged clip, and one that is withdrawn, keeps its row, in which nothing is valid.

    Raises:
        Refusal: no such data set or split, sizes that do not fit, or too many damaged clips.
    """
    folders = [folders] if isinstance(folders, str) else list(folders)
    abouts = [info(folder) for folder in folders]
    about, shares = abouts[0], list(shares) or [1] * len(folders)
    _check(folders, abouts, shares, batch_size, crop)
    around = around if about.kind == "waveform" and crop is None else 0
    if not 0 <= around <= about.shape[0]:
        raise Refusal(
            f"Cannot read {around} samples around clips of {about.shape[0]} in {folders[0]}; "
            "prepare longer clips or read fewer samples."
        )
    reader = _Reader(folders, split, crop, around, damages or Damages(), table)
    order = Order([len(clips) for clips in reader.clips], shares, limit, seed, shuffle)
    places = np.arange(batch_size) if rows is None else np.array(rows)
    share, total = len(places), int(order.sizes.sum())

    def place(i):
        """Of this process's i-th example: data set, clip, and two numbers in [0, 1)."""
        g = (start_step + i // share) * batch_size + tf.gather(places, i % share)
        part, clip, _ = order(g)
        start, choice = 0.0, 0.0
        if shuffle:
            # The seeds of the window and of the caption are (seed, g) and (seed, -1 - g).
            key = lambda number: tf.stack([tf.constant(seed, tf.int64), number])
            start = tf.random.stateless_uniform([], key(g), dtype=tf.float64)
            choice = tf.random.stateless_uniform([], key(-1 - g))
        return part, clip, start, choice

    dataset = tf.data.Dataset.range(np.iinfo(np.int64).max // batch_size - start_step)
    if epochs is not None:
        dataset = dataset.take_while(
            lambda i: (
                (start_step + i // share) * batch_size + tf.gather(places, i % share)
                < epochs * total
            )
        )
    stream = _read(dataset.map(place).batch(share).prefetch(1), reader, prefetch)
    _streams.add(stream)
    return stream


def _check(
    folders: Sequence[str],
    abouts: Sequence[Info],
    shares: Sequence[int],
    batch_size: int,
    crop: int | None,
) -> None:
    about = abouts[0]
    if batch_size < 1:
        raise Refusal(f"A batch needs at least 1 row; {batch_size} is not possible.")
    if crop is not None and not 0 < crop <= about.shape[0]:
        raise Refusal(
            f"Cannot crop {crop} out of records of {about.shape[0]} in {folders[0]}; "
            "prepare longer clips or crop less."
        )
    if len(shares) != len(folders) or any(type(each) is not int or each < 1 for each in shares):
        raise Refusal(
            f"The shares {tuple(shares)} of {len(folders)} data sets must be as many whole "
            "numbers of 1 or more."
        )
    for folder, other in zip(folders, abouts, strict=True):
        what = lambda one: (one.kind, one.shape, one.fingerprint)
        if what(other) != what(about):
            raise Refusal(
                f"{folder} and {folders[0]} hold clips of another kind or length, or of another "
                "encoder; prepare them alike."
            )


class _Reader:
    """Reads the clips of a batch from the data sets. Threads may share it."""

    def __init__(
        self,
        folders: list[str],
        split: str,
        crop: int | None,
        around: int,
        damages: Damages,
        table: CaptionTable | None,
    ):
        self.clips = [Clips(folder, split) for folder in folders]
        self.damages = damages
        self._folders, self._split, self._crop, self._around = folders, split, crop, around
        self._about = info(folders[0])
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
        if (part, place) in self.damages or place in self.clips[part].withdrawn:
            return None
        rows, valid = self._about.shape[0], self._about.data_fields[1]
        crop = self._crop or rows
        try:
            first = int(start * (rows - crop + 1))
            clip = self.clips[part].read(place, first, first + crop, into)
            if clip[valid] < rows and crop < rows:  # known only now
                first = int(start * (max(clip[valid] - crop, 0) + 1))
                clip = self.clips[part].read(place, first, first + crop, into)
        except Damaged as damage:
            self.damages.add(part, place, f"clip {place} of {self._split}", damage)
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


def fields(about: Info, whole: bool) -> list[str]:
    """The fields of a batch of this data set; those of windows (not `whole`) have no timing."""
    return [*about.data_fields, *TEXTS, *(TIMING if whole else ()), "index"]


def _read(
    drawn: tf.data.Dataset, reader: _Reader, prefetch: int
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of the clips that are drawn, in order.

    The threads are not those of tf.data, which would copy each batch into memory of its own. One
    draws, so that the order is kept and the caller does not wait for it.
    """
    examples = drawn.as_numpy_iterator()
    drawing, reading = ThreadPoolExecutor(1), ThreadPoolExecutor(THREADS)
    coming: deque = deque()

    def read(chosen):
        arrays = chosen.result()
        return reader.fetch(*arrays) if arrays else None

    try:
        while True:
            coming.append(reading.submit(read, drawing.submit(next, examples, None)))
            if len(coming) > prefetch:
                batch = coming.popleft().result()
                reader.damages.check()
                if batch is None:
                    return
                yield batch
    finally:
        for threads in (reading, drawing):
            threads.shutdown(cancel_futures=True)


_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """Ends reading before Python shuts down, since its threads would then wait for ever."""
    for stream in list(_streams):
        stream.close()


def captions(folder: str, split: str) -> list[str]:
    """The distinct captions of a split and of the data set's table, sorted."""
    gone, rows = tombstones(folder), pieces(folder)
    used = (row["captions"] for row in rows if row["split"] == split and not naming(row, gone))
    found, table = {caption for captions in used for caption in captions}, open_table(folder)
    return sorted(found.union(table.distinct() if table else ()))


def open_table(folder: str) -> CaptionTable | None:
    """The table of captions in a data set's folder; None if there is none."""
    path = Path(folder, TABLE)
    return CaptionTable(path) if path.exists() else None
