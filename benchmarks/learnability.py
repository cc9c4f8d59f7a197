"""Measures how well a small generator learns an autoencoder's latents: does it follow new captions?

    python -m benchmarks.learnability RUN|mel [--steps 1200] [--seed 0] [--clips 48] [--out DIR]
        [--keep 1.0 | --standardise] [--set diffusion.objective=v ...] [--data DIR]

One fixed generator, a small U-Net with its own text encoder, learns music in the latents of a
trained RUN, or in log-mel features ("mel") for comparison. Then it generates the beginnings of
held-out clips from their captions. Each result is decoded to audio and compared with all these
clips by timbre, rhythm and key. The music is the built-in one, or that of a prepared data set of
clips of at least 10.24 s, whose test split is held out. Each step takes one of a clip's captions;
of a held-out clip the longest one counts.

The generator may also have a frozen text encoder, here with 384 channels, or learn without text,
since one token holds nothing of a caption:

    --set text.encoder=FOLDER text.max_length=64 unet.text_features=384
    --set text.max_length=1

The rank of the right clip is 1 if it is the nearest one; by chance, the median rank is the middle.
p is the share of random pairings of generated and real clips with an equal or smaller mean rank.
The best that can be expected are the later half of the real clip and the autoencoder's round trip.

It needs a run with a trained autoencoder. It writes figures, audio and pictures into --out. 1,200
steps take 5 to 10 minutes on two CPU cores; the first measurement also prepares the music.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.features import (
    RATE,
    LogMel,
    encode_all,
    kept,
    latent_figures,
    read,
    standardised,
)
from configs.jen1 import get_config
from data_pipeline import synthesis
from data_pipeline.prepare import prepare
from jen1_jax.config import override
from jen1_jax.evaluation import adherence
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.generation.prompts import PromptEncoder
from jen1_jax.generation.sampling import LatentSampler
from jen1_jax.models.autoencoder import load_codec
from jen1_jax.models.diffusion import make_unet
from jen1_jax.models.metrics import read_metrics
from jen1_jax.models.run import Run
from jen1_jax.sharding import make_mesh
from jen1_jax.text.prompts import TextEncoder
from jen1_jax.training.diffusion_loss import make_trainable
from jen1_jax.training.draw import draw_diffusion
from jen1_jax.training.inputs import diffusion_inputs
from jen1_jax.training.loop import fit
from jen1_jax.training.npz import NpzData
from jen1_jax.training.optimizer import OPTIMIZERS
from jen1_jax.training.text_gain import LOG_SNRS, others, text_errors
from jen1_numpy.errors import Refusal
from jen1_numpy.prompts import embed_prompts
from jen1_numpy.windows import Request

CLIPS = 2400  # clips of the prepared music
SECONDS = 5.12  # length of a clip
HELD_OUT_SEED = 1  # of the held-out clips and their captions
FOLDER = Path("runs/learnability")
MUSIC = FOLDER / f"music-{CLIPS}"  # the first measurement prepares it


def draw_captions(captions: Sequence[Sequence[str]], seed: int, step: int) -> list[str]:
    """One of the captions of each clip."""
    places = np.random.default_rng((seed, step)).random(len(captions))
    return [each[int(place * len(each))] for each, place in zip(captions, places, strict=True)]


def generator_config(frame_rate: float, steps: int, changes: dict[str, str]) -> ConfigDict:
    """The configuration of the fixed generator.

    It does not depend on `quickstart`, so that measurements stay comparable. Only the first factor
    of the U-Net depends on the rate of the latents. `changes` overrides fields.
    """
    config = get_config()
    with config.unlocked():
        config.text.update(
            encoder="",
            max_length=48,
            dtype="float32",
            vocab_size=256,
            d_model=96,
            d_kv=24,
            d_ff=192,
            num_layers=1,
            num_heads=4,
        )
        config.unet.update(
            channels=32,
            multipliers=(4, 4, 6),
            factors=(max(1, round(frame_rate / 9.375)), 4),
            num_blocks=(1, 1),
            attentions=(1, 1, 2),
            head_dim=64,
            text_features=96,
            null_text="token",
            conditioning=("timing",),
            dtype="float32",
            remat="none",
            scan=False,
        )
        config.diffusion.update(
            schedule="cosine",
            objective="x0",
            null_text_rate=0.1,
            sampler="dpm_solver",
            sample_steps=20,
            guidance_scale=3.0,
        )
        config.data.update(seconds=SECONDS, short_rate=0.0, limit=0)
        config.tasks.ratios.update(text_to_music=1.0, inpainting=0.0, continuation=0.0)
        config.train_diffusion.update(
            steps=steps,
            batch_size=16,
            learning_rate=1.5e-3,
            warmup_steps=100,
            weight_decay=0.01,
            ema_decay=0.995,
            log_every=100,
            checkpoint_every=steps,
        )
    for key, value in changes.items():
        override(config, key, value)
    return config


@dataclass(frozen=True)
class Generator:
    config: ConfigDict
    text: TextEncoder
    unet: Any
    params: Any
    frame_rate: float
    window: int
    piece: float  # seconds

    def generate(self, captions: list[str], seed: int = 0) -> np.ndarray:
        """Latents [n, frames, k] of the beginnings of pieces with these captions."""
        text_params = self.params["text"] if self.text.trainable else self.text.params
        latents = np.zeros((self.window, self.unet.out_channels), np.float32)
        sampler = LatentSampler(
            self.unet, self.params["unet"], self.config.diffusion, self.window, self.frame_rate
        )
        pieces = sampler.sample(
            [Request.without_given(latents, self.piece)] * len(captions),
            embed_prompts(PromptEncoder(self.text, text_params), captions, "", guided=True),
            seeds=[seed * 1000 + number for number in range(len(captions))],
            steps=self.config.diffusion.sample_steps,
            guidance_scale=self.config.diffusion.guidance_scale,
        )
        return np.stack(pieces)


def train(
    feature,
    latents: np.ndarray,
    captions: list[list[str]],
    config: ConfigDict,
    folder: Path,
    seed: int,
) -> Generator:
    """Trains the generator of `config` in `folder` on latents [n, frames, k] of whole pieces.

    Each piece has one or more `captions`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rate, count = feature.frame_rate, len(latents)
    piece = latents.shape[1] / rate
    file = folder / "latents.npz"
    np.savez(
        file,
        latents=latents.astype(np.float16),
        valid_frames=np.full(count, latents.shape[1], np.int32),
        fingerprint="",
        caption=np.full(count, ""),  # drawn in each step
        start=np.zeros(count, np.float32),
        total=np.full(count, piece, np.float32),
        test=np.zeros(count, bool),
    )
    text = TextEncoder.create(config.text, folder / "text", chain(*captions))
    unet = make_unet(config, latents.shape[-1], text)
    training = config.train_diffusion
    optimizer, schedule = OPTIMIZERS[training.optimizer](training)
    data = NpzData(str(file), config.train_diffusion.batch_size, seed)
    window = round(config.data.seconds * rate) // unet.frames_multiple * unet.frames_multiple
    hop, k = feature.hop, latents.shape[-1]

    def batches(start: int, number: int, rows: Sequence[int]):
        for step, batch in enumerate(data.batches(number, rows=rows), start):
            drawn = draw_captions([captions[row] for row in batch["index"]], seed, step)
            yield diffusion_inputs({**batch, "caption": drawn}, config, text)

    state = fit(
        "generator",
        directory=folder,
        trainables={"diffusion": make_trainable(config, unet, feature, text, optimizer)},
        draw=partial(draw_diffusion, config=config, hop=hop, k=k, window=window),
        batches=batches,
        training=training,
        schedule=schedule,
        mesh=make_mesh(config),
        placement=config.mesh,
        seed=seed,
        audio_seconds=window / rate,
        record={"latents": feature.k},
        progress=partial(print, flush=True),
    )
    params = jax.device_get(state.averaged["diffusion"])
    return Generator(config, text, unet, params, rate, window, piece)


