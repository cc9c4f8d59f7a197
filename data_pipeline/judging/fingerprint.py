"""A fingerprint of what a recording sounds like, of 260 bytes, whatever its format, rate and gain.

The recording's spectrum in 34 bands is averaged over each of 64 equal parts of its length,
silence left out. A bit
tells whether a band is louder than the next but one, more than in half of the parts. Coding with
loss, a filter or another gain leaves most bits as they are; bits of different music differ like
coin tosses. The bits as signs of differences of band energies are those of J. Haitsma and
T. Kalker, "A highly robust audio fingerprinting system", ISMIR 2002.
"""

import numpy as np
from scipy import fft

PARTS, BANDS = 64, 34
BITS = PARTS * (BANDS - 2)
SIZE = 4 + BITS // 8  # bytes
LOWEST, HIGHEST = 150.0, 3400.0  # Hz
WINDOW, HOP = 0.36, 0.12  # seconds
RATE = 11_000  # Hz; samples are added up to a rate of at least this
SHORTEST = 25  # windows: 3 s
MOST = 120_000  # windows that are kept, 17 MB: four hours
SILENT = 1e-5  # of the mean energy of the windows: those below it are left out
FLOOR = 1e-9  # of the mean energy of all bands: added, so that an empty band has a level
CHANGE = 0.1  # nepers by which at least half of the differences leave their median


class Fingerprint:
    """Computes the fingerprint of one recording, whose blocks it is given in order."""

    def __init__(self, sample_rate: int, channels: int):
        factor = max(1, sample_rate // RATE)
        rate = sample_rate / factor
        self._step = factor * channels  # samples that are added up to one
        self._hop = round(HOP * rate)
        self._window = np.hanning(round(WINDOW * rate)).astype(np.float32)
        edges = np.geomspace(LOWEST, HIGHEST, BANDS + 1) * len(self._window) / rate
        self._edges = np.minimum(np.ceil(edges).astype(int), len(self._window) // 2)
        # As if silence came before, and after: the first and last sound is then the same in a copy
        # that begins or ends with silence.
        self._silence = np.zeros(len(self._window) - self._hop, np.float32)
        self._held, self._mono = np.zeros(0, np.float32), self._silence
        self._energies, self._windows = [], 0

    def add(self, block: np.ndarray) -> None:
        """Takes the next block, float32 [samples, channels]."""
        if self._windows >= MOST:
            return
        samples = np.concatenate([self._held, block.ravel()])
        whole = len(samples) // self._step * self._step
        # einsum, since BLAS would start threads beside those of the other processes.
        self._cut(np.einsum("ts->t", samples[:whole].reshape(-1, self._step)))
        self._held = samples[whole:]

    def _cut(self, mono: np.ndarray) -> None:
        mono = np.concatenate([self._mono, mono])
        if len(mono) >= len(self._window):
            views = np.lib.stride_tricks.sliding_window_view(mono, len(self._window))
            self._energies.append(self._bands(views[:: self._hop]))
            self._windows += len(self._energies[-1])
            mono = mono[len(self._energies[-1]) * self._hop :]
        self._mono = mono

    def _bands(self, frames: np.ndarray) -> np.ndarray:
        """The energy in each band, [frames, bands]."""
        spectrum = fft.rfft(frames * self._window, axis=-1)[:, : self._edges[-1]]
        power = spectrum.real**2 + spectrum.imag**2
        total = np.pad(np.cumsum(power, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        return np.diff(total[:, self._edges]).astype(np.float32)

    def digest(self) -> bytes:
        """The seconds that are not silent, float32, and 2,048 bits.

        Empty for what a fingerprint cannot tell apart: less than 3 s, silence, a constant sound.
        """
        self._cut(self._silence)
        energies = np.concatenate([*self._energies, np.zeros((0, BANDS), np.float32)])
        total = energies.sum(axis=1, dtype=np.float64)
        # Silence is alike in all recordings, and the copies of one differ in it.
        energies = energies[total > SILENT * total.mean()] if len(total) else energies
        if len(energies) < SHORTEST:
            return b""
        seconds = np.float32(len(energies) * HOP)
        energies = _parts(energies)
        levels = np.log(energies + FLOOR * energies.mean())
        differences = levels[:, 2:] - levels[:, :-2]
        differences -= np.median(differences, axis=0)
        if np.median(np.abs(differences)) < CHANGE:
            return b""
        return seconds.tobytes() + np.packbits(differences > 0).tobytes()


def _parts(energies: np.ndarray) -> np.ndarray:
    """The mean of `energies` [windows, bands] over each of `PARTS` equal parts of the time."""
    total = np.pad(np.cumsum(energies, axis=0, dtype=np.float64), ((1, 0), (0, 0)))
    place = np.linspace(0, len(energies), PARTS + 1)
    whole = np.minimum(place.astype(int), len(energies) - 1)
    return np.diff(total[whole] + (place - whole)[:, None] * energies[whole], axis=0)
