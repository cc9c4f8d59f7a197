"""What a small generator learns from an autoencoder's latents: captions that it has never seen, judged after decoding to audio.

One fixed generator (a small U-Net with its own text encoder, a fixed number of steps) learns the built-in music in the latents of
a trained RUN, or in log-mel features ("mel"), the reference. Then it makes beginnings of held-out clips by their captions. Each
is compared with all those clips: which one is it nearest to, by timbre, rhythm and key?

    python -m benchmarks.learnability RUN|mel [--steps 1200] [--seed 0] [--clips 48] [--out DIR] [--keep 1.0 | --standardise]
        [--set diffusion.objective=v ...]

Ranks run from 1 (the right clip is the nearest) to the number of clips; chance is the middle. p is the share of random pairings
of made and real clips with as small a mean rank. Ceilings: the later half of the real clip, and the autoencoder's round trip.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.jen1 import get_config
from data_pipeline import synthesis
from data_pipeline.prepare import prepare
from data_pipeline.shard_data import ShardData
from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Moments, Whitening
from jen1_jax.config import override
from jen1_jax.evaluation import adherence
from jen1_jax.evaluation.pictures import Sound, run_page
from jen1_jax.generation.prompts import Prompts
from jen1_jax.generation.sampling import LatentSampler
from jen1_jax.generation.windows import Request
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
from jen1_jax.training.optimizer import adamw
from jen1_jax.training.text_gain import LOG_SNRS, others, text_errors

RATE = 48_000
CLIPS = 2400  # to learn from; held-out ones are of another seed, and their captions of their own
SECONDS, HELD_OUT_SEED = 5.12, 1
MUSIC = (
    Path("runs/learnability") / f"music-{CLIPS}"
)  # prepared by the first measurement, read by all
ITERATIONS = 16  # of the search for phases of log-mel features


class LogMel:
    """Log-mel features of the mid channel at 18.75 Hz, standardised; decoded by the same search for phases as levels."""

    k, hop, frame_rate = 64, 2560, 18.75
    window, fold = 2048, 5  # STFT frames in one frame of features

    def __init__(self, audio: np.ndarray):
        """`audio` [n, samples, 2] gives the mean and the deviation of each band."""
        import librosa

        mel = librosa.filters.mel(sr=RATE, n_fft=self.window, n_mels=self.k, fmax=20_000, norm=None)
        bins = np.arange(mel.shape[1])
        self._into = (mel / mel.sum(1, keepdims=True)).T
        self._back = np.stack(
            [np.interp(bins, mel @ bins / mel.sum(1), one) for one in np.eye(self.k)]
        )  # between the centres
        features = self._features(audio)
        self.mean, self.deviation, self.loudest = (
            features.mean((0, 1)),
            features.std((0, 1)),
            features.max((0, 1)),
        )

    def _features(self, audio):
        import librosa

        mono = audio.mean(-1, dtype=np.float32)
        pad = (
            self.window // 2 - self.window // 8
        )  # as `spectrum` has it: in the middle of each quarter
        mono = np.pad(mono, ((0, 0), (pad, pad)))
        size = (
            np.abs(librosa.stft(mono, n_fft=self.window, hop_length=self.window // 4, center=False))
            * 2
            / self.window
        )
        power = (size**2).swapaxes(1, 2) @ self._into
        return np.log(power.reshape(len(power), -1, self.fold, self.k).mean(2) + 1e-8)

    def encode(self, audio):
        return (self._features(audio) - self.mean) / self.deviation

    def decode(self, features, samples=None):
        logs = np.minimum(features * self.deviation + self.mean, self.loudest)
        level = np.maximum(logs @ self._back - np.log(1e-8), 0) / (2 * spectrum.NATS)
        level = np.repeat(level, self.fold, 1).astype(np.float32)
        mid = np.where(level > 0, level + np.log(2) / 2 / spectrum.NATS, 0)
        bins = np.concatenate([level, level, mid, 0 * level], -1)
        own = spectrum.filters(self.window)
        levels = np.concatenate(
            [part @ own.T / own.sum(1) for part in np.split(bins, spectrum.VIEWS, -1)], -1
        )
        made = jax.jit(partial(spectrum.synthesise, window=self.window, iterations=ITERATIONS))
        return np.asarray(made(levels, np.ones((*levels.shape[:2], 1), np.float32)))[:, :samples]


def standardised(codec: Codec, audio: np.ndarray) -> Codec:
    """`codec` with all its latents scaled channel by channel instead of whitened, to unit variance on `audio`."""
    channels = codec.model.latent_channels
    raw = replace(
        codec, whitening=Whitening(np.zeros(channels), np.eye(channels), np.ones(channels))
    ).encode(audio)
    moments = Moments.of(raw.reshape(-1, channels))
    scale = np.sqrt(np.maximum(np.diag(moments.covariance), 1e-12))
    return replace(codec, whitening=Whitening(moments.mean, np.eye(len(scale)), scale))


def kept(codec: Codec, share: float) -> Codec:
    """`codec` with only this share of its directions, the strongest."""
    k, own = max(1, int(share * codec.k)), codec.whitening
    return replace(codec, whitening=Whitening(own.mean, own.basis[:, :k], own.scale[:k]))


def first_clips(data: Path, clips: int) -> tuple[np.ndarray, list[dict]]:
    """Audio [n, samples, 2] and truths of the first `clips` that there are to learn from."""
    audio, truths = [], []
    for batch in ShardData(str(data), 8, seed=0).sweep("train"):
        audio.append(batch["audio"])
        truths += [json.loads(str(meta)) for meta in batch["meta"]]
        if len(truths) >= clips:
            break
    return np.concatenate(audio)[:clips], truths[:clips]


def encode_all(feature, data: Path) -> tuple[np.ndarray, list[str]]:
    """Latents [n, frames, k] float16 and captions of everything there is to learn from."""
    latents, captions = [], []
    for batch in ShardData(str(data), 8, seed=0).sweep("train"):
        whole = batch["audio"].shape[1] // feature.hop * feature.hop
        latents.append(feature.encode(batch["audio"][:, :whole]).astype(np.float16))
        captions += [str(caption) for caption in batch["caption"]]
    return np.concatenate(latents), captions


def generator(frame_rate: float, steps: int, changes: dict[str, str]) -> ConfigDict:
    """The one generator, whatever `quickstart` may become: only its first factor follows the latents' rate."""
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

    def make(self, captions: list[str], seed: int = 0) -> np.ndarray:
        """Latents [n, frames, k] of the beginnings of pieces with these captions."""
        tokens, lengths = self.text.tokenize(captions)
        embed = jax.jit(lambda params, *rows: self.text.module.apply({"params": params}, *rows))
        embedding = embed(self.params["text"], tokens, lengths)
        latents = np.zeros((self.window, self.unet.out_channels), np.float32)
        sampler = LatentSampler(
            self.unet, self.params["unet"], self.config.diffusion, self.window, self.frame_rate
        )
        pieces = sampler.sample(
            [Request.without_given(latents, self.piece)] * len(captions),
            Prompts(embedding, lengths, jnp.zeros_like(embedding), np.zeros_like(lengths)),
            seeds=[seed * 1000 + number for number in range(len(captions))],
            steps=self.config.diffusion.sample_steps,
            guidance_scale=self.config.diffusion.guidance_scale,
        )
        return np.stack(pieces)