def wrong_captions(count: int) -> dict[str, list[str]]:
    """Wrong captions for the held-out clips.

    Another clip's caption; the key a tritone away; the tempo 50 or 51 beats a minute away.
    """
    described = [synthesis.describe(HELD_OUT_SEED, number) for number in range(count)]
    styles, captions = zip(*described, strict=True)
    keys = [replace(style, key=(style.key + 6) % 12) for style in styles]
    tempos = [replace(style, tempo=60 + (style.tempo - 10) % 101) for style in styles]

    def write(number: int, style) -> str:
        words = np.random.default_rng([HELD_OUT_SEED, number, 1])  # as in `synthesis.describe`
        return synthesis.caption(style, words)

    return {
        "caption": [captions[row] for row in others(captions)],
        "key": [write(number, style) for number, style in enumerate(keys)],
        "tempo": [write(number, style) for number, style in enumerate(tempos)],
    }


@dataclass(frozen=True)
class HeldOut:
    """Captions that were not trained on, their clips [n, samples, 2], and wrong captions."""

    captions: list[str]
    real: np.ndarray
    later: np.ndarray  # what follows `real` in the same clip
    wrong: dict[str, list[str]]  # by what is wrong

    @classmethod
    def built_in(cls, count: int, samples: int, half: int) -> "HeldOut":
        clips = [synthesis.clip(HELD_OUT_SEED, number, 2 * SECONDS) for number in range(count)]
        part = lambda start: np.stack([clip.audio[start : start + samples] for clip in clips])
        return cls([clip.caption for clip in clips], part(0), part(half), wrong_captions(count))

    @classmethod
    def of(cls, data: Path, count: int, samples: int, half: int) -> "HeldOut":
        """Clips of the test split, drawn at random, that have different captions."""
        clips: dict[str, np.ndarray] = {}
        for clip in read(data, "test", seed=0):
            if clip["valid_samples"] >= half + samples:
                clips.setdefault(max(clip["captions"], key=len), clip["audio"])
            if len(clips) == count:
                break
        else:
            raise Refusal(
                f"{data} has only {len(clips)} held-out clips of {(half + samples) / RATE:.2f} s "
                "with different captions; give fewer --clips."
            )
        part = lambda start: np.stack([clip[start : start + samples] for clip in clips.values()])
        captions = list(clips)
        wrong = {"caption": [captions[row] for row in others(captions)]}
        return cls(captions, part(0), part(half), wrong)


