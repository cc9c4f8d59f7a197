"""Does made music follow its caption? Each made clip is compared with all real ones: which one is it nearest to?

Three views, each blind to the others: the mean mel spectrum (timbre), the autocorrelation of onsets (rhythm) and the mean chroma
(key). The rank of the right clip is 1 where it is the nearest; under chance it is uniform from 1 to the number of clips.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import librosa
import numpy as np
from jaxtyping import Bool, Float

VIEWS = ("timbre", "rhythm", "key")
FFT, HOP, MELS = 2048, 512, 64
LAGS = (0.15, 2.0)  # seconds, of the onsets' autocorrelation
PERMUTATIONS = 10_000

Clips = Float[np.ndarray, "clips samples 2"]
Drums = Callable[[Clips], Bool[np.ndarray, " clips"]]


def describe(audio: Float[np.ndarray, "samples 2"], sample_rate: int) -> dict[str, Any]:
    """What a clip looks like in the three views, as vectors to correlate, with its flatness and onset strength."""
    power = np.abs(librosa.stft(np.mean(audio, axis=1, dtype=np.float64), n_fft=FFT, hop_length=HOP)) ** 2
    bands = librosa.filters.mel(sr=sample_rate, n_fft=FFT, n_mels=MELS, fmax=min(20_000, sample_rate / 2)) @ power
    mel = 10 * np.log10(bands + 1e-8)
    onsets = np.maximum(np.diff(mel, axis=1), 0).mean(0)
    steady = onsets - onsets.mean()
    correlation = np.correlate(steady, steady, "full")[len(steady) - 1 :]
    first, last = (round(lag * sample_rate / HOP) for lag in LAGS)
    chroma = librosa.feature.chroma_stft(S=power, sr=sample_rate, n_fft=FFT, tuning=0.0, norm=None).mean(1)
    loud = power[:, power.sum(0) > 1e-6]
    flatness = librosa.feature.spectral_flatness(S=loud, power=1.0).mean() if loud.size else 1.0
    return {
        "timbre": mel.mean(1),
        "rhythm": correlation[first:last] / max(correlation[0], 1e-9),
        "key": np.sqrt(chroma),
        "flatness": float(flatness),
        "onsets": float(onsets.mean()),
        "drums": np.concatenate([mel.mean(1) - mel.mean(), mel.std(1), [onsets.mean(), onsets.std()]]),
    }


def drum_detector(clips: Clips, drums: Sequence[bool], sample_rate: int) -> Drums:
    """A logistic regression from real clips of which it is known whether there are drums."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = lambda clips: np.stack([describe(clip, sample_rate)["drums"] for clip in clips])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(features(clips), np.asarray(drums))
    return lambda clips: model.predict(features(clips))


def compare(made: Clips, real: Clips, sample_rate: int, drums: Drums | None = None) -> dict[str, Any]:
    """Figures of `made`, whose n-th clip should be like the n-th of `real`.

    Those of each view (see `follow`); `flatness` and `onsets`, medians of made over real; and, with a detector, `drums`, the
    share of clips on which it says the same of both.
    """
    ours, theirs = ([describe(clip, sample_rate) for clip in clips] for clips in (made, real))
    result: dict[str, Any] = {
        view: follow(*(np.stack([clip[view] for clip in clips]) for clips in (ours, theirs))) for view in VIEWS
    }
    ratio = lambda name: float(np.median([a[name] for a in ours]) / max(np.median([b[name] for b in theirs]), 1e-12))
    result |= {"flatness": ratio("flatness"), "onsets": ratio("onsets")}
    return result | ({"drums": float(np.mean(drums(made) == drums(real)))} if drums else {})


def follow(made: Float[np.ndarray, "clips d"], real: Float[np.ndarray, "clips d"], seed: int = 0) -> dict[str, Any]:
    """How near made clips are to their own real ones in one view, by correlation of their vectors.

    The median `rank`, the share of ranks up to an eighth of the clips (`top`; 5 of 40), both with 95 % bootstrap intervals, and
    `p`, the share of random pairings with as small a mean rank.
    """
    rng = np.random.default_rng(seed)
    centred = lambda x: x - x.mean(1, keepdims=True)
    unit = lambda x: centred(x) / np.maximum(np.linalg.norm(centred(x), axis=1, keepdims=True), 1e-9)
    similar = unit(made) @ unit(real).T
    table = np.stack([ranks(row) for row in similar])
    found, few = np.diag(table), len(real) / 8
    draws = found[rng.integers(len(found), size=(2000, len(found)))]
    interval = lambda values: [round(float(value), 3) for value in np.percentile(values, (2.5, 97.5))]
    rows = np.arange(len(table))
    pairings = np.array([table[rows, rng.permutation(len(table))].mean() for _ in range(PERMUTATIONS)])
    return {
        "rank": float(np.median(found)),
        "rank_interval": interval(np.median(draws, axis=1)),
        "top": float((found <= few).mean()),
        "top_interval": interval((draws <= few).mean(1)),
        "p": float((1 + np.sum(pairings <= found.mean() + 1e-9)) / (1 + PERMUTATIONS)),
    }


def ranks(similar: Float[np.ndarray, " real"]) -> Float[np.ndarray, " real"]:
    """The rank of every real clip for one made clip, by falling similarity; equal ones share the mean of their ranks."""
    above = (similar[None] > similar[:, None]).sum(1)
    return 1 + above + ((similar[None] == similar[:, None]).sum(1) - 1) / 2


def table(rows: Mapping[str, Mapping[str, Any]], clips: int) -> str:
    """The rows of `compare` as text, below what chance gives."""
    lines = [f"{'':18}" + "".join(f"{view + ': rank':>24}{'top ' + str(clips // 8):>6}{'p':>8}" for view in VIEWS)]
    lines[0] += f"{'flatness':>10}{'onsets':>8}" + f"{'drums':>8}" * any("drums" in row for row in rows.values())
    lines.append(f"{'chance':18}" + f"{(clips + 1) / 2:24.1f}{clips // 8 / clips:6.0%}{'':8}" * len(VIEWS))
    for name, row in rows.items():
        line = f"{name:18}"
        for view in VIEWS:
            low, high = row[view]["rank_interval"]
            line += f"{row[view]['rank']:10.1f} ({low:4.1f} to {high:4.1f}){row[view]['top']:6.0%}{row[view]['p']:8.4f}"
        line += f"{row['flatness']:9.2f}x{row['onsets']:7.2f}x"
        lines.append(line + (f"{row['drums']:8.0%}" if "drums" in row else ""))
    return "\n".join(lines)
