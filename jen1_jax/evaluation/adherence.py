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
RATIOS = ("flatness", "onsets", "peak")  # of made to real
SHARES = ("treble", "side")  # of the energy, in dB: above 8 kHz, and of the side; made minus real
FFT, HOP, MELS = 2048, 512, 64
LAGS = (0.15, 2.0)  # seconds, of the onsets' autocorrelation
TREBLE = 8000  # Hz
LEAST = 1e-10  # share of the energy, -100 dB
PERMUTATIONS, DRAWS = 10_000, 2000

Clips = Float[np.ndarray, "clips samples 2"]
Drums = Callable[[Clips], Bool[np.ndarray, " clips"]]


def describe(audio: Float[np.ndarray, "samples 2"], sample_rate: int) -> dict[str, Any]:
    """What a clip looks like in the three views, as vectors to correlate; its `RATIOS` and `SHARES`; and what tells drums."""
    power = (
        np.abs(librosa.stft(np.mean(audio, axis=1, dtype=np.float64), n_fft=FFT, hop_length=HOP))
        ** 2
    )
    bands = (
        librosa.filters.mel(
            sr=sample_rate, n_fft=FFT, n_mels=MELS, fmax=min(20_000, sample_rate / 2)
        )
        @ power
    )
    mel = 10 * np.log10(bands + 1e-8)
    onsets = np.maximum(np.diff(mel, axis=1), 0).mean(0)
    steady = onsets - onsets.mean()
    correlation = np.correlate(steady, steady, "full")[len(steady) - 1 :]
    first, last = (round(lag * sample_rate / HOP) for lag in LAGS)
    chroma = librosa.feature.chroma_stft(
        S=power, sr=sample_rate, n_fft=FFT, tuning=0.0, norm=None
    ).mean(1)
    loud = power[:, power.sum(0) > 1e-6]
    flatness = librosa.feature.spectral_flatness(S=loud, power=1.0).mean() if loud.size else 1.0
    above = librosa.fft_frequencies(sr=sample_rate, n_fft=FFT) >= TREBLE
    share = lambda part, whole: 10 * np.log10(max(part / max(whole, 1e-12), LEAST))
    energy = np.square(audio, dtype=np.float64).sum()
    side = np.square(audio[:, 0] - audio[:, 1], dtype=np.float64).sum() / 2
    return {
        "timbre": mel.mean(1),
        "rhythm": correlation[first:last] / max(correlation[0], 1e-9),
        "key": np.sqrt(chroma),
        "flatness": float(flatness),
        "onsets": float(onsets.mean()),
        "peak": float(np.abs(audio).max()),
        "treble": share(power[above].sum(), power.sum()),
        "side": share(side, energy),
        "drums": np.concatenate(
            [mel.mean(1) - mel.mean(), mel.std(1), [onsets.mean(), onsets.std()]]
        ),
    }