def train(
    feature, latents: np.ndarray, captions: list[str], config: ConfigDict, folder: Path, seed: int
) -> Generator:
    """The generator that `config` asks for, trained in `folder` on windows of latents [n, frames, k] of whole pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    rate, count = feature.frame_rate, len(latents)
    piece = latents.shape[1] / rate
    starts, totals = np.zeros(count, np.float32), np.full(count, piece, np.float32)
    np.savez(
        folder / "latents.npz",
        latents=latents.astype(np.float16),
        valid_frames=np.full(count, latents.shape[1], np.int32),
        fingerprint="",
        caption=np.array(captions),
        start=starts,
        total=totals,
        test=np.zeros(count, bool),
    )
    text = TextEncoder.create(config.text, folder / "text", captions)
    unet = make_unet(config, latents.shape[-1], text)
    optimizer, schedule = adamw(config.train_diffusion)
    data = NpzData(str(folder / "latents.npz"), config.train_diffusion.batch_size, seed)
    window = round(config.data.seconds * rate) // unet.frames_multiple * unet.frames_multiple

    inputs = partial(diffusion_inputs, config=config, text=text)
    state = fit(
        "generator",
        directory=folder,
        trainables={"diffusion": make_trainable(config, unet, feature, text, optimizer)},
        draw=partial(
            draw_diffusion, config=config, hop=feature.hop, k=latents.shape[-1], window=window
        ),
        batches=lambda start: map(inputs, data.batches(start)),
        config=config.train_diffusion,
        schedule=schedule,
        mesh=make_mesh(config),
        rules=config.mesh.rules,
        seed=seed,
        record={"latents": feature.k},
        progress=partial(print, flush=True),
    )
    return Generator(
        config, text, unet, jax.device_get(state.ema["diffusion"]), rate, window, piece
    )


def wrong_captions(count: int) -> dict[str, list[str]]:
    """Captions of the held-out clips that are wrong: another clip's, the key a tritone away, the tempo 50 or 51 a minute away."""
    styles, captions = zip(
        *(synthesis.describe(HELD_OUT_SEED, number) for number in range(count)), strict=True
    )
    tritone = [replace(style, key=(style.key + 6) % 12) for style in styles]
    tempo = [replace(style, tempo=60 + (style.tempo - 10) % 101) for style in styles]
    words = lambda number: np.random.default_rng(
        [HELD_OUT_SEED, number, 1]
    )  # as `describe` draws them
    said = lambda styles: [
        synthesis.caption(style, words(number)) for number, style in enumerate(styles)
    ]
    return {
        "caption": [captions[row] for row in others(captions)],
        "key": said(tritone),
        "tempo": said(tempo),
    }


