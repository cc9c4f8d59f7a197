"""Prepared shards to batches: a tf.data pipeline over a counter, with no other state, so that it restarts exactly at any step.

```
step s, slot j -> global index g = s * batch + j -> epoch g // n, place g % n -> record shuffled(place, seed, epoch) -> window
```
Every example follows from (seed, g) alone. A batch is therefore the same whatever the number of processes that share it, and a
run that starts at step s continues as if it had never stopped.
"""

import atexit
import hashlib
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open

from data_pipeline._tf import tf
from data_pipeline.shards import EMBEDDINGS, Info, info, records
from jen1_jax.errors import Refusal

TEXTS = ("caption", "meta")
TIMING = ("start", "total")

__all__ = ["Info", "batches", "captions", "info"]


def batches(
    folder: str,
    split: str,
    batch_size: int,
    *,
    seed: int = 0,
    start_step: int = 0,
    crop: int | None = None,
    shuffle: bool = True,
    epochs: int | None = None,
    limit: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a data set's split, from `start_step` on; without `epochs` for ever, across epoch boundaries.

    Args:
        batch_size: of the global batch; this process gets rows [process_index, process_index + 1) * batch_size / process_count.
        crop: samples (frames of latents) of a random window in the valid part, another one each epoch; None for whole records.
        shuffle: a new permutation of the whole split each epoch; False reads in order.
        limit: use so many of the split's records, evenly spread, so that they come from different files; 0 means all.
        epochs: stop after these; the last batch then holds what is left, and a process whose rows are all beyond it gets none.

    Yields:
        Waveforms: audio float32 [b, samples, 2] in [-1, 1], valid_samples int32 [b].
        Latents: latents float16 [b, frames, k], valid_frames int32 [b]; where the data set holds embeddings also text_embedding
        float16 [b, tokens, d] and text_lengths int32 [b].
        Both: caption and meta (JSON), object arrays of str [b], and index int64 [b], the record's place in the split; whole
        records also start and total float32 [b], the seconds at which they begin in their piece, and of the whole piece.

    Raises:
        Refusal: no such data set or split, or sizes that do not fit.
    """
    about = info(folder)
    if batch_size < 1 or batch_size % process_count:
        raise Refusal(
            f"A batch of {batch_size} cannot be shared by {process_count} processes; choose a multiple."
        )
    if crop is not None and not 0 < crop <= about.shape[0]:
        raise Refusal(
            f"Cannot crop {crop} out of records of {about.shape[0]} in {folder}; prepare longer clips or crop less."
        )
    read = records(folder, split)
    size, share = (
        min(limit or about.examples[split], about.examples[split]),
        batch_size // process_count,
    )
    stride = about.examples[split] // size
    data, valid = (
        ("audio", "valid_samples") if about.kind == "waveform" else ("latents", "valid_frames")
    )
    stored = tf.int16 if about.kind == "waveform" else tf.float16
    spec = {data: tf.io.FixedLenFeature([], tf.string), valid: tf.io.FixedLenFeature([], tf.int64)}
    spec |= {name: tf.io.FixedLenFeature([], tf.string) for name in TEXTS}
    timing = TIMING if crop is None else ()
    spec |= {name: tf.io.FixedLenFeature([], tf.float32) for name in timing}

    def place(i):
        """This process's i-th example: its global index and its record."""
        g = (start_step + i // share) * batch_size + process_index * share + i % share
        record, epoch = g % size, g // size
        if shuffle:
            key = tf.stack([tf.constant(seed % 2**32, tf.int64), epoch])
            record = tf.random.experimental.index_shuffle(
                record, tf.cast(key, tf.uint32), tf.constant(size - 1, tf.int64)
            )
        return g, record * stride

    def fetch(g, record):
        serialised = tf.numpy_function(
            lambda r: np.array(read(r.tolist()), object), [record], tf.string, stateful=False
        )
        parsed = tf.io.parse_example(tf.ensure_shape(serialised, [None]), spec)
        rows = tf.reshape(tf.io.decode_raw(parsed[data], stored), [-1, *about.shape])
        lengths = tf.cast(parsed[valid], tf.int32)
        if crop is not None:
            starts = tf.map_fn(window, (g, lengths), fn_output_signature=tf.int32)
            rows = tf.gather(rows, starts[:, None] + tf.range(crop), batch_dims=1)
            lengths = tf.minimum(lengths, crop)
        if about.kind == "waveform":
            rows = tf.cast(rows, tf.float32) / 32767.0
        return {data: rows, valid: lengths, "index": record} | {
            name: parsed[name] for name in (*TEXTS, *timing)
        }

    def window(example):
        g, length = example
        key = tf.stack([tf.constant(seed, tf.int64), g])
        return tf.random.stateless_uniform([], key, 0, tf.maximum(length - crop, 0) + 1, tf.int32)

    dataset = tf.data.Dataset.range(np.iinfo(np.int64).max // batch_size - start_step).map(place)
    if epochs is not None:
        dataset = dataset.take_while(lambda g, _: g < epochs * size)
    dataset = dataset.batch(share).map(fetch, num_parallel_calls=2).prefetch(prefetch)
    stream = _numpy(dataset, _embeddings(folder))
    _streams.add(stream)
    return stream


def _numpy(dataset: tf.data.Dataset, embed: Callable | None) -> Iterator[dict[str, np.ndarray]]:
    for batch in dataset.as_numpy_iterator():
        batch |= {name: np.array([text.decode() for text in batch[name]], object) for name in TEXTS}
        yield batch | (embed(batch["caption"]) if embed else {})


_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """Ends reading while Python still runs: its threads call Python and would wait for ever once the interpreter shuts down."""
    for stream in list(_streams):
        stream.close()


def captions(folder: str, split: str) -> list[str]:
    """The distinct captions of a split, sorted."""
    read, size = records(folder, split), info(folder).examples[split]
    spec = {"caption": tf.io.FixedLenFeature([], tf.string)}
    found = set()
    for start in range(0, size, 64):
        found.update(
            tf.io.parse_example(read(list(range(start, min(start + 64, size)))), spec)[
                "caption"
            ].numpy()
        )
    return sorted(caption.decode() for caption in found)


def caption_key(caption: str) -> str:
    """The name under which a caption's embedding is stored."""
    return hashlib.sha256(caption.encode()).hexdigest()


def _embeddings(folder: str) -> Callable[[np.ndarray], dict[str, np.ndarray]] | None:
    """A function captions -> padded embeddings and lengths that reads the file as it goes, or None where there is none."""
    path = Path(folder) / EMBEDDINGS
    if not path.exists():
        return None
    file = safe_open(path, "numpy")
    tokens, width = json.loads(file.metadata()["shape"])

    def embed(captions: np.ndarray) -> dict[str, np.ndarray]:
        embedding, lengths = (
            np.zeros((len(captions), tokens, width), np.float16),
            np.zeros(len(captions), np.int32),
        )
        for i, caption in enumerate(captions):
            found = file.get_tensor(caption_key(caption))
            embedding[i, : len(found)], lengths[i] = found, len(found)
        return {"text_embedding": embedding, "text_lengths": lengths}

    return embed
