"""Measures whether generated music follows its caption, by retrieval among the held-out clips.

The clip that a caption belongs to is its reference. Each generated clip is compared with the
references of all captions, and its retrieval rank is the place of its own reference when they are
sorted by similarity: 1 is the most similar. Without any relation to the caption, every rank from 1
to the number of clips is equally likely.

The comparison is done in three independent views: the mean mel spectrum (timbre), the
autocorrelation of onsets (rhythm) and the mean chroma (key).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import librosa
import numpy as np
from jaxtyping import Bool, Float

VIEWS = ("timbre", "rhythm", "key")
RATIOS = ("flatness", "onsets", "peak")  # compared as generated / reference
SHARES = ("treble", "side")  # shares of the energy in dB, compared as generated - reference
FFT, HOP, MELS = 2048, 512, 64
LAGS = (0.15, 2.0)  # seconds, of the autocorrelation of onsets
TREBLE = 8000  # Hz, the lowest frequency of the treble
MIN_SHARE = 1e-10  # of the energy, -100 dB
PERMUTATIONS, DRAWS = 10_000, 2000

Clips = Float[np.ndarray, "clips samples 2"]
DrumDetector = Callable[[Clips], Bool[np.ndarray, " clips"]]


def describe(audio: Float[np.ndarray, "samples 2"], sample_rate: int) -> dict[str, Any]:
    """The features of a clip.

    These are a vector for each of the `VIEWS`, a number for each of the `RATIOS` and `SHARES`, and
    the vector `drums`, the input of the drum detector.
    """
    mono = np.asarray(audio, np.float64).mean(axis=1)
    power = np.abs(librosa.stft(mono, n_fft=FFT, hop_length=HOP)) ** 2
    highest = min(20_000, sample_rate / 2)
    filters = librosa.filters.mel(sr=sample_rate, n_fft=FFT, n_mels=MELS, fmax=highest)
    mel = 10 * np.log10(filters @ power + 1e-8)
    onsets = np.maximum(np.diff(mel, axis=1), 0).mean(0)
    centred = onsets - onsets.mean()
    correlation = np.correlate(centred, centred, "full")[len(centred) - 1 :]
    first, last = (round(lag * sample_rate / HOP) for lag in LAGS)
    chroma = librosa.feature.chroma_stft(S=power, sr=sample_rate, n_fft=FFT, tuning=0.0, norm=None)
    loud = power[:, power.sum(0) > 1e-6]
    flatness = librosa.feature.spectral_flatness(S=loud, power=1.0).mean() if loud.size else 1.0
    is_treble = librosa.fft_frequencies(sr=sample_rate, n_fft=FFT) >= TREBLE
    decibels = lambda part, whole: 10 * np.log10(max(part / max(whole, 1e-12), MIN_SHARE))
    energy = np.square(audio, dtype=np.float64).sum()
    side = np.square(audio[:, 0] - audio[:, 1], dtype=np.float64).sum() / 2
    spectrum, deviation = mel.mean(1), mel.std(1)
    return {
        "timbre": spectrum,
        "rhythm": correlation[first:last] / max(correlation[0], 1e-9),
        "key": np.sqrt(chroma.mean(1)),
        "flatness": float(flatness),
        "onsets": float(onsets.mean()),
        "peak": float(np.abs(audio).max()),
        "treble": decibels(power[is_treble].sum(), power.sum()),
        "side": decibels(side, energy),
        "drums": np.concatenate([spectrum - mel.mean(), deviation, [onsets.mean(), onsets.std()]]),
    }


def log_odds(
    features: Float[np.ndarray, "clips d"], present: Sequence[bool]
) -> Callable[[Float[np.ndarray, "clips d"]], Float[np.ndarray, " clips"]]:
    """Fits a logistic regression; the result gives the log-odds that something is present."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return model.fit(features, np.asarray(present)).decision_function


def drum_detector(clips: Clips, drums: Sequence[bool], sample_rate: int) -> DrumDetector:
    """A detector fitted to real clips with known labels: whether there are drums."""
    features = lambda clips: np.stack([describe(clip, sample_rate)["drums"] for clip in clips])
    odds = log_odds(features(clips), drums)
    return lambda clips: odds(features(clips)) > 0