def text_gains(
    made_by: Generator, latents: np.ndarray, captions: list[str], wrong: list[str]
) -> dict[str, list[float]]:
    """The gain of the right text over the `wrong` one, by log-SNR, on held-out latents [n, frames, k]: value, and the ends of its
    95 % bootstrap interval.
    """
    count = len(latents)
    tokens, lengths = made_by.text.tokenize(captions + wrong)
    batch = dict(
        latents=latents[:, : made_by.window],
        valid_frames=np.full(count, made_by.window),
    )
    batch = {name: np.concatenate([rows, rows]) for name, rows in batch.items()}
    place = {"start": np.zeros(2 * count, np.float32)}
    place["total"] = np.full(2 * count, made_by.piece, np.float32)
    batch |= dict(
        tokens=tokens,
        text_lengths=lengths,
        other=(np.arange(2 * count) + count) % (2 * count),
        conditions={"timing": place},
    )
    errors = jax.jit(
        partial(text_errors, config=made_by.config, unet=made_by.unet, text=made_by.text)
    )
    draws, gains = np.random.default_rng(0).integers(count, size=(2000, count)), {}
    for level in LOG_SNRS:
        found = errors(made_by.params, batch, jax.random.key(0), float(level))
        right, other = (np.asarray(found[name][:count]) for name in ("right", "other"))
        some = 1 - right[draws].mean(1) / other[draws].mean(1)
        gains[str(level)] = [
            float(1 - right.mean() / other.mean()),
            *map(float, np.percentile(some, (2.5, 97.5))),
        ]
    return gains


