"""Tests on a very small model that the whole chain can memorise eight clips.

    python -m benchmarks.memorise [--folder DIR]

It trains a tiny autoencoder and a tiny U-Net on eight clips with eight captions. Then it generates
each clip from its caption alone, inpaints a hole in it, and continues its beginning. Each result is
decoded to audio and encoded again, and compared with all eight clips: is the right one the nearest?
Pieces of other lengths than a window are compared with the beginning of a whole window.
It needs nothing else, and takes under 10 minutes on two CPU cores. `tests/test_learning.py` and
`benchmarks/golden.py` run it.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs.waveform import get_config as waveform
from data_pipeline import synthesis
from jen1_jax.evaluation.reconstruction import si_sdr
from jen1_jax.generation.model import Model
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_jax.training.autoencoder import train_autoencoder
from jen1_jax.training.diffusion import train_diffusion
from jen1_jax.training.npz import NpzData

SECONDS = 1.28
SEED = 11
CLIPS = 8
HOLE = (0.4, 0.8)  # seconds
GIVEN = 0.64  # seconds of a clip that are given to continuation
LENGTHS = (0.25, 0.5, 0.75, 2, 4)  # of other pieces, in windows


def config() -> ConfigDict:
    config = waveform()
    with config.unlocked():
        config.autoencoder.update(strides=(64, 10), channels=(64, 128), latent_channels=16)
        config.whitening.keep = 0.75
        config.text.update(max_length=32, vocab_size=200, d_model=48, d_kv=12, d_ff=96)
        config.unet.update(
            channels=40,
            multipliers=(1, 2, 3),
            factors=(2, 2),
            num_blocks=(1, 1),
            attentions=(0, 1, 1),
            head_dim=40,
            text_features=48,
            conditioning=(),
        )
        config.diffusion.update(objective="v", sample_steps=25, guidance_scale=1.5)
        config.data.update(seconds=SECONDS, limit=0)
        config.train_autoencoder.update(
            steps=300,
            seconds=0.68,
            learning_rate=4e-3,
            ema_decay=0.98,
            log_every=100,
            checkpoint_every=10_000,
        )
        config.train_diffusion.update(
            steps=1000,
            batch_size=16,
            learning_rate=4e-3,
            ema_decay=0.98,
            log_every=100,
            checkpoint_every=10_000,
        )
    return config


def clips() -> list[synthesis.Clip]:
    return [synthesis.clip(SEED, index, SECONDS) for index in range(CLIPS)]


def train(config: ConfigDict, folder: Path) -> Run:
    """Trains autoencoder and diffusion model on the clips in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    run, songs = Run(folder / "run"), clips()
    shared = {"caption": np.array([clip.caption for clip in songs]), "test": np.zeros(CLIPS, bool)}
    audio = np.stack([clip.audio for clip in songs])
    file = folder / "audio.npz"
    np.savez(file, audio=audio, valid_samples=np.full(CLIPS, audio.shape[1], np.int32), **shared)
    hop = math.prod(config.autoencoder.strides)
    crop = round(config.train_autoencoder.seconds * config.audio.sample_rate) // hop * hop
    data = NpzData(str(file), config.train_autoencoder.batch_size, config.seed, crop)
    train_autoencoder(config, run, data)
    codec = load_codec(Run.open(run.path))
    latents = codec.encode(audio)
    file = folder / "latents.npz"
    np.savez(
        file,
        latents=latents.astype(np.float16),
        valid_frames=np.full(CLIPS, latents.shape[1], np.int32),
        fingerprint=codec.fingerprint,
        **shared,
    )
    data = NpzData(str(file), config.train_diffusion.batch_size, config.seed)
    train_diffusion(config, run, data)
    return Run.open(run.path)


