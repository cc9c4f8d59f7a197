"""What a generator learns in `benchmarks.learnability`: latents of an autoencoder, or log-mel.

Also how predictable such features are, and the clips of a data set from which they are made.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipeline.layout import info
from data_pipeline.reading import examples
from jen1_jax.autoencoder import spectrum
from jen1_jax.autoencoder.codec import Codec
from jen1_jax.autoencoder.whitening import Moments, Whitening

RATE = 48_000
ITERATIONS = 16  # of the search for phases, for log-mel features


class LogMel:
    """Standardised log-mel features of the mid channel at 18.75 Hz, in place of a codec.

    They are decoded by the same search for phases as STFT levels.
    """

    k, hop, frame_rate = 64, 2560, 18.75
    window, fold = 2048, 5  # STFT frames in one frame of features

    def __init__(self, audio: np.ndarray):
        """`audio` [n, samples, 2] gives the mean, deviation and largest value of each band."""
        import librosa

        mel = librosa.filters.mel(sr=RATE, n_fft=self.window, n_mels=self.k, fmax=20_000, norm=None)
        bins = np.arange(mel.shape[1])
        centres = mel @ bins / mel.sum(1)
        self._to_bands = (mel / mel.sum(1, keepdims=True)).T
        self._to_bins = np.stack([np.interp(bins, centres, band) for band in np.eye(self.k)])
        features = self._features(audio)
        self.mean, self.deviation = features.mean((0, 1)), features.std((0, 1))
        self.loudest = features.max((0, 1))

    def _features(self, audio):
        import librosa

        mono, quarter = audio.mean(-1, dtype=np.float32), self.window // 4
        # As in `spectrum`, a window is centred on the middle of each quarter.
        pad = self.window // 2 - quarter // 2
        mono = np.pad(mono, ((0, 0), (pad, pad)))
        stft = librosa.stft(mono, n_fft=self.window, hop_length=quarter, center=False)
        magnitude = np.abs(stft) * 2 / self.window
        power = (magnitude**2).swapaxes(1, 2) @ self._to_bands
        return np.log(power.reshape(len(power), -1, self.fold, self.k).mean(2) + 1e-8)

    def encode(self, audio):
        return (self._features(audio) - self.mean) / self.deviation

    def decode(self, features, samples=None):
        logs = np.minimum(features * self.deviation + self.mean, self.loudest)
        level = np.maximum(logs @ self._to_bins - np.log(1e-8), 0) / (2 * spectrum.NATS)
        level = np.repeat(level, self.fold, 1).astype(np.float32)
        mid = np.where(level > 0, level + np.log(2) / 2 / spectrum.NATS, 0)
        views = np.stack([level, level, mid, 0 * level])  # left, right, mid, side
        layout = spectrum.Layout(self.window)
        (part,) = layout.parts
        filters = spectrum.filters(part)
        levels = np.concatenate([view @ filters.T / filters.sum(1) for view in views], -1)
        synthesise = partial(spectrum.synthesise, layout=layout, iterations=ITERATIONS)
        valid = np.ones((*levels.shape[:2], 1), np.float32)
        return np.asarray(jax.jit(synthesise)(levels, valid))[:, :samples]


def standardised(codec: Codec, audio: np.ndarray) -> Codec:
    """`codec` with each channel scaled to unit variance on `audio`, and not whitened."""
    channels = codec.model.latent_channels
    identity = Whitening(np.zeros(channels), np.eye(channels), np.ones(channels))
    raw = replace(codec, whitening=identity).encode(audio)
    moments = Moments.of(raw.reshape(-1, channels))
    scale = np.sqrt(np.maximum(np.diag(moments.covariance), 1e-12))
    return replace(codec, whitening=Whitening(moments.mean, np.eye(len(scale)), scale))


def kept(codec: Codec, share: float) -> Codec:
    """`codec` with only this share of its whitened channels, the strongest ones."""
    k, full = max(1, int(share * codec.k)), codec.whitening
    return replace(codec, whitening=Whitening(full.mean, full.basis[:, :k], full.scale[:k]))


def read(data: Path, split: str, seed: int | None = None) -> Iterator[dict[str, Any]]:
    """The clips of a split in order, or in a random order that depends on `seed`.

    `audio` is float32 [samples, 2], `meta` a dictionary.
    """
    places = np.arange(info(str(data)).examples[split])
    if seed is not None:
        places = np.random.default_rng(seed).permutation(places)
    for clip in examples(str(data), split, places.tolist()):
        audio = clip["audio"] / np.float32(32767)
        yield clip | {"audio": audio, "meta": json.loads(clip["meta"])}


def encode_all(feature, data: Path) -> tuple[np.ndarray, list[list[str]]]:
    """Latents [n, frames, k] float16 and captions of the training clips without padding."""
    clips = (clip for clip in read(data, "train") if clip["valid_samples"] == len(clip["audio"]))
    latents, captions = [], []
    while batch := list(islice(clips, 8)):
        audio = np.stack([clip["audio"] for clip in batch])
        whole = audio.shape[1] // feature.hop * feature.hop
        latents.append(feature.encode(audio[:, :whole]).astype(np.float16))
        captions += [clip["captions"] for clip in batch]
    return np.concatenate(latents), captions


def latent_figures(latents: np.ndarray) -> dict[str, float]:
    """How predictable latents [n, frames, k] are.

    `autocorrelation` is the correlation of neighbouring frames. `predicted` is the share of the
    variance that ridge regression on the two frames before predicts; it is fitted on the first half
    and measured on the second.
    """
    x = latents - latents.mean((0, 1))
    k = x.shape[-1]
    autocorrelation = (x[:, 1:] * x[:, :-1]).mean() / (x**2).mean()
    past = np.concatenate([x[:, 1:-1], x[:, :-2]], -1).reshape(-1, 2 * k).astype(np.float64)
    now = x[:, 2:].reshape(-1, k).astype(np.float64)
    half = len(past) // 2
    covariance = past[:half].T @ past[:half] + 1e-2 * half * np.eye(2 * k)
    weights = np.linalg.solve(covariance, past[:half].T @ now[:half])
    error = now[half:] - past[half:] @ weights
    predicted = 1 - (error**2).sum() / (now[half:] ** 2).sum()
    return {"autocorrelation": float(autocorrelation), "predicted": float(predicted)}
