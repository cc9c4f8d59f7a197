"""Eight clips learnt by heart: the smallest run that shows whether the whole chain learns, judged on decoded audio.

A tiny autoencoder and a tiny U-Net are trained on eight clips with eight captions. Then everything is judged after decoding to
audio and encoding that again: does a caption alone bring back its own clip, does inpainting fill a hole with what was there, does
continuation go on with the right clip. `tests/test_learning.py` and `benchmarks/golden.py` run it; alone it prints its figures:

    python -m benchmarks.memorise [--folder DIR]
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
GIVEN = 0.64  # seconds of a clip that continuation goes on from


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
    """The whole way in `folder`: audio, autoencoder, whitening, latents, diffusion."""
    folder.mkdir(parents=True, exist_ok=True)
    run, songs = Run(folder / "run"), clips()
    about = {"caption": np.array([clip.caption for clip in songs]), "test": np.zeros(CLIPS, bool)}
    audio = np.stack([clip.audio for clip in songs])
    np.savez(
        folder / "audio.npz",
        audio=audio,
        valid_samples=np.full(CLIPS, audio.shape[1], np.int32),
        **about,
    )
    hop = math.prod(config.autoencoder.strides)
    crop = round(config.train_autoencoder.seconds * config.audio.sample_rate) // hop * hop
    train_autoencoder(
        config,
        run,
        NpzData(str(folder / "audio.npz"), config.train_autoencoder.batch_size, config.seed, crop),
    )
    codec = load_codec(Run.open(run.path))
    latents = codec.encode(audio)
    np.savez(
        folder / "latents.npz",
        latents=latents.astype(np.float16),
        valid_frames=np.full(CLIPS, latents.shape[1], np.int32),
        fingerprint=codec.fingerprint,
        **about,
    )
    train_diffusion(
        config,
        run,
        NpzData(str(folder / "latents.npz"), config.train_diffusion.batch_size, config.seed),
    )
    return Run.open(run.path)


def judge(model: Model) -> dict[str, Any]:
    """How many of the eight come back, and how far off, each task by its own: `nearest` of 8 and `error` per clip.

    An error is the squared distance to the right clip's latents, relative to their energy, over the generated part; 2 is what an
    unrelated clip has. `seam` is the largest sample-to-sample jump at an edge of the hole, relative to the largest in the clip.
    """
    songs, rate = clips(), model.sample_rate
    truths = [model.codec.encode(clip.audio) for clip in songs]
    frames = lambda seconds: round(seconds * model.codec.frame_rate)
    results = {name: {"nearest": 0, "error": []} for name in ("text", "inpaint", "extend")}
    seams = []
    for number, clip in enumerate(songs):
        hole = model.inpaint(clip.audio, [HOLE], "", seed=number)
        given = clip.audio[: round(GIVEN * rate)]
        made = {
            "text": (model.generate(clip.caption, SECONDS, seed=number), slice(None)),
            "inpaint": (hole, slice(frames(HOLE[0]), frames(HOLE[1]))),
            "extend": (
                model.extend(given, SECONDS - GIVEN, "", seed=number),
                slice(frames(GIVEN), None),
            ),
        }
        for name, (audio, part) in made.items():
            latents = model.codec.encode(audio)
            errors = [
                np.sum((latents - truth)[part] ** 2) / np.sum(truth[part] ** 2) for truth in truths
            ]
            results[name]["nearest"] += int(np.argmin(errors) == number)
            results[name]["error"].append(float(errors[number]))
        jumps = [
            np.abs(np.diff(hole[round(edge * rate) - 1 : round(edge * rate) + 1], axis=0)).max()
            for edge in HOLE
        ]
        seams.append(float(max(jumps) / np.abs(np.diff(clip.audio, axis=0)).max()))
    reconstructions = [
        si_sdr(model.codec.decode(truth)[: len(clip.audio)], clip.audio)
        for truth, clip in zip(truths, songs, strict=True)
    ]
    return results | {"seam": max(seams), "si_sdr": float(np.median(reconstructions))}


def figures(folder: Path) -> dict[str, Any]:
    """Trains and judges; the figures of `benchmarks/golden.py`."""
    began = time.monotonic()
    run = train(config(), folder)
    trained = time.monotonic()
    model = Model.load(run.path)
    model.generate("", SECONDS)
    compiled = time.monotonic()
    model.generate("", SECONDS, seed=1)
    sampled = time.monotonic() - compiled
    judged = judge(model)
    speed = {
        part: read_metrics(run.path / part / "metrics.jsonl")[-1]["steps_per_second"]
        for part in ("autoencoder", "diffusion")
    }
    return {
        "si_sdr": judged["si_sdr"],
        "memorisation": {
            name: {
                "nearest": judged[name]["nearest"],
                "error": float(np.median(judged[name]["error"])),
            }
            for name in ("text", "inpaint", "extend")
        },
        "seam": judged["seam"],
        "steps_per_second": speed,
        "train_seconds": trained - began,
        "sample_seconds": sampled,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    print(json.dumps(figures(options.folder or Path(tempfile.mkdtemp()))))