def text_gains(
    generator: Generator, latents: np.ndarray, captions: list[str], wrong: list[str]
) -> dict[str, list[float]]:
    """The gain of the right over the `wrong` captions on held-out latents [n, frames, k].

    For each log-SNR: the gain, and the ends of its 95 % bootstrap interval.
    """
    count, window = len(latents), generator.window
    clips = {
        "latents": np.tile(latents[:, :window], (2, 1, 1)),
        "valid_frames": np.full(2 * count, window),
        "caption": captions + wrong,
        "start": np.zeros(2 * count, np.float32),
        "total": np.full(2 * count, generator.piece, np.float32),
    }
    batch = {
        **diffusion_inputs(clips, generator.config, generator.text),
        "other": (np.arange(2 * count) + count) % (2 * count),
    }
    errors = jax.jit(
        partial(text_errors, config=generator.config, unet=generator.unet, text=generator.text)
    )
    draws, gains = np.random.default_rng(0).integers(count, size=(2000, count)), {}
    for level in LOG_SNRS:
        found = errors(generator.params, batch, jax.random.key(0), float(level))
        right, other = (np.asarray(found[name][:count]) for name in ("right", "other"))
        gain = float(1 - right.mean() / other.mean())
        resampled = 1 - right[draws].mean(1) / other[draws].mean(1)
        gains[str(level)] = [gain, *map(float, np.percentile(resampled, (2.5, 97.5)))]
    return gains


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help='a run with a trained autoencoder, or "mel"')
    parser.add_argument("--steps", type=int, default=1200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--clips", type=int, default=48, help="held-out captions; at least 40 for reliable figures"
    )
    parser.add_argument("--out", type=Path, help=f"a new folder; default: one in {FOLDER}")
    whitened = parser.add_mutually_exclusive_group()
    whitened.add_argument(
        "--keep", type=float, default=1.0, help="share of the run's whitened channels that is used"
    )
    whitened.add_argument(
        "--standardise", action="store_true", help="scale channel by channel instead of whitening"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="FIELD=VALUE",
        help="changes of the generator's configuration",
    )
    parser.add_argument(
        "--data", type=Path, default=MUSIC, help="a prepared data set (default: built-in music)"
    )
    options = parser.parse_args()
    name = f"{Path(options.run).name}-{time.strftime('%Y%m%d-%H%M%S')}"
    options.out = options.out or FOLDER / name
    if options.out.exists():
        parser.error(f"{options.out} exists already; name another folder with --out.")
    if options.clips < 8 or options.steps < 1:
        parser.error("--clips must be at least 8, and --steps at least 1.")
    if not 0 < options.keep <= 1:
        parser.error("--keep is a share, above 0 and at most 1.")
    if options.run == "mel" and (options.standardise or options.keep < 1):
        parser.error("Log-mel features are not whitened: leave out --keep and --standardise.")
    if not all("=" in change for change in options.set):
        parser.error("--set takes FIELD=VALUE, for example diffusion.objective=v.")
    return options