def latent_figures(latents: np.ndarray) -> dict[str, float]:
    """Of latents [n, frames, k]: correlation of neighbours, and the share of variance that two frames back predict linearly."""
    x = latents - latents.mean((0, 1))
    lag = (x[:, 1:] * x[:, :-1]).mean() / (x**2).mean()
    past = (
        np.concatenate([x[:, 1:-1], x[:, :-2]], -1).reshape(-1, 2 * x.shape[-1]).astype(np.float64)
    )
    now = x[:, 2:].reshape(-1, x.shape[-1]).astype(np.float64)
    half = len(past) // 2
    weights = np.linalg.solve(
        past[:half].T @ past[:half] + 1e-2 * half * np.eye(past.shape[1]),
        past[:half].T @ now[:half],
    )
    left = ((now[half:] - past[half:] @ weights) ** 2).sum() / (now[half:] ** 2).sum()
    return {"autocorrelation": float(lag), "predicted": float(1 - left)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help='a run with a trained autoencoder, or "mel"')
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clips", type=int, default=48, help="held-out captions, at least 40 for figures to quote"
    )
    parser.add_argument("--out", type=Path, help="a new folder; default: one in runs/learnability")
    whitened = parser.add_mutually_exclusive_group()
    whitened.add_argument(
        "--keep",
        type=float,
        default=1.0,
        help="share of the run's whitened directions that are learnt",
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
    options = parser.parse_args()
    out = (
        options.out
        or Path("runs/learnability") / f"{Path(options.run).name}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    if out.exists():
        parser.error(f"{out} exists already; name another folder with --out.")
    if options.clips < 8 or options.steps < 1 or not 0 < options.keep <= 1:
        parser.error(
            "--clips must be at least 8, --steps at least 1, and --keep a share above 0 and at most 1."
        )
    if options.run == "mel" and (options.standardise or options.keep < 1):
        parser.error("Log-mel features are not whitened: leave out --keep and --standardise.")

    if not MUSIC.exists():
        prepare("synthetic", str(MUSIC), seconds=SECONDS, clips=CLIPS)
    half = round(SECONDS * RATE)
    audio, truths = first_clips(MUSIC, 300)
    if options.run == "mel":
        feature = LogMel(audio[:128])
    else:
        feature = load_codec(Run.open(options.run))
        if options.standardise:
            feature = standardised(feature, audio[:128])
        feature = kept(feature, options.keep)
    latents, captions = encode_all(feature, MUSIC)
    about = latent_figures(latents[:200].astype(np.float32))
    print(
        f"{options.run}: {feature.frame_rate:g} Hz x {feature.k}, {json.dumps(about)}", flush=True
    )

    config = generator(
        feature.frame_rate, options.steps, dict(text.split("=", 1) for text in options.set)
    )
    began, cpu = time.monotonic(), time.process_time()
    made_by = train(feature, latents, captions, config, out, options.seed)
    trained, cpu = time.monotonic() - began, time.process_time() - cpu

    held_out = [
        synthesis.clip(HELD_OUT_SEED, number, 2 * SECONDS) for number in range(options.clips)
    ]
    wanted = [clip.caption for clip in held_out]
    samples = min(half, made_by.window * feature.hop)
    real, later = (
        np.stack([clip.audio[first : first + samples] for clip in held_out]) for first in (0, half)
    )
    decode = lambda latents: np.concatenate(
        [feature.decode(latents[i : i + 8], samples) for i in range(0, len(latents), 8)]
    )
    known = np.concatenate([feature.encode(real[i : i + 8]) for i in range(0, len(real), 8)])
    round_trip = decode(known)
    gains = {
        what: text_gains(made_by, known, wanted, wrong)
        for what, wrong in wrong_captions(len(wanted)).items()
    }
    made = decode(made_by.make(wanted, options.seed))
    drums = adherence.drum_detector(
        audio[:, :samples], [bool(truth["drums"]) for truth in truths], RATE
    )
    rows = {
        name: adherence.compare(clips, real, RATE, drums)
        for name, clips in (
            ("real, later half", later),
            ("round trip", round_trip),
            ("generated", made),
        )
    }
    print(adherence.table(rows, len(real)))
    for what, gain in gains.items():
        says = (
            f"{level}: {value:.3f} ({low:.3f} to {high:.3f})"
            for level, (value, low, high) in gain.items()
        )
        print(f"gain of the right over another {what}, by log-SNR: {', '.join(says)}")
    record = {
        "run": options.run,
        "device": jax.devices()[0].device_kind,
        "rate": feature.frame_rate,
        "channels": feature.k,
        "steps": options.steps,
        "seed": options.seed,
        "changes": options.set,
        "keep": options.keep,
        "standardise": options.standardise,
        "seconds": round(trained),
        "cpu_seconds": round(cpu),
        "latents": about,
        "loss": read_metrics(out / "metrics.jsonl")[-1]["loss"],
        "text_gain": gains,
        "rows": rows,
    }
    (out / "learnability.json").write_text(json.dumps(record))
    sounds = []
    for number in range(4):
        sounds += [
            Sound(name, clips[number], caption=wanted[number])
            for name, clips in (("real", real), ("generated", made))
        ]
    run_page(out / "page.png", f"{options.run}: held-out captions", sounds)
    np.savez(
        out / "made.npz",
        made=made[:8].astype(np.float16),
        real=real[:8].astype(np.float16),
        caption=wanted[:8],
    )
    print(f"pictures: {out / 'page.png'}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
