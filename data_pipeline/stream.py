"""Prepared shards to batches: a tf.data pipeline whose only state is a counter.

```
step s, row j -> global index g = s * batch + j -> epoch g // n, place g % n
              -> record shuffled(place, seed, epoch) -> window, caption
```
Every example depends on (seed, g) alone. A batch is therefore the same for any number of processes
that share it, and a run that starts at step s continues as if it had never stopped.
"""

import atexit
import hashlib
import json
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from data_pipeline._tf import tf
from data_pipeline.shards import EMBEDDINGS, SAMPLE_RATE, Info, adjoining, info, records
from jen1_numpy.errors import Refusal

CAPTIONS = {"captions": tf.io.RaggedFeature(tf.string)}
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
    around: int = 0,
    rows: Sequence[int] | None = None,
    prefetch: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of a data set's split from `start_step` on, endless unless `epochs` is given.

    Args:
        batch_size: of the global batch.
        rows: of each global batch, in rising order, that this process gets (default: all).
        crop: length of a random window in the valid part of a record, in samples or frames of
            latents, another one each epoch; None for whole records.
        shuffle: a new permutation of the whole split each epoch, and of each record any one of
            its captions; False reads in order, and the first caption of each record.
        epochs: stop after so many. The last batch then holds the rest, and a process that has no
            row of it gets no such batch.
        limit: use so many of the split's records, evenly spread, so that they come from different
            files; 0 means all.
        around: samples of audio directly before and after each clip in its piece, to yield with
            it; of waveforms without `crop` only, otherwise ignored.

    Yields:
        Waveforms: audio float32 [b, samples, 2] in [-1, 1], valid_samples int32 [b]. With `around`,
        also before and after float32 [b, around, 2], and before_samples and after_samples int32
        [b]: how many of their samples next to the clip are audio; the others are zero. There are
        none where no clip adjoins, at the ends of a piece or at a clip that was dropped.
        Latents: latents float16 [b, frames, k], valid_frames int32 [b]. If the data set holds
        embeddings, also text_embedding float16 [b, tokens, d] and text_lengths int32 [b].
        Both: caption and meta (JSON), object arrays of str [b], and index int64 [b], the record's
        place in the split. Whole records also have start and total float32 [b], the seconds at
        which they begin in their piece, and those that the whole piece lasts.

    Raises:
        Refusal: no such data set or split, or sizes that do not fit.
    """
    about = info(folder)
    if batch_size < 1:
        raise Refusal(f"A batch needs at least 1 row; {batch_size} is not possible.")
    if crop is not None and not 0 < crop <= about.shape[0]:
        raise Refusal(
            f"Cannot crop {crop} out of records of {about.shape[0]} in {folder}; "
            "prepare longer clips or crop less."
        )
    around = around if about.kind == "waveform" and crop is None else 0
    if not 0 <= around <= about.shape[0]:
        raise Refusal(
            f"Cannot read {around} samples around clips of {about.shape[0]} in {folder}; "
            "prepare longer clips or read fewer samples."
        )
    read, records_in_split = records(folder, split), about.examples[split]
    size = min(limit or records_in_split, records_in_split)
    places = np.arange(batch_size) if rows is None else np.array(rows)
    share, stride = len(places), records_in_split // size
    data, valid = about.data_fields
    stored = tf.int16 if about.kind == "waveform" else tf.float16
    spec = {data: tf.io.FixedLenFeature([], tf.string), valid: tf.io.FixedLenFeature([], tf.int64)}
    spec |= CAPTIONS | {"meta": tf.io.FixedLenFeature([], tf.string)}
    timing = TIMING if crop is None else ()
    spec |= {name: tf.io.FixedLenFeature([], tf.float32) for name in timing}
    if around:
        spec["id"] = tf.io.FixedLenFeature([], tf.string)

    def place(i):
        """Global index and record of this process's i-th example, and a number in [0, 1)."""
        g = (start_step + i // share) * batch_size + tf.gather(places, i % share)
        record, epoch, choice = g % size, g // size, 0.0
        if shuffle:
            key = tf.stack([tf.constant(seed % 2**32, tf.int64), epoch])
            record = tf.random.experimental.index_shuffle(
                record, tf.cast(key, tf.uint32), tf.constant(size - 1, tf.int64)
            )
            key = tf.stack([tf.constant(seed, tf.int64), -1 - g])  # `window` has (seed, g)
            choice = tf.random.stateless_uniform([], key)
        return g, record * stride, choice

    def parse(record):
        serialised = tf.numpy_function(
            lambda r: np.array(read(r.tolist()), object), [record], tf.string, stateful=False
        )
        return tf.io.parse_example(tf.ensure_shape(serialised, [None]), spec)

    def fetch(g, record, choice):
        parsed = parse(record)
        rows = tf.reshape(tf.io.decode_raw(parsed[data], stored), [-1, *about.shape])
        lengths = tf.cast(parsed[valid], tf.int32)
        if crop is not None:
            starts = tf.map_fn(window, (g, lengths), fn_output_signature=tf.int32)
            rows = tf.gather(rows, starts[:, None] + tf.range(crop), batch_dims=1)
            lengths = tf.minimum(lengths, crop)
        batch = {data: rows, valid: lengths, "index": record}
        batch |= {name: parsed[name] for name in ("meta", *timing)}
        said = parsed["captions"]
        chosen = tf.cast(choice * tf.cast(said.row_lengths(), tf.float32), tf.int32)
        batch["caption"] = tf.gather(said.flat_values, said.row_starts() + chosen)
        if around:  # at the ends of the split a clip is its own neighbour, and does not adjoin
            before = parse(tf.maximum(record - 1, 0))
            after = parse(tf.minimum(record + 1, records_in_split - 1))
            batch |= _surroundings(before, parsed, after, around, about.shape[0])
        if about.kind == "waveform":
            pcm = ("audio", "before", "after") if around else ("audio",)
            batch |= {name: tf.cast(batch[name], tf.float32) / 32767.0 for name in pcm}
        return batch

    def window(example):
        g, length = example
        key = tf.stack([tf.constant(seed, tf.int64), g])
        return tf.random.stateless_uniform([], key, 0, tf.maximum(length - crop, 0) + 1, tf.int32)

    dataset = tf.data.Dataset.range(np.iinfo(np.int64).max // batch_size - start_step).map(place)
    if epochs is not None:
        dataset = dataset.take_while(lambda g, *_: g < epochs * size)
    dataset = dataset.batch(share).map(fetch, num_parallel_calls=2).prefetch(prefetch)
    stream = _numpy(dataset, _embeddings(folder))
    _streams.add(stream)
    return stream


def fields(about: Info, whole: bool) -> list[str]:
    """The fields of a batch of this data set; those of windows (not `whole`) have no timing."""
    return [*about.data_fields, *TEXTS, *(TIMING if whole else ()), "index"]


def _surroundings(
    before: Mapping, clip: Mapping, after: Mapping, around: int, samples: int
) -> dict[str, tf.Tensor]:
    """The last `around` samples of the records `before` and the first ones of those `after`.

    Int16 [b, around, 2], zeros where a record does not adjoin to that of `clip`, and how many
    samples of each are audio, int32 [b].
    """
    ids, starts = (
        tf.stack([records[name] for records in (before, clip, after)]) for name in ("id", "start")
    )
    has = tf.numpy_function(
        lambda ids, starts: adjoining(ids, starts, samples / SAMPLE_RATE),
        [ids, starts],
        tf.bool,
        stateful=False,
    )
    has_before, has_after = tf.unstack(tf.ensure_shape(has, [2, None]))
    frame = 2 * tf.int16.size  # bytes
    valid = tf.cast(after["valid_samples"], tf.int32)

    def part(records, first, present):
        raw = tf.strings.substr(records["audio"], first * frame, around * frame)
        audio = tf.reshape(tf.io.decode_raw(raw, tf.int16), [-1, around, 2])
        return tf.where(present[:, None, None], audio, tf.zeros_like(audio))

    return {
        "before": part(before, samples - around, has_before),
        "after": part(after, 0, has_after),
        "before_samples": tf.where(has_before, around, 0),
        "after_samples": tf.where(has_after, tf.minimum(valid, around), 0),
    }


def _numpy(dataset: tf.data.Dataset, embed: Callable | None) -> Iterator[dict[str, np.ndarray]]:
    for batch in dataset.as_numpy_iterator():
        batch |= {name: np.array([text.decode() for text in batch[name]], object) for name in TEXTS}
        yield batch | (embed(batch["caption"]) if embed else {})


_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """Ends reading before Python shuts down, since its threads would then wait for ever."""
    for stream in list(_streams):
        stream.close()


def captions(folder: str, split: str) -> list[str]:
    """The distinct captions of a split, sorted."""
    read, size = records(folder, split), info(folder).examples[split]
    found = set()
    for start in range(0, size, 64):
        serialised = read(list(range(start, min(start + 64, size))))
        found.update(tf.io.parse_example(serialised, CAPTIONS)["captions"].flat_values.numpy())
    return sorted(caption.decode() for caption in found)


def caption_key(caption: str) -> str:
    """The name under which a caption's embedding is stored."""
    return hashlib.sha256(caption.encode()).hexdigest()


def _embeddings(folder: str) -> Callable[[np.ndarray], dict[str, np.ndarray]] | None:
    """A function captions -> padded embeddings and lengths; None if the data set has none."""
    files = [safe_open(path, "numpy") for path in sorted(Path(folder).glob(EMBEDDINGS))]
    if not files:
        return None
    # The files are mapped into memory: a tensor is read when it is needed.
    holding = {}
    for file in files:
        holding |= dict.fromkeys(file.keys(), file)
    tokens, width = json.loads(files[0].metadata()["shape"])

    def embed(captions: np.ndarray) -> dict[str, np.ndarray]:
        embedding, lengths = (
            np.zeros((len(captions), tokens, width), np.float16),
            np.zeros(len(captions), np.int32),
        )
        for i, caption in enumerate(captions):
            key = caption_key(caption)
            if key not in holding:
                raise Refusal(
                    f"{folder} lacks the embedding of the caption {caption!r}: copy its files "
                    f"{EMBEDDINGS} again, or encode it again."
                )
            found = holding[key].get_tensor(key)
            embedding[i, : len(found)], lengths[i] = found, len(found)
        return {"text_embedding": embedding, "text_lengths": lengths}

    return embed