def main() -> None:
    options = parse_arguments()
    # Both are refused before music is prepared, which takes minutes.
    codec = None if options.run == "mel" else load_codec(Run.open(options.run))
    rate = codec.frame_rate if codec else LogMel.frame_rate
    changes = dict(text.split("=", 1) for text in options.set)
    config = generator_config(rate, options.steps, changes)
    if options.data == MUSIC and not MUSIC.exists():
        prepare("synthetic", str(MUSIC), seconds=SECONDS, clips=CLIPS)
    half = round(SECONDS * RATE)
    known = list(islice(read(options.data, "train"), 300))
    audio = np.stack([clip["audio"][:half] for clip in known])
    has_drums = [bool(clip["meta"].get("drums")) for clip in known]
    del known
    if codec is None:
        feature = LogMel(audio[:128])
    elif options.standardise:
        feature = standardised(codec, audio[:128])
    else:
        feature = kept(codec, options.keep)
    latents, captions = encode_all(feature, options.data)
    predictability = latent_figures(latents[:200].astype(np.float32))
    size = f"{feature.frame_rate:g} Hz x {feature.k}"
    print(f"{options.run}: {size}, {json.dumps(predictability)}", flush=True)

    began, cpu = time.monotonic(), time.process_time()
    generator = train(feature, latents, captions, config, options.out, options.seed)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu

    samples = min(half, generator.window * feature.hop)
    if options.data == MUSIC:
        held_out = HeldOut.built_in(options.clips, samples, half)
    else:
        held_out = HeldOut.of(options.data, options.clips, samples, half)
    wanted, real = held_out.captions, held_out.real

    in_batches = lambda function, rows: np.concatenate(
        [function(rows[first : first + 8]) for first in range(0, len(rows), 8)]
    )
    decode = lambda latents: in_batches(lambda rows: feature.decode(rows, samples), latents)
    real_latents = in_batches(feature.encode, real)
    round_trip = decode(real_latents)
    gains = {
        what: text_gains(generator, real_latents, wanted, wrong)
        for what, wrong in held_out.wrong.items()
    }
    generated = decode(generator.generate(wanted, options.seed))
    drums = adherence.drum_detector(audio[:, :samples], has_drums, RATE)
    compare = lambda clips: adherence.compare(clips, real, RATE, drums)
    rows = {
        "real, later half": compare(held_out.later),
        "round trip": compare(round_trip),
        "generated": compare(generated),
    }
    print(adherence.table(rows, len(real)))
    for what, gain in gains.items():
        levels = (
            f"{level}: {value:.3f} ({low:.3f} to {high:.3f})"
            for level, (value, low, high) in gain.items()
        )
        print(f"gain of the right over another {what}, by log-SNR: {', '.join(levels)}")
    record = {
        "run": options.run,
        "data": str(options.data),
        "device": jax.devices()[0].device_kind,
        "rate": feature.frame_rate,
        "channels": feature.k,
        "steps": options.steps,
        "seed": options.seed,
        "changes": options.set,
        "keep": options.keep,
        "standardise": options.standardise,
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "latents": predictability,
        "loss": read_metrics(options.out / "metrics.jsonl")[-1]["loss"],
        "text_gain": gains,
        "rows": rows,
    }
    (options.out / "learnability.json").write_text(json.dumps(record))
    sounds = []
    for number in range(4):
        sounds.append(Sound("real", real[number], caption=wanted[number]))
        sounds.append(Sound("generated", generated[number], caption=wanted[number]))
    page = options.out / "page.png"
    run_page(page, f"{options.run}: held-out captions", sounds)
    np.savez(
        options.out / "generated.npz",
        generated=generated[:8].astype(np.float16),
        real=real[:8].astype(np.float16),
        caption=wanted[:8],
    )
    print(f"pictures: {page}")
    print(json.dumps(record))


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(str(refusal))
