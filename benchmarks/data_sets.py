"""Data sets of noise for the benchmarks of reading, and the figures that they share."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_pipeline.commit import name_shards
from data_pipeline.embeddings import write_embeddings
from data_pipeline.layout import (
    FINGERPRINT,
    PIECES,
    SAMPLE_RATE,
    blocks_of,
    latent_features,
    waveform_features,
)
from data_pipeline.units import in_blocks
from data_pipeline.writing import Shards, serialise

TOKENS, WIDTH = 128, 1024  # of a padded embedding, as the text encoder of `jen1` makes it


def music(samples: int, seed: int) -> np.ndarray:
    """Int16 [samples, 2]: chords over pink noise, which FLAC makes a third smaller, like music."""
    rng, t = np.random.default_rng(seed), np.arange(samples) / SAMPLE_RATE
    spectrum = np.fft.rfft(rng.standard_normal((samples, 2)), axis=0)
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))[:, None]
    noise = np.fft.irfft(spectrum, samples, axis=0)
    tones = sum(np.sin(2 * np.pi * f * t) / (n + 1) for n, f in enumerate(rng.uniform(80, 2000, 6)))
    audio = 0.03 * noise / noise.std() + 0.1 * tones[:, None] * rng.uniform(0.3, 1, 2)
    return np.round(32767 * np.clip(audio, -1, 1)).astype(np.int16)


def write_waveforms(
    folder: Path, clips: int, seconds: float, distinct: int = 32, shard_clips: int = 0
) -> list[dict]:
    """A data set of clips, of which so many are distinct, and those clips.

    Args:
        shard_clips: in each shard; 0 fills shards as preparation does.
    """
    samples = round(seconds * SAMPLE_RATE)
    made = [
        {"audio": music(samples, seed), "valid_samples": samples}
        for seed in range(min(distinct, clips))
    ]
    examples = (_about(made[n % len(made)], n, seconds) for n in range(clips))
    _write(folder, examples, waveform_features(samples), blocks_of(samples), shard_clips)
    return made


def write_latents(folder: Path, clips: int, seconds: float, frames: int, k: int) -> None:
    """A data set of latents [frames, k] with an embedding of 20 to 60 tokens for each caption."""
    rng = np.random.default_rng(0)
    made = [rng.standard_normal((frames, k)).astype(np.float16) for _ in range(min(64, clips))]
    examples = (
        _about({"latents": made[n % len(made)], "valid_frames": frames}, n, seconds)
        for n in range(clips)
    )
    _write(folder, examples, latent_features(frames, k), 1)
    (folder / FINGERPRINT).write_text(json.dumps({"autoencoder": "noise", "text": "noise"}))

    def embed(captions):
        values = rng.standard_normal((len(captions), TOKENS, WIDTH), np.float32)
        return values.astype(np.float16), rng.integers(20, 61, len(captions))

    write_embeddings(folder, [f"noise number {n}" for n in range(clips)], embed, lambda text: None)


def _about(data: Mapping, number: int, seconds: float) -> dict:
    captions, meta = [f"noise number {number}"], json.dumps({"number": number, "licence": "CC0"})
    about = dict(captions=captions, meta=meta, id=f"{number // 20}.flac@{number % 20 * seconds:g}")
    return about | dict(start=number % 20 * seconds, total=20 * seconds, **data)


def _write(
    folder: Path, examples: Iterator[dict], features, blocks: int, shard_clips: int = 0
) -> None:
    (folder / PIECES).mkdir(parents=True)
    shards = Shards(folder, "train")
    with open(folder / PIECES / "00000.jsonl", "w") as pieces:
        for place, example in enumerate(examples):
            if shard_clips and place % shard_clips == 0:
                shards.close()
            parts = in_blocks(example) if "audio" in example else [example]
            shards.write([serialise(part) for part in parts])
            row = dict(id=example["id"].partition("@")[0], captions=example["captions"])
            pieces.write(json.dumps(row | dict(split="train", first=place, clips=1)) + "\n")
    train = {"train": shards.close()}
    name_shards(folder, folder, train, blocks, features, "noise for a benchmark")


def machine() -> str:
    """The processor and its cores, and how busy they were in the last minute."""
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}"
