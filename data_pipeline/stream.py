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

import numpy as np

from data_pipeline._tf import tf
from data_pipeline.caption_table import CaptionTable
from data_pipeline.damage import Damages
from data_pipeline.fetching import TEXTS, TIMING, Fetcher, open_table
from data_pipeline.layout import Info, info, pieces
from data_pipeline.order import Order
from data_pipeline.reading import Clips
from data_pipeline.tombstones import naming, tombstones
from jen1_numpy.errors import Refusal

__all__ = ["Info", "batches", "captions", "info"]

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
    clips = [Clips(folder, split) for folder in folders]
    about, shares = clips[0].about, list(shares) or [1] * len(folders)
    _check(folders, [each.about for each in clips], shares, batch_size, crop)
    around = around if about.kind == "waveform" and crop is None else 0
    if not 0 <= around <= about.shape[0]:
        raise Refusal(
            f"Cannot read {around} samples around clips of {about.shape[0]} in {folders[0]}; "
            "prepare longer clips or read fewer samples."
        )
    fetcher = Fetcher(clips, crop, around, damages or Damages(), table)
    order = Order([len(each) for each in clips], shares, limit, seed, shuffle)
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
    stream = _read(dataset.map(place).batch(share).prefetch(1), fetcher, prefetch)
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


def fields(about: Info, whole: bool) -> list[str]:
    """The fields of a batch of this data set; those of windows (not `whole`) have no timing."""
    return [*about.data_fields, *TEXTS, *(TIMING if whole else ()), "index"]


def _read(
    drawn: tf.data.Dataset, fetcher: Fetcher, prefetch: int
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
        return fetcher.fetch(*arrays) if arrays else None

    try:
        while True:
            coming.append(reading.submit(read, drawing.submit(next, examples, None)))
            if len(coming) > prefetch:
                batch = coming.popleft().result()
                fetcher.damages.check()
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
