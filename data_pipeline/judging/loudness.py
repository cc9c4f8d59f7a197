"""Integrated loudness by ITU-R BS.1770-4, from blocks: an hour of audio keeps 288 kB.

pyloudnorm, the library for it, needs the whole recording as one array. With its filter "DeMan" it
gives the same loudness.
"""

import math

import numpy as np
from scipy.signal import sosfilt

# The two filters of the K-weighting (BS.1770-4, annex 1) as analogue prototypes, which give the
# recommendation's coefficients at 48 kHz and can be built for any rate (B. De Man, "Evaluation of
# implementations of the EBU R128 loudness measurement", AES 145, 2018): frequency in Hz, Q.
SHELF, SHELF_Q, SHELF_DB = 1681.974450955533, 0.7071752369554196, 3.999843853973347
SHELF_MIDDLE = 0.4996667741545416  # exponent of the gain in the middle of the shelf
HIGH_PASS, HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773
STEP = 0.1  # seconds; a block of the gating has four of them
OFFSET = -0.691  # LUFS of a K-weighted mean square of 1
ABSOLUTE, RELATIVE = -70.0, -10.0  # LUFS; LU below the loudness of what passes the absolute gate


class Loudness:
    """K-weights the blocks of one recording and keeps the energy of every 100 ms.

    A mono recording is measured as two equal channels, which is how it is played here; BS.1770-4
    gives the file itself 3 LU less.
    """

    def __init__(self, sample_rate: int, channels: int):
        self._filter = k_weighting(sample_rate)
        self._state = np.zeros((2, channels, 2))
        self._weight = 2 / channels
        self._length = round(STEP * sample_rate)
        self._held = np.zeros((channels, 0))
        self._energies = []

    def add(self, block: np.ndarray) -> np.ndarray:
        """The K-weighted block, float64 [channels, samples]; `block` is [samples, channels]."""
        weighted, self._state = sosfilt(self._filter, block.T, zi=self._state)
        held = np.concatenate([self._held, weighted], axis=1)
        steps = held.shape[1] // self._length
        whole, self._held = np.split(held, [steps * self._length], axis=1)
        whole = whole.reshape(len(whole), steps, self._length)
        self._energies.append(np.einsum("cst,cst->s", whole, whole))
        return weighted

    def integrated(self) -> float | None:
        """In LUFS; None below 400 ms, or if no 400 ms are louder than -70 LUFS."""
        energies = np.concatenate([*self._energies, np.zeros(0)])
        if len(energies) < 4:
            return None
        blocks = np.convolve(energies, np.full(4, self._weight / (4 * self._length)), "valid")
        blocks = blocks[blocks > _power(ABSOLUTE)]
        if not len(blocks):
            return None
        gate = blocks.mean() * 10 ** (RELATIVE / 10)
        return OFFSET + 10 * math.log10(blocks[blocks > gate].mean())


def k_weighting(sample_rate: int) -> np.ndarray:
    """The K-weighting for a sample rate, as second-order sections [2, 6]."""

    def section(frequency: float, q: float, high: float, middle: float, low: float):
        """The bilinear transform of (high s^2 + middle s/q + low) / (s^2 + s/q + 1)."""
        k = math.tan(math.pi * frequency / sample_rate)
        numerator = [high + middle * k / q + low * k * k, 2 * (low * k * k - high)]
        numerator += [high - middle * k / q + low * k * k]
        scale = 1 + k / q + k * k
        row = [*numerator, scale, 2 * (k * k - 1), 1 - k / q + k * k]
        return np.array(row) / scale

    gain = 10 ** (SHELF_DB / 20)
    high_pass = section(HIGH_PASS, HIGH_PASS_Q, 1, 0, 0)
    high_pass[:3] = 1, -2, 1  # the recommendation leaves its gain as it is
    return np.stack([section(SHELF, SHELF_Q, gain, gain**SHELF_MIDDLE, 1), high_pass])


def _power(lufs: float) -> float:
    return 10 ** ((lufs - OFFSET) / 10)
