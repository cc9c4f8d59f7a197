"""Audio to STFT levels and back, for an autoencoder without phase in its latents.

The levels of four views (left, right, mid, side) hold the stereo image without any phase. On the
way back fast Griffin-Lim (Perraudin et al. 2013), here for stereo, finds phases. It projects in
turn onto the spectra that have these levels and onto the spectra of audio.

A long window separates low semitones, and a short one keeps attacks sharp. A layout may have both:
the long one below, and the short one from the frequency on at which a band is one of its bins wide.

All arithmetic here is float32. The constants are plain tensors and no buffers, so that `half()`
leaves them as they are.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

VIEWS = 4
NATS = 4.0  # of magnitude in one unit of a level
WIDTH = 0.02  # of a band, relative to its frequency: a third of a semitone, and at least one bin
TURN = 10.0  # radians by which a phase starts further for each nat of its magnitude
MOMENTUM = 0.99  # Perraudin et al.'s alpha
REACH = 3  # frames to each side that share samples with a frame

# Audio [batch, samples, 2] that is given, and where it is known, bool [batch, samples, 1].
Around = tuple[Tensor, Tensor]


def swapped(x: Tensor) -> Tensor:
    """Left and right [batch, 2, ...] to mid and side, and the reverse; the energy is kept."""
    left, right = x.unbind(1)
    return torch.stack([left + right, left - right], 1) / math.sqrt(2)


def views(x: Tensor) -> Tensor:
    """Left and right [batch, 2, ...] to left, right, mid and side [batch, 4, ...]."""
    return torch.cat([x, swapped(x)], 1)


def power(spectra: Tensor) -> Tensor:
    """The squared magnitudes, without the square root of `abs`."""
    return spectra.real.square() + spectra.imag.square()


class Part:
    """One window of a layout, and the bins that it describes: those from `low` to before `high`.

    A frame of the layout has `frames` spectra of this window.
    """

    def __init__(self, window: int, low: int, high: int, frames: int) -> None:
        self.window, self.low, self.high, self.frames = window, low, high, frames
        self.hop = window // 4  # samples from one spectrum to the next
        self.before = window * 3 // 8  # samples of a window before the hop on which it is centred
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        self.hann = torch.from_numpy(hann.astype(np.float32))  # the periodic one
        self.filters = torch.from_numpy(self._filters())  # [bands, bins]
        self.bands = frames * VIEWS * len(self.filters)  # levels of all views in a layout's frame
        phases = np.random.default_rng(0).uniform(-np.pi, np.pi, (2, 1, high - low))
        self.phases = torch.from_numpy(phases.astype(np.float32))

    def _filters(self) -> np.ndarray:
        """Triangles that add up to 1 in every bin of the part.

        Low bands are one bin wide, and from there on each is wider than the one before.
        """
        centres, last = [float(self.low)], self.high - 1
        while centres[-1] < last:
            centres.append(centres[-1] + max(1.0, WIDTH * centres[-1]))
        centres[-1] = last
        bins = np.arange(self.low, self.high)
        rows = [np.interp(bins, centres, one) for one in np.eye(len(centres))]
        return np.stack(rows).astype(np.float32)

    def spectra(self, audio: Tensor) -> Tensor:
        """Spectra [batch, 2, frames, bins] of audio [batch, samples, 2], each centred on its hop.

        `samples` is a multiple of the hop. A full-scale sine has the magnitude 0.5.
        """
        after = 3 * self.hop - self.before
        x = F.pad(audio.transpose(1, 2), (self.before, after)).unfold(-1, self.window, self.hop)
        hann = self.hann.to(x.device)
        return torch.fft.rfft(x * (hann / hann.sum()))

    def window_of(self, valid: Tensor) -> tuple[Tensor, Tensor]:
        """What `audio` needs of `valid` [batch, frames], which is 0 in padding.

        The window of each spectrum [batch, 1, frames, window], and a factor for each sample
        [batch, 1, samples].
        """
        hann = self.hann.to(valid.device)
        weights = self._add(hann.square() * valid[:, None, :, None])
        return hann * hann.sum() * valid[:, None, :, None], 1 / weights.clamp(min=1e-3)

    def audio(self, spectra: Tensor, window: Tensor, factor: Tensor) -> Tensor:
        """The audio whose spectra are closest to these (Griffin & Lim 1984, equation 6).

        [batch, 2, frames, bins] to [batch, samples, 2]; see `window_of`.
        """
        parts = torch.fft.irfft(spectra, self.window) * window
        return (self._add(parts) * factor).transpose(1, 2)

    def _add(self, x: Tensor) -> Tensor:
        """Frames [batch, _, frames, window] to samples; their four quarters go to four places."""
        frames = x.shape[2]
        total = x.new_zeros(*x.shape[:2], frames + REACH, self.hop)
        for i, quarter in enumerate(x.unflatten(-1, (4, self.hop)).unbind(-2)):
            total[:, :, i : i + frames] += quarter
        return total.flatten(2)[..., self.before :][..., : frames * self.hop]

    def resized(self, spectra: Tensor, sizes: Tensor) -> Tensor:
        """The spectra with the magnitudes of mid and side set, then those of left and right.

        `sizes` [batch, 4, frames, high - low] are the magnitudes of the part's bins.
        """

        def of(x: Tensor, size: Tensor) -> Tensor:  # complex times real would copy the real one
            factor = size / x.abs().clamp(min=1e-9)
            return torch.view_as_complex(torch.view_as_real(x) * factor[..., None])

        left, right = spectra[..., self.low : self.high].unbind(1)
        left_size, right_size, mid_size, side_size = sizes.unbind(1)
        mid, side = of(left + right, mid_size), of(left - right, side_size)
        inside = torch.stack([of(mid + side, left_size), of(mid - side, right_size)], 1)
        below, above = spectra[..., : self.low], spectra[..., self.high :]
        return torch.cat([below, inside, above], dim=-1)

    def first(self, sizes: Tensor, floor: float) -> Tensor:
        """The spectra from which the search for phases starts, [batch, 2, frames, bins].

        Their phases are random. All frames have the same ones, so that a shifted piece gives
        shifted audio. Equal phases in all bins would put a frame's energy into one instant. Mid and
        side have phases of their own: if left and right started with equal ones, a side without a
        mid would stay silent. Where the magnitude changes from frame to frame, as in noise, so does
        the phase: otherwise the same bins cancel in all frames.
        """
        sizes = sizes[:, 2:]
        phases = self.phases.to(sizes.device) + TURN * torch.log(sizes + floor)
        bins = self.window // 2 + 1
        return F.pad(swapped(torch.polar(sizes, phases)), (self.low, bins - self.high))


class Layout:
    """What the levels are of: the fields of `config.autoencoder` of the same names.

    A frame is a quarter of `window` long. Its `bands` levels are ordered by part, then by spectrum,
    by view, and by frequency.
    """

    def __init__(self, window: int, short_window: int, quietest: float) -> None:
        whole = lambda window: window // 2 + 1
        if short_window:
            ratio, low = window // short_window, round(1 / WIDTH)
            self.parts = [
                Part(window, 0, ratio * low, 1),
                Part(short_window, low, whole(short_window), ratio),
            ]
        else:
            self.parts = [Part(window, 0, whole(window), 1)]
        self.hop = window // 4  # samples of a frame
        self.bands = sum(part.bands for part in self.parts)
        self.floor = 10 ** (quietest / 20)  # the magnitude whose level is 0
        # A level above those of all audio within full scale, where a mid has at most sqrt(2).
        self.loudest = math.log(1.5 / self.floor) / NATS
        # Samples on each side that a step of the search for phases reads.
        self.reach = sum(REACH * part.hop for part in self.parts)

    def analyse(self, audio: Tensor) -> Tensor:
        """Levels [batch, frames, bands] of audio [batch, samples, 2].

        They are log-magnitudes above `quietest`, so that silence is 0. `samples` is a multiple of
        the hop.
        """
        levels = []
        for part in self.parts:
            spectra = part.spectra(audio)[..., part.low : part.high]
            share = part.filters / part.filters.sum(1, keepdim=True)
            powers = power(views(spectra)) @ share.T.to(audio.device)
            level = torch.log1p(powers / self.floor**2) / (2 * NATS)
            # [batch, views, frames * spectra, filters] -> [batch, frames, spectra, views, filters]
            levels.append(level.transpose(1, 2).unflatten(1, (-1, part.frames)).flatten(2))
        return torch.cat(levels, dim=-1)

    def synthesise(
        self, levels: Tensor, valid: Tensor, iterations: int, around: Around | None = None
    ) -> Tensor:
        """Audio [batch, samples, 2] with about these levels [batch, frames, bands].

        Padding, where `valid` [batch, frames, 1] is 0, is silent. A sample depends on the frames
        within `reach * (iterations + 2)` samples of its own. The phases continue those of the known
        audio `around`, which is part of the result.
        """
        real = valid.repeat_interleave(self.hop, dim=1)
        valids = [valid[..., 0].repeat_interleave(part.frames, dim=1) for part in self.parts]
        split = levels.split([part.bands for part in self.parts], dim=-1)
        sizes = [
            self._magnitudes(some, part) * valid[:, None, :, None]
            for some, part, valid in zip(split, self.parts, valids, strict=True)
        ]

        def keep(audio: Tensor) -> Tensor:
            audio = audio * real
            return audio if around is None else torch.where(around[1], around[0], audio)

        windows = [part.window_of(some) for part, some in zip(self.parts, valids, strict=True)]
        parts = list(zip(self.parts, sizes, windows, strict=True))

        def project(audio: Tensor) -> Tensor:
            """Gives the audio the magnitudes of each part."""
            for part, size, window in parts:
                audio = keep(part.audio(part.resized(part.spectra(audio), size), *window))
            return audio

        audio = before = keep(
            sum(part.audio(part.first(size, self.floor), *window) for part, size, window in parts)
        )
        for _ in range(iterations):
            now = project(audio)
            audio, before = now + MOMENTUM * (now - before), now
        return project(audio)

    def _magnitudes(self, levels: Tensor, part: Part) -> Tensor:
        """Magnitudes [batch, views, spectra, high - low] of a part's levels."""
        levels = levels.unflatten(-1, (part.frames, VIEWS, -1)).flatten(1, 2).transpose(1, 2)
        powers = torch.expm1(2 * NATS * (levels.clamp(min=0) @ part.filters.to(levels.device)))
        return self.floor * torch.where(powers > 1e-6, powers, 0).sqrt()
