"""A waveform data set to a latent one: every clip encoded once, with what surrounds it in its piece, and with its texts.

A clip encoded alone has disturbed latents at both of its ends, since an encoder sees across them.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from safetensors.numpy import save_file

from data_pipeline.shards import (
    EMBEDDINGS,
    FINGERPRINT,
    SAMPLE_RATE,
    Info,
    Writer,
    features,
    info,
    latent_features,
    records,
)
from data_pipeline.stream import caption_key
from jen1_jax.errors import Refusal
from jen1_jax.files import whole_folder

GROUP = 4  # batches of clips that are read at once


def encode(
    folder: str,
    out: str,
    encode_fn: Callable[[np.ndarray], np.ndarray],
    fingerprint: Mapping,
    *,
    k: int,
    hop: int,
    around: int = 0,
    text_fn: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None = None,
    batch_size: int = 8,
    progress: Callable[[str], None] = print,
) -> Info:
    """Writes the latent data set `out` from the waveform data set `folder`, with the same splits in the same order.

    Args:
        encode_fn: audio float32 [batch_size, frames * hop, 2] -> whitened latents [batch_size, frames, k]. There are four numbers
            of frames at most: a clip is padded to whole hops, and may have neighbours.
        around: frames of a clip's neighbours in its piece that are encoded with it, and cut off then. With the encoder's reach, a
            clip of whole hops has the latents that it has in its piece.
        fingerprint: JSON values that name the encoder (and the text encoder), kept as fingerprint.json.
        text_fn: captions -> (embedding [n, tokens, d], lengths [n]); None stores captions alone.

    Raises:
        Refusal: `folder` is no waveform data set, latents are not finite or of another shape, or `out` cannot be written.
    """
    about = info(folder)
    if about.kind != "waveform":
        raise Refusal(f"{folder} holds {about.kind}; `encode` takes a waveform data set.")
    samples = about.shape[0]
    frames, total = -(-samples // hop), sum(about.examples.values())
    around = min(around, samples // hop)
    decode, done, captions = features(folder).deserialize_example_np, 0, set()
    began = told = time.monotonic()
    with whole_folder(out) as target:
        with Writer(target, latent_features(frames, k), f"latents of {folder}") as writer:
            for split, size in about.examples.items():
                read = records(folder, split)
                for start in range(0, size, GROUP * batch_size):
                    stop = min(start + GROUP * batch_size, size)
                    near = [
                        decode(record)
                        for record in read(list(range(max(start - 1, 0), min(stop + 1, size))))
                    ]
                    own = range(start - max(start - 1, 0), len(near) - (min(stop + 1, size) - stop))
                    examples = [near[place] for place in own]
                    latents = _encode_group(
                        encode_fn, near, own, batch_size, frames, hop, around, k
                    )
                    for row, example in zip(latents, examples, strict=True):
                        text = {name: example[name].decode() for name in ("caption", "id", "meta")}
                        if not np.isfinite(row).all():
                            raise Refusal(
                                f"The latents of {text['id']} are not finite in float16; check the autoencoder."
                            )
                        captions.add(text["caption"])
                        valid = -(-int(example["valid_samples"]) // hop)
                        writer.write(
                            split,
                            dict(
                                latents=row,
                                valid_frames=valid,
                                start=example["start"],
                                total=example["total"],
                            )
                            | text,
                        )
                    done += len(examples)
                    if time.monotonic() - told > 5:
                        told = time.monotonic()
                        progress(
                            f"{done}/{total} clips, {done * about.seconds / (told - began):.0f} times real time"
                        )
        (target / FINGERPRINT).write_text(
            json.dumps(dict(fingerprint), indent=2, sort_keys=True) + "\n"
        )
        if text_fn is not None:
            _write_embeddings(target / EMBEDDINGS, sorted(captions), text_fn, batch_size, progress)
    return info(out)


def _encode_group(
    encode_fn: Callable,
    near: Sequence[Mapping],
    own: range,
    batch_size: int,
    frames: int,
    hop: int,
    around: int,
    k: int,
) -> list[np.ndarray]:
    """Latents float16 [frames, k] of the clips `own` of consecutive ones, with their neighbours around them.

    Clips are encoded together with those that have neighbours on the same sides.
    """
    samples = len(near[0]["audio"])
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for place in own:
        before = around > 0 and place > 0 and _adjoin(near[place - 1], near[place])
        after = around > 0 and place + 1 < len(near) and _adjoin(near[place], near[place + 1])
        kinds.setdefault((before, after), []).append(place)
    found = {}
    for (before, after), places in kinds.items():
        first, length = around * before, frames + around * (before + after)
        for chosen in (places[at : at + batch_size] for at in range(0, len(places), batch_size)):
            audio = np.zeros((batch_size, length * hop, 2), np.float32)
            for row, place in zip(audio, chosen, strict=False):
                parts = [near[place - 1]["audio"][samples - first * hop :]] if before else []
                parts += [near[place]["audio"]] + ([near[place + 1]["audio"]] if after else [])
                whole = np.concatenate(parts)[: len(row)]
                row[: len(whole)] = whole / np.float32(32767)
            latents = np.asarray(encode_fn(audio))
            if latents.shape != (batch_size, length, k):
                raise Refusal(
                    f"The encoder gave {latents.shape} for {batch_size} clips, not {(batch_size, length, k)}."
                )
            with np.errstate(over="ignore"):  # refused later, by name
                found |= zip(
                    chosen, latents[:, first : first + frames].astype(np.float16), strict=False
                )
    return [found[place] for place in own]


def _adjoin(clip: Mapping, following: Mapping) -> bool:
    """Whether `following` is the next clip of the same piece: one that was left out between them is an edge."""
    piece = lambda example: example["id"].rpartition(b"@")[0]
    seconds = len(clip["audio"]) / SAMPLE_RATE
    return (
        piece(clip) == piece(following)
        and round(following["start"] / seconds) == round(clip["start"] / seconds) + 1
    )


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
