"""A waveform data set to a latent one: every clip encoded once, with its texts, and an embedding per distinct caption."""

import json
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from safetensors.numpy import save_file

from data_pipeline.shards import EMBEDDINGS, FINGERPRINT, Info, Writer, features, info, latent_features, records, staging
from data_pipeline.stream import caption_key
from jen1_jax.errors import Refusal


def encode(
    folder: str,
    out: str,
    encode_fn: Callable[[np.ndarray], np.ndarray],
    fingerprint: Mapping,
    *,
    k: int,
    hop: int,
    text_fn: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None = None,
    batch_size: int = 8,
    progress: Callable[[str], None] = print,
) -> Info:
    """Writes the latent data set `out` from the waveform data set `folder`, with the same splits in the same order.

    Args:
        encode_fn: audio float32 [batch_size, samples, 2] -> whitened latents [batch_size, frames, k]; samples are the clip's,
            padded to a multiple of `hop`, and every call has this one shape.
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
    decode, done, captions = features(folder).deserialize_example_np, 0, set()
    began = told = time.monotonic()
    with staging(out) as target:
        with Writer(target, latent_features(frames, k), f"latents of {folder}") as writer:
            for split, size in about.examples.items():
                read = records(folder, split)
                for start in range(0, size, batch_size):
                    examples = [decode(record) for record in read(list(range(start, min(start + batch_size, size))))]
                    audio = np.zeros((batch_size, frames * hop, 2), np.float32)
                    for row, example in zip(audio, examples, strict=False):
                        row[:samples] = example["audio"] / np.float32(32767)
                    latents = np.asarray(encode_fn(audio))
                    if latents.shape != (batch_size, frames, k):
                        raise Refusal(f"The encoder gave {latents.shape} for {batch_size} clips, not {(batch_size, frames, k)}.")
                    with np.errstate(over="ignore"):  # refused below, by name
                        latents = latents.astype(np.float16)
                    for row, example in zip(latents, examples, strict=False):
                        text = {name: example[name].decode() for name in ("caption", "id", "meta")}
                        if not np.isfinite(row).all():
                            raise Refusal(f"The latents of {text['id']} are not finite in float16; check the autoencoder.")
                        captions.add(text["caption"])
                        valid = -(-int(example["valid_samples"]) // hop)
                        writer.write(
                            split, dict(latents=row, valid_frames=valid, start=example["start"], total=example["total"]) | text
                        )
                    done += len(examples)
                    if time.monotonic() - told > 5:
                        told = time.monotonic()
                        progress(f"{done}/{total} clips, {done * about.seconds / (told - began):.0f} times real time")
        (target / FINGERPRINT).write_text(json.dumps(dict(fingerprint), indent=2, sort_keys=True) + "\n")
        if text_fn is not None:
            _write_embeddings(target / EMBEDDINGS, sorted(captions), text_fn, batch_size, progress)
    return info(out)


def _write_embeddings(path, captions: list[str], text_fn, batch_size: int, progress) -> None:
    """One float16 [length, d] tensor per caption, under its hash."""
    tensors, shape, full = {}, None, 0
    for start in range(0, len(captions), batch_size):
        chosen = captions[start : start + batch_size]
        embedding, lengths = text_fn(chosen)
        shape = [int(n) for n in embedding.shape[1:]]
        full += sum(int(length) == shape[0] for length in lengths)
        for caption, row, length in zip(chosen, np.asarray(embedding), lengths, strict=True):
            tensors[caption_key(caption)] = np.ascontiguousarray(row[: int(length)].astype(np.float16))
    save_file(tensors, path, {"shape": json.dumps(shape)})
    cut = f", {full} of them with all of {shape[0]} tokens, where longer ones are cut" if full else ""
    progress(f"{len(captions)} captions embedded{cut}")
