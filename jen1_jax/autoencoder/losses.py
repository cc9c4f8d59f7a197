"""Reconstruction losses: pure functions that give one mean per example.

`valid` counts the real samples of each example; the padding behind them does not count, and an
example without any has a loss of 0. All arithmetic is float32, and every gradient is finite on
silence.
"""

import jax.numpy as jnp
import librosa
from jaxtyping import Array, Bool, Complex, Float, Int

Loss = Float[Array, " batch"]
FLOOR = 1e-4  # magnitude of -80 dB re full scale, below which a spectral difference does not count
QUIET = 1e-2  # RMS of -40 dB re full scale


def keep_valid(
    audio: Float[Array, "batch samples channels"], valid: Int[Array, " batch"]
) -> Float[Array, "batch samples channels"]:
    """`audio` with everything after each example's `valid` samples set to zero."""
    return audio * (jnp.arange(audio.shape[1]) < valid[:, None])[..., None]


def views(stereo: Array, axis: int) -> Array:
    """Left, right, mid and side along `axis`, which holds left and right; the energy is kept."""
    left, right = jnp.moveaxis(stereo, axis, 0)
    return jnp.stack(
        [left, right, (left + right) / jnp.sqrt(2.0), (left - right) / jnp.sqrt(2.0)], axis=axis
    )


def waveform(
    prediction: Float[Array, "batch samples 2"],
    target: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
) -> Loss:
    """Mean absolute error of left, right, mid and side, divided by the RMS of the example.

    An example quieter than `QUIET` is weighted as if it were that loud. Without that limit, one
    crop of a fade-in dominates its batch, and the network learns silence.
    """
    error = jnp.abs(views(keep_valid(prediction - target, valid), axis=2)).mean(2).sum(1)
    count = valid.astype(jnp.float32)
    power = jnp.square(keep_valid(target, valid)).mean(-1).sum(1) / jnp.maximum(count, 1)
    return error / jnp.maximum(count, 1) / jnp.sqrt(jnp.maximum(power, QUIET**2))


def stft(
    audio: Float[Array, "batch samples channels"], window: int
) -> Complex[Array, "batch channels frames bins"]:
    """Spectra of Hann windows of `window` samples, a quarter of it apart, from sample 0 on.

    A full-scale sine has the magnitude 0.5.
    """
    hop = window // 4
    samples = audio.shape[1]
    frames = -(-samples // hop)
    x = jnp.pad(audio, ((0, 0), (0, (frames + 3) * hop - samples), (0, 0))).swapaxes(1, 2)
    x = x.reshape(*x.shape[:2], frames + 3, hop)
    # four shifted views instead of a gather: its gradient is four additions
    x = jnp.concatenate([x[:, :, i : i + frames] for i in range(4)], axis=-1)
    return jnp.fft.rfft(x * (hann(window) / hann(window).sum()))


def hann(window: int) -> Float[Array, " {window}"]:
    """The periodic Hann window."""
    return 0.5 - 0.5 * jnp.cos(2 * jnp.pi * jnp.arange(window) / window)


def magnitudes(
    audio: Float[Array, "batch samples 2"], window: int
) -> Float[Array, "batch views frames bins"]:
    """STFT magnitudes of left, right, mid and side.

    The spectra of mid and side are sums of the others', which saves half of the transforms.
    """
    spectra = views(stft(audio, window), axis=1)
    return jnp.sqrt(spectra.real**2 + spectra.imag**2 + FLOOR**2)


def _real_frames(
    frames: int, window: int, valid: Int[Array, " batch"]
) -> Bool[Array, "batch 1 frames 1"]:
    """The frames that start at a real sample."""
    return (jnp.arange(frames) * (window // 4) < valid[:, None])[:, None, :, None]


def multi_resolution_stft(
    prediction: Float[Array, "batch samples 2"],
    target: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
    windows: tuple[int, ...],
) -> Loss:
    """Spectral convergence plus mean log-magnitude distance, averaged over window lengths.

    After Yamamoto et al. 2020, on left, right, mid and side: with left and right alone the stereo
    image collapses (Steinmetz et al. 2020).
    """
    prediction, target = (keep_valid(x.astype(jnp.float32), valid) for x in (prediction, target))
    total = jnp.zeros(valid.shape)
    for window in windows:
        p, t = magnitudes(prediction, window), magnitudes(target, window)
        real = _real_frames(p.shape[2], window, valid)
        norm = lambda x, real=real: jnp.sqrt(jnp.sum(real * x**2, (1, 2, 3)) + FLOOR**2)
        total += (norm(p - t) - FLOOR) / norm(t)
        entries = jnp.maximum(real.sum((1, 2, 3)), 1) * (p.shape[1] * p.shape[3])
        total += jnp.sum(real * jnp.abs(jnp.log(p) - jnp.log(t)), (1, 2, 3)) / entries
    return total / len(windows) * (valid > 0)


def mel(
    prediction: Float[Array, "batch samples 2"],
    target: Float[Array, "batch samples 2"],
    valid: Int[Array, " batch"],
    windows: tuple[int, ...],
    sample_rate: int,
) -> Loss:
    """Mean absolute difference of log-mel magnitudes, in nats, averaged over window lengths.

    Of left, right, mid and side. A window of n samples has n / 16 bands (Slaney's scale), about as
    many per octave as hearing can distinguish.
    """
    prediction, target = (keep_valid(x.astype(jnp.float32), valid) for x in (prediction, target))
    total = jnp.zeros(valid.shape)
    for window in windows:
        bands = jnp.asarray(
            librosa.filters.mel(
                sr=sample_rate, n_fft=window, n_mels=max(window // 16, 1), norm=None
            ).T
        )
        p, t = (
            jnp.log(jnp.matmul(magnitudes(x, window), bands, precision="highest") + FLOOR)
            for x in (prediction, target)
        )
        real = _real_frames(p.shape[2], window, valid)
        entries = jnp.maximum(real.sum((1, 2, 3)), 1) * (p.shape[1] * p.shape[3])
        total += jnp.sum(real * jnp.abs(p - t), (1, 2, 3)) / entries
    return total / len(windows) * (valid > 0)


def kl(latents: Float[Array, "batch frames channels"], valid_frames: Int[Array, " batch"]) -> Loss:
    """KL divergence of each latent channel's distribution over an example's frames from N(0, 1).

    In nats per channel, of a normal distribution with the example's own mean and variance, since
    the encoder is deterministic. The loss limits the scale of latents without whitening.
    """
    real = (jnp.arange(latents.shape[1]) < valid_frames[:, None])[..., None]
    frames = jnp.maximum(valid_frames, 1)[:, None]
    mean = jnp.sum(latents * real, 1) / frames
    variance = jnp.sum(jnp.square(latents - mean[:, None]) * real, 1) / frames
    divergence = 0.5 * jnp.mean(mean**2 + variance - 1 - jnp.log(variance + FLOOR**2), axis=-1)
    return divergence * (valid_frames > 0)