def compare(
    generated: Clips, reference: Clips, sample_rate: int, drums: DrumDetector | None = None
) -> dict[str, Any]:
    """Compares generated clips with references; `reference[n]` is that of `generated[n]`.

    The result holds the figures of each view (see `retrieval`), the ratio of the medians of each of
    the `RATIOS`, and the difference of the medians of each of the `SHARES`. With a detector it also
    holds `drums`, the share of clips for which the detector gives the same answer as for their
    reference, and `drums_chance`, this share for a constant answer. All except `drums_chance` have
    a 95 % bootstrap interval over the clips.
    """
    ours = [describe(clip, sample_rate) for clip in generated]
    theirs = [describe(clip, sample_rate) for clip in reference]
    column = lambda name, clips: np.array([clip[name] for clip in clips])
    figures: dict[str, Any] = {
        view: retrieval(column(view, ours), column(view, theirs)) for view in VIEWS
    }
    draws = np.random.default_rng(0).integers(len(generated), size=(DRAWS, len(generated)))
    ratio = lambda x, y: x / np.maximum(y, 1e-12)
    for name in (*RATIOS, *SHARES):
        compared = ratio if name in RATIOS else np.subtract
        a, b = column(name, ours), column(name, theirs)
        drawn = compared(np.median(a[draws], axis=1), np.median(b[draws], axis=1))
        figures[name] = float(compared(np.median(a), np.median(b)))
        figures[f"{name}_interval"] = _interval(drawn)
    if drums:
        present = drums(reference)
        same = drums(generated) == present
        figures |= {"drums": float(same.mean()), "drums_interval": _interval(same[draws].mean(1))}
        share = present.mean()
        figures["drums_chance"] = float(max(share, 1 - share))  # always the more frequent answer
    return figures


def retrieval(
    generated: Float[np.ndarray, "clips d"], reference: Float[np.ndarray, "clips d"], seed: int = 0
) -> dict[str, Any]:
    """Retrieval figures of one view; the similarity of two clips is the correlation of their rows.

    The result holds the median `rank` and `top`, the share of clips whose rank is within the best
    eighth of all clips (5 of 40), both with 95 % bootstrap intervals. `p` is the share of random
    pairings that have as small a mean rank.
    """
    rng = np.random.default_rng(seed)
    similarity = _unit(generated) @ _unit(reference).T
    all_ranks = np.stack([ranks(row) for row in similarity])
    found, best = np.diag(all_ranks), len(reference) / 8
    draws = found[rng.integers(len(found), size=(DRAWS, len(found)))]
    rows = np.arange(len(all_ranks))
    permutations = (rng.permutation(len(all_ranks)) for _ in range(PERMUTATIONS))
    random_means = np.array([all_ranks[rows, columns].mean() for columns in permutations])
    as_small = np.sum(random_means <= found.mean() + 1e-9)
    return {
        "rank": float(np.median(found)),
        "rank_interval": _interval(np.median(draws, axis=1)),
        "top": float((found <= best).mean()),
        "top_interval": _interval((draws <= best).mean(1)),
        "p": float((1 + as_small) / (1 + PERMUTATIONS)),
    }


def _unit(rows: Float[np.ndarray, "clips d"]) -> Float[np.ndarray, "clips d"]:
    """Rows without their mean, of unit length: their products are correlations."""
    centred = rows - rows.mean(1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)


def ranks(similarity: Float[np.ndarray, " clips"]) -> Float[np.ndarray, " clips"]:
    """The rank of each reference, the most similar first; equal ones share their mean rank."""
    above = (similarity[None] > similarity[:, None]).sum(1)
    equal = (similarity[None] == similarity[:, None]).sum(1)
    return 1 + above + (equal - 1) / 2


def _interval(values: Float[np.ndarray, " draws"]) -> list[float]:
    return [round(float(value), 3) for value in np.percentile(values, (2.5, 97.5))]


def table(rows: Mapping[str, Mapping[str, Any]], clips: int) -> str:
    """Results of `compare` as text: first the ranks, below those of chance, then the rest."""
    best = clips // 8
    titles = [f"{view + ': rank':>24}{f'top {best}':>20}{'p':>8}" for view in VIEWS]
    chance = f"{(clips + 1) / 2:24.1f}{best / clips:20.0%}{'':8}"
    lines = [f"{'':18}" + "".join(titles), f"{'chance':18}" + chance * len(VIEWS)]
    for name, row in rows.items():
        line = f"{name:18}"
        for view in VIEWS:
            found = row[view]
            rank, top = _with_interval(found, "rank", ".1f"), _with_interval(found, "top", ".0%")
            line += f"{rank:>24}{top:>20}{found['p']:8.4f}"
        lines.append(line)

    styles = dict.fromkeys(RATIOS, ".2f") | dict.fromkeys(SHARES, ".1f") | {"drums": ".0%"}
    units = dict.fromkeys(RATIOS, ", x") | dict.fromkeys(SHARES, ", dB")
    if all("drums" in row for row in rows.values()):
        drums_chance = next(row["drums_chance"] for row in rows.values())
        units["drums"] = f" (chance {drums_chance:.0%})"
    lines += ["", f"{'':18}" + "".join(f"{figure + unit:>24}" for figure, unit in units.items())]
    for name, row in rows.items():
        cells = (_with_interval(row, figure, styles[figure]) for figure in units)
        lines.append(f"{name:18}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def _with_interval(row: Mapping[str, Any], figure: str, style: str) -> str:
    """`figure` of `row` and its interval, formatted with `style`."""
    value, low, high = (format(each, style) for each in (row[figure], *row[f"{figure}_interval"]))
    return f"{value} ({low} to {high})"
