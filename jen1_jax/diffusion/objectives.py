"""What the network is trained to predict, and how its prediction turns back into a clean latent.

Training and sampling read the same `Objective`, so they cannot disagree. Every conversion is linear in the prediction, so guiding
the prediction guides the clean latent alike. Nothing is clipped: latents are whitened, not bounded.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jen1_jax.registry import Registry

Latents = Float[Array, "batch frames channels"]
LogSNR = Float[Array, " batch"]


def scales(
    log_snr: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """`(alpha, sigma)` of a log-SNR, with alpha^2 + sigma^2 = 1; exact at both infinities."""
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


def _per_example(log_snr: LogSNR) -> tuple[Float[Array, "batch 1 1"], Float[Array, "batch 1 1"]]:
    return scales(log_snr[:, None, None])


def corrupt(clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
    """`alpha * clean + sigma * noise`. `noise` must be standard Gaussian: sampling starts from it, and the loss assumes it."""
    alpha, sigma = _per_example(log_snr)
    return alpha * clean + sigma * noise


@runtime_checkable
class Objective(Protocol):
    """A prediction target that, together with the noisy latent, determines the clean latent."""

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents: ...
    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents: ...


class Epsilon:
    """The noise (Ho et al. 2020; JEN-1, section 3.2). `clean` divides by alpha: an error grows by sigma / alpha."""

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        return noise

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return (noisy - sigma * prediction) / alpha


class V:
    """The velocity `alpha * noise - sigma * clean` (Salimans & Ho 2022): a rotation, which divides by nothing at either end."""

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return alpha * noise - sigma * clean

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return alpha * noisy - sigma * prediction


class X0:
    """The clean latent itself. Its loss hardly counts small noise, so that all effort goes into what the music is.

    The network need not carry the noise from its input to its output either, which the others ask of it (see `make_unet`).
    """

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        return clean

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        return prediction


class FlowVelocity:
    """The flow's velocity `noise - clean` (Liu et al. 2022), of latents scaled to unit variance as everywhere here.

    Rectified flow walks the line `(1 - t) * clean + t * noise`, which is the noisy latent divided by alpha + sigma.
    """

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        return noise - clean

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return (noisy - sigma * prediction) / (alpha + sigma)


OBJECTIVES = Registry(
    "objective", {"epsilon": Epsilon(), "v": V(), "x0": X0(), "rectified_flow": FlowVelocity()}
)


def convert(
    prediction: Latents, noisy: Latents, log_snr: LogSNR, source: Objective, target: Objective
) -> Latents:
    """A prediction made for `source` as one for `target`: the same clean latent and the same noise. Needs a finite log-SNR."""
    alpha, sigma = _per_example(log_snr)
    clean = source.clean(prediction, noisy, log_snr)
    return target.target(clean, (noisy - alpha * clean) / sigma, log_snr)


def min_snr_weight(objective: Objective, log_snr: LogSNR, gamma: float) -> LogSNR:
    """Weight of an example's loss that counts the clean latent's squared error by min(SNR, gamma) (Hang et al. 2023).

    What an error of the prediction does to the clean latent follows from the objective itself, which is linear in it.
    """
    one = jnp.ones((*log_snr.shape, 1, 1))
    slope = objective.clean(one, 0 * one, log_snr)[:, 0, 0]
    return jnp.minimum(jnp.exp(log_snr), gamma) * slope**2


def loss_per_frame(
    objective: Objective, prediction: Latents, clean: Latents, noise: Latents, log_snr: LogSNR
) -> Float[Array, "batch frames"]:
    """Squared error against the objective's target, averaged over channels; masks, weights and sums are the training step's."""
    return jnp.mean((prediction - objective.target(clean, noise, log_snr)) ** 2, axis=-1)
