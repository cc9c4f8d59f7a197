"""What the network is trained to predict, and how a prediction becomes clean latents.

Training and sampling use the same `Objective`, so that they agree. Every conversion is linear in
the prediction, so that guidance of the prediction equals guidance of the clean latents. Nothing is
clipped: latents are whitened, not bounded.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jen1_numpy.registry import Registry

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
    """`alpha * clean + sigma * noise`.

    `noise` must be standard Gaussian, as the noise from which sampling starts.
    """
    alpha, sigma = _per_example(log_snr)
    return alpha * clean + sigma * noise


@runtime_checkable
class Objective(Protocol):
    """A target of prediction that determines the clean latents, together with the noisy ones."""

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents: ...
    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents: ...


class Epsilon:
    """The noise (Ho et al. 2020; JEN-1, section 3.2).

    `clean` divides by alpha, which multiplies an error by sigma / alpha.
    """

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        return noise

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return (noisy - sigma * prediction) / alpha


class V:
    """The velocity `alpha * noise - sigma * clean` (Salimans & Ho 2022).

    It is a rotation, which needs no division at either end.
    """

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return alpha * noise - sigma * clean

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return alpha * noisy - sigma * prediction


class X0:
    """The clean latents themselves.

    The loss is small at low noise, so that the network learns what the music is rather than its
    details. The network need not carry the noise from its input to its output, as it must for the
    other objectives (see `make_unet`).
    """

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        return clean

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        return prediction


class FlowVelocity:
    """The flow's velocity `noise - clean` (Liu et al. 2022).

    Rectified flow uses `(1 - t) * clean + t * noise`, which equals the noisy latents of this module
    divided by alpha + sigma.
    """

    def target(self, clean: Latents, noise: Latents, log_snr: LogSNR) -> Latents:
        return noise - clean

    def clean(self, prediction: Latents, noisy: Latents, log_snr: LogSNR) -> Latents:
        alpha, sigma = _per_example(log_snr)
        return (noisy - sigma * prediction) / (alpha + sigma)


OBJECTIVES = Registry(
    "objective", {"epsilon": Epsilon(), "v": V(), "x0": X0(), "rectified_flow": FlowVelocity()}
)


def min_snr_weight(objective: Objective, log_snr: LogSNR, gamma: float) -> LogSNR:
    """The weight of an example's loss by which clean latents' errors count min(SNR, gamma).

    After Hang et al. 2023. The objective is linear in the prediction: its slope says how an error
    of the prediction changes the clean latents.
    """
    one = jnp.ones((*log_snr.shape, 1, 1))
    slope = objective.clean(one, 0 * one, log_snr)[:, 0, 0]
    return jnp.minimum(jnp.exp(log_snr), gamma) * slope**2


def loss_per_frame(
    objective: Objective, prediction: Latents, clean: Latents, noise: Latents, log_snr: LogSNR
) -> Float[Array, "batch frames"]:
    """Squared error against the objective's target, averaged over channels."""
    return jnp.mean((prediction - objective.target(clean, noise, log_snr)) ** 2, axis=-1)
