"""A waveform data set to a latent one: every clip is encoded once, and its texts are kept.

The latents at both ends of a clip depend on the audio beyond them. Each clip is therefore encoded
together with the adjoining clips of its piece.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from safetensors.numpy import save_file

from data_pipeline.shards import (
    EMBEDDINGS,
    FINGERPRINT,
    Info,
    Writer,
    adjoining,
    decoder,
    info,
    latent_features,
    records,
)
from data_pipeline.stream import caption_key
from jen1_jax.errors import Refusal
from jen1_jax.files import whole_folder

GROUP = 4  # batches of clips that are read together


def encode(
    folder: str,
    out: str,
    encode_fn: Callable[[np.ndarray, np.ndarray], np.ndarray],
    fingerprint: Mapping,
    *,
    k: int,
    hop: int,
    around: int = 0,
    text_fn: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None = None,
    batch_size: int = 8,
    progress: Callable[[str], None] = print,
) -> Info:
    """Writes the latent data set `out` from the waveform data set `folder`, in the same order.

    Args:
        encode_fn: audio float32 [batch_size, frames * hop, 2] and how many samples of each are
            audio, [batch_size] -> whitened latents [batch_size, frames, k]. There are at most four
            numbers of frames: a clip is padded to whole hops and has none, one or two neighbours.
        fingerprint: JSON values that identify the encoder (and the text encoder), written to
            fingerprint.json.
        around: frames of the adjoining clips on each side that are encoded with a clip and then
            cut off. With the encoder's receptive field, a clip of whole hops has the latents that
            it has in its piece.
        text_fn: captions -> (embedding [n, tokens, d], lengths [n]); None stores only captions.

    Raises:
        Refusal: `folder` is no waveform data set, latents are not finite or of another shape, or
            `out` cannot be written.
    """
    about = info(folder)
    if about.kind != "waveform":
        raise Refusal(f"{folder} holds {about.kind}; `encode` takes a waveform data set.")
    samples = about.shape[0]
    frames, total = -(-samples // hop), sum(about.examples.values())
    around = min(around, samples // hop)
    decode, done, captions = decoder(folder), 0, set()
    began = reported = time.monotonic()
    with whole_folder(out) as target:
        with Writer(target, latent_features(frames, k), f"latents of {folder}") as writer:
            for split, size in about.examples.items():
                read = records(folder, split)
                for start in range(0, size, GROUP * batch_size):
                    stop = min(start + GROUP * batch_size, size)
                    first, last = max(start - 1, 0), min(stop + 1, size)  # with their neighbours
                    clips = [decode(record) for record in read(list(range(first, last)))]
                    chosen = range(start - first, stop - first)
                    latents = _encode_group(
                        encode_fn,
                        clips,
                        chosen,
                        adjoining(
                            [clip["id"].encode() for clip in clips],
                            [clip["start"] for clip in clips],
                            about.seconds,
                        ),
                        batch_size=batch_size,
                        frames=frames,
                        hop=hop,
                        around=around,
                        k=k,
                    )
                    for place, row in zip(chosen, latents, strict=True):
                        example = _latent_example(clips[place], row, hop)
                        captions.update(example["captions"])
                        writer.write(split, example)
                    done += len(chosen)
                    if time.monotonic() - reported > 5:
                        reported = time.monotonic()
                        speed = done * about.seconds / (reported - began)
                        progress(f"{done}/{total} clips, {speed:.0f} times real time")
        (target / FINGERPRINT).write_text(
            json.dumps(dict(fingerprint), indent=2, sort_keys=True) + "\n"
        )
        if text_fn is not None:
            _write_embeddings(target / EMBEDDINGS, sorted(captions), text_fn, batch_size, progress)
    return info(out)


def _latent_example(clip: Mapping, latents: np.ndarray, hop: int) -> dict:
    if not np.isfinite(latents).all():
        raise Refusal(
            f"The latents of {clip['id']} are not finite in float16; check the autoencoder."
        )
    valid = -(-int(clip["valid_samples"]) // hop)
    kept = {name: clip[name] for name in ("captions", "id", "meta", "start", "total")}
    return dict(latents=latents, valid_frames=valid) | kept


def _encode_group(
    encode_fn: Callable,
    clips: Sequence[Mapping],
    chosen: range,
    adjoins: np.ndarray,
    *,
    batch_size: int,
    frames: int,
    hop: int,
    around: int,
    k: int,
) -> list[np.ndarray]:
    """Latents float16 [frames, k] of the `chosen` ones of consecutive clips.

    `adjoins` says of each clip but the last whether the next one follows directly. Clips with
    neighbours on the same sides are encoded together.
    """
    samples = len(clips[0]["audio"])
    groups: dict[tuple[bool, bool], list[int]] = {}
    for place in chosen:
        before = around > 0 and place > 0 and bool(adjoins[place - 1])
        after = around > 0 and place + 1 < len(clips) and bool(adjoins[place])
        groups.setdefault((before, after), []).append(place)
    encoded = {}
    for (before, after), places in groups.items():
        first, length = around * before, frames + around * (before + after)
        for batch in (places[at : at + batch_size] for at in range(0, len(places), batch_size)):
            audio = np.zeros((batch_size, length * hop, 2), np.float32)
            valid = np.zeros(batch_size, np.int64)
            for number, place in enumerate(batch):
                row = audio[number]
                parts = [clips[place - 1]["audio"][samples - first * hop :]] if before else []
                parts += [clips[place]["audio"]]
                parts += [clips[place + 1]["audio"]] if after else []
                whole = np.concatenate(parts)[: len(row)]
                row[: len(whole)] = whole / np.float32(32767)
                valid[number] = first * hop + clips[place]["valid_samples"]
                valid[number] += clips[place + 1]["valid_samples"] if after else 0
            latents = np.asarray(encode_fn(audio, np.minimum(valid, length * hop)))
            if latents.shape != (batch_size, length, k):
                raise Refusal(
                    f"The encoder gave {latents.shape} for {batch_size} clips, "
                    f"not {(batch_size, length, k)}."
                )
            with np.errstate(over="ignore"):  # refused later, by name
                own = latents[:, first : first + frames].astype(np.float16)
            encoded |= zip(batch, own, strict=False)
    return [encoded[place] for place in chosen]


def _write_embeddings(path, captions: list[str], text_fn, batch_size: int, progress) -> None:
    """One float16 [length, d] tensor per caption, under its hash."""
    tensors, shape, full = {}, None, 0
    for start in range(0, len(captions), batch_size):
        chosen = captions[start : start + batch_size]
        embedding, lengths = text_fn(chosen)
        shape = [int(n) for n in embedding.shape[1:]]
        full += sum(int(length) == shape[0] for length in lengths)
        for caption, row, length in zip(chosen, np.asarray(embedding), lengths, strict=True):
            tensors[caption_key(caption)] = np.ascontiguousarray(
                row[: int(length)].astype(np.float16)
            )
    save_file(tensors, path, {"shape": json.dumps(shape)})
    cut = (
        f", {full} of them with all of {shape[0]} tokens, where longer ones are cut" if full else ""
    )
    progress(f"{len(captions)} captions embedded{cut}")