def compare(model: Model) -> dict[str, Any]:
    """Compares the results of each task with the eight clips.

    Of each task: `nearest`, the number of results whose nearest clip is the right one, and `error`,
    for each clip the squared distance of the generated part to the right clip's latents, relative
    to their energy (2 for an unrelated clip). `seam` is the largest difference of neighbouring
    samples at an edge of the hole, relative to the largest in the clip. `si_sdr` is the median of
    the autoencoder's round trips.
    """
    songs, rate = clips(), model.sample_rate
    truths = [model.codec.encode(clip.audio) for clip in songs]
    frames = lambda seconds: round(seconds * model.codec.frame_rate)
    results = {name: {"nearest": 0, "error": []} for name in ("text", "inpaint", "extend")}
    seams = []
    for number, clip in enumerate(songs):
        generated = model.generate(clip.caption, SECONDS, seed=number)
        inpainted = model.inpaint(clip.audio, [HOLE], "", seed=number)
        beginning = clip.audio[: round(GIVEN * rate)]
        extended = model.extend(beginning, SECONDS - GIVEN, "", seed=number)
        parts = {
            "text": (generated, slice(None)),
            "inpaint": (inpainted, slice(frames(HOLE[0]), frames(HOLE[1]))),
            "extend": (extended, slice(frames(GIVEN), None)),
        }
        for name, (audio, part) in parts.items():
            latents = model.codec.encode(audio)
            errors = [
                np.sum((latents - truth)[part] ** 2) / np.sum(truth[part] ** 2) for truth in truths
            ]
            results[name]["nearest"] += int(np.argmin(errors) == number)
            results[name]["error"].append(float(errors[number]))
        jumps = np.abs(np.diff(inpainted, axis=0)).max(1)
        at_edges = max(jumps[round(edge * rate) - 1] for edge in HOLE)
        seams.append(float(at_edges / np.abs(np.diff(clip.audio, axis=0)).max()))
    reconstructions = [
        si_sdr(model.codec.decode(truth)[: len(clip.audio)], clip.audio)
        for truth, clip in zip(truths, songs, strict=True)
    ]
    return results | {"seam": max(seams), "si_sdr": float(np.median(reconstructions))}


def lengths(model: Model) -> dict[str, float]:
    """By the length of a piece, in windows: how much worse its beginning is than a whole window's.

    That is the ratio of the squared distances to the clip, in dB, over the same frames: the median
    over the clips. The last frames of a shorter piece do not count, since the encoder sees its end.
    """
    ratios = {str(length): [] for length in LENGTHS}
    for number, clip in enumerate(clips()):
        truth = model.codec.encode(clip.audio)
        window = model.codec.encode(model.generate(clip.caption, SECONDS, seed=number))
        for length in LENGTHS:
            piece = model.generate(clip.caption, length * SECONDS, seed=number)
            latents = model.codec.encode(piece)[: len(truth)]
            frames = slice(len(latents) - model.codec.encoder_reach)
            errors = [
                np.sum((found[: len(latents)] - truth[: len(latents)])[frames] ** 2)
                for found in (latents, window)
            ]
            ratios[str(length)].append(float(10 * np.log10(errors[0] / errors[1])))
    return {length: float(np.median(each)) for length, each in ratios.items()}


def figures(folder: Path) -> dict[str, Any]:
    """Trains, compares, and returns the figures that `benchmarks/golden.py` records."""
    began = time.monotonic()
    run = train(config(), folder)
    trained = time.monotonic()
    model = Model.load(run.path)
    model.generate("", SECONDS)
    compiled = time.monotonic()
    model.generate("", SECONDS, seed=1)
    sampled = time.monotonic() - compiled
    compared = compare(model)
    speed = {
        part: read_metrics(run.path / part / "metrics.jsonl")[-1]["steps_per_second"]
        for part in ("autoencoder", "diffusion")
    }
    return {
        "si_sdr": compared["si_sdr"],
        "memorisation": {
            name: {
                "nearest": compared[name]["nearest"],
                "error": float(np.median(compared[name]["error"])),
            }
            for name in ("text", "inpaint", "extend")
        },
        "seam": compared["seam"],
        "lengths_db": lengths(model),
        "steps_per_second": speed,
        "train_seconds": trained - began,
        "sample_seconds": sampled,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="a new folder for the run; default: a temporary one"
    )
    options = parser.parse_args()
    print(json.dumps(figures(options.folder or Path(tempfile.mkdtemp()))))