def drum_detector(clips: Clips, drums: Sequence[bool], sample_rate: int) -> Drums:
    """A logistic regression from real clips of which it is known whether there are drums."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = lambda clips: np.stack([describe(clip, sample_rate)["drums"] for clip in clips])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(
        features(clips), np.asarray(drums)
    )
    return lambda clips: model.predict(features(clips))


def compare(
    made: Clips, real: Clips, sample_rate: int, drums: Drums | None = None
) -> dict[str, Any]:
    """Figures of `made`, whose n-th clip should be like the n-th of `real`.

    Those of each view (see `follow`); `RATIOS` of medians and differences of medians of `SHARES`; and, with a detector, `drums`,
    the share of clips on which it says the same of both, and `drums_chance`. All have a 95 % bootstrap interval over the clips.
    """
    ours, theirs = ([describe(clip, sample_rate) for clip in clips] for clips in (made, real))
    column = lambda name, clips: np.array([clip[name] for clip in clips])
    figures: dict[str, Any] = {
        view: follow(column(view, ours), column(view, theirs)) for view in VIEWS
    }
    draws = np.random.default_rng(0).integers(len(made), size=(DRAWS, len(made)))
    for name in (*RATIOS, *SHARES):
        a, b = column(name, ours), column(name, theirs)
        some_a, some_b = np.median(a[draws], axis=1), np.median(b[draws], axis=1)
        between = (lambda x, y: x / np.maximum(y, 1e-12)) if name in RATIOS else np.subtract
        figures |= {
            name: float(between(np.median(a), np.median(b))),
            f"{name}_interval": _interval(between(some_a, some_b)),
        }
    if drums:
        same = drums(made) == drums(real)
        figures |= {"drums": float(same.mean()), "drums_interval": _interval(same[draws].mean(1))}
        heard = drums(real).mean()
        figures["drums_chance"] = float(max(heard, 1 - heard))  # always the commoner answer
    return figures


def follow(
    made: Float[np.ndarray, "clips d"], real: Float[np.ndarray, "clips d"], seed: int = 0
) -> dict[str, Any]:
    """How near made clips are to their own real ones in one view, by correlation of their vectors.

    The median `rank`, the share of ranks up to an eighth of the clips (`top`; 5 of 40), both with 95 % bootstrap intervals, and
    `p`, the share of random pairings with as small a mean rank.
    """
    rng = np.random.default_rng(seed)
    centred = lambda x: x - x.mean(1, keepdims=True)
    unit = lambda x: (
        centred(x) / np.maximum(np.linalg.norm(centred(x), axis=1, keepdims=True), 1e-9)
    )
    similar = unit(made) @ unit(real).T
    table = np.stack([ranks(row) for row in similar])
    found, few = np.diag(table), len(real) / 8
    draws = found[rng.integers(len(found), size=(DRAWS, len(found)))]
    rows = np.arange(len(table))
    pairings = np.array(
        [table[rows, rng.permutation(len(table))].mean() for _ in range(PERMUTATIONS)]
    )
    return {
        "rank": float(np.median(found)),
        "rank_interval": _interval(np.median(draws, axis=1)),
        "top": float((found <= few).mean()),
        "top_interval": _interval((draws <= few).mean(1)),
        "p": float((1 + np.sum(pairings <= found.mean() + 1e-9)) / (1 + PERMUTATIONS)),
    }


def ranks(similar: Float[np.ndarray, " real"]) -> Float[np.ndarray, " real"]:
    """The rank of every real clip for one made clip, by falling similarity; equal ones share the mean of their ranks."""
    above = (similar[None] > similar[:, None]).sum(1)
    return 1 + above + ((similar[None] == similar[:, None]).sum(1) - 1) / 2


def _interval(values: Float[np.ndarray, " draws"]) -> list[float]:
    return [round(float(value), 3) for value in np.percentile(values, (2.5, 97.5))]


def table(rows: Mapping[str, Mapping[str, Any]], clips: int) -> str:
    """The rows of `compare` as text: ranks below what chance gives, then the other figures."""
    lines = [
        f"{'':18}"
        + "".join(f"{view + ': rank':>24}{'top ' + str(clips // 8):>6}{'p':>8}" for view in VIEWS)
    ]
    lines.append(
        f"{'chance':18}" + f"{(clips + 1) / 2:24.1f}{clips // 8 / clips:6.0%}{'':8}" * len(VIEWS)
    )
    for name, row in rows.items():
        line = f"{name:18}"
        for view in VIEWS:
            low, high = row[view]["rank_interval"]
            line += f"{row[view]['rank']:9.1f} ({low:4.1f} to {high:4.1f}){row[view]['top']:6.0%}{row[view]['p']:8.4f}"
        lines.append(line)
    styles = dict.fromkeys(RATIOS, ".2f") | dict.fromkeys(SHARES, ".1f") | {"drums": ".0%"}
    styles = {
        name: style for name, style in styles.items() if all(name in row for row in rows.values())
    }
    chance = next((row["drums_chance"] for row in rows.values() if "drums" in styles), 0)
    unit = lambda name: (
        ", x" if name in RATIOS else ", dB" if name in SHARES else f" (chance {chance:.0%})"
    )
    lines += ["", f"{'':18}" + "".join(f"{name + unit(name):>24}" for name in styles)]
    for name, row in rows.items():
        written = (
            (row[figure], *row[f"{figure}_interval"], style) for figure, style in styles.items()
        )
        lines.append(
            f"{name:18}"
            + "".join(
                f"{f'{value:{s}} ({low:{s}} to {high:{s}})':>24}" for value, low, high, s in written
            )
        )
    return "\n".join(lines)
