"""What one recording is worth: measured in one pass over its blocks, in bounded memory."""

from dataclasses import dataclass

import numpy as np

from data_pipeline.judging.fingerprint import Fingerprint
from data_pipeline.judging.loudness import Loudness

SILENCE = 10 ** (-60 / 20)  # peak
RUN = 3  # samples at full scale in a row, so that they count as clipped
MONO = 1e-5  # of the energy is in what the channels do not share: 50 dB below the rest


@dataclass(frozen=True)
class Verdict:
    """What was measured of a recording.

    `loudness`: LUFS, integrated (`loudness.Loudness`); None if it is too short or too quiet.
    `peak`: largest absolute sample.
    `clipped`: share of the samples that are in runs of at least three at full scale, which is the
    recording's own largest or smallest value: also where it was made quieter afterwards. Square
    waves count; what was encoded with loss after it was clipped does not.
    `mono`: one channel is a multiple of the other within -50 dB, K-weighted: equal, panned, of
    opposite polarity, or one of them silent.
    `silent`: the peak is below -60 dBFS.
    `finite`: no NaN or Inf. With one, `loudness` is None, `peak` NaN and the rest False or empty.
    `fingerprint`: for `duplicates`; empty if there is none (`fingerprint.Fingerprint.digest`).
    """

    loudness: float | None
    peak: float
    clipped: float
    mono: bool
    silent: bool
    finite: bool
    fingerprint: bytes


class Judge:
    """Judges one recording, whose blocks it is given in order, cut anywhere.

    Args:
        sample_rate: Hz, 4,000 to 768,000.
        channels: 1 or 2.
    """

    def __init__(self, sample_rate: int, channels: int):
        self._finite, self._samples = True, 0
        self._loudness = Loudness(sample_rate, channels)
        self._fingerprint = Fingerprint(sample_rate, channels)
        self._shared = np.zeros((channels, channels))  # products of the channels, K-weighted
        self._high, self._low = _Runs(), _Runs()

    def add(self, block: np.ndarray) -> None:
        """Takes the next block, float32 [samples, channels]."""
        if not len(block) or not self._finite:
            return
        high, low = block.max(), block.min()  # NaN if any sample is
        self._finite = bool(np.isfinite(high) and np.isfinite(low))
        if not self._finite:
            return
        self._samples += block.size
        self._high.add(block, high)
        self._low.add(-block, -low)
        self._fingerprint.add(block)
        weighted = self._loudness.add(block)
        self._shared += np.einsum("at,bt->ab", weighted, weighted)

    def verdict(self) -> Verdict:
        if not self._finite:
            return Verdict(None, float("nan"), 0.0, False, False, False, b"")
        peak = max(self._high.top, self._low.top, 0.0)
        clipped = (self._high.count + self._low.count) / max(1, self._samples)
        first, last = np.diag(self._shared)[[0, -1]]
        mono = len(self._shared) == 1 or np.linalg.det(self._shared) <= MONO * first * last
        return Verdict(
            loudness=self._loudness.integrated(),
            peak=peak,
            clipped=clipped,
            mono=bool(mono),
            silent=peak < SILENCE,
            finite=True,
            fingerprint=self._fingerprint.digest(),
        )


class _Runs:
    """Counts the samples in runs of `RUN` at the largest value so far; it is positive."""

    def __init__(self):
        self.top, self.count, self._last = 0.0, 0, None

    def add(self, block: np.ndarray, top: float) -> None:
        last = block[:0] if self._last is None else self._last
        self._last = np.concatenate([last, block[-RUN:]])[-RUN:]
        if top > self.top:
            self.top, self.count = float(top), 0
        if 0 < top == self.top:
            at = np.concatenate([last, block]) == top
            # The runs of RUN that end in this block, each with the one a sample before it.
            at = np.pad(at, ((RUN - len(last), 0), (0, 0)))
            runs = at[:-2] & at[1:-1] & at[2:]
            new, before = runs[1:], runs[:-1]
            self.count += int(new.sum() + (RUN - 1) * (new & ~before).sum())
