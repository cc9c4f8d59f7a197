"""The interface between a denoising network and its users: training, sampling and checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, PyTree


@runtime_checkable
class Denoiser(Protocol):
    """A Flax module that predicts what the diffusion objective asks for, from noisy latents.

    `jen1_jax.unet.UNet` is one; tests/models/test_denoiser.py tests what is stated here. The names
    and shapes of the parameters are the format of checkpoints.
    """

    @property
    def out_channels(self) -> int:
        """Channels of the latents: k."""

    @property
    def frames_multiple(self) -> int:
        """Windows begin at multiples of this many frames; no window is shorter."""

    @property
    def conditioning(self) -> Sequence[str]:
        """Names of the conditioners whose vectors it must be given (see jen1_jax/conditioning)."""

    def __call__(
        self,
        noisy: Float[Array, "batch frames k"],
        context: Float[Array, "batch frames k"],
        mask: Float[Array, "batch frames 1"],
        log_snr: Float[Array, " batch"],
        text: Float[Array, "batch tokens text_features"],
        text_lengths: Int[Array, " batch"],
        valid: Float[Array, "batch frames 1"],
        causal: Bool[Array, " batch"],
        conditioning: Mapping[str, Float[Array, "batch _"]] | None = None,
    ) -> Float[Array, "batch frames k"]:
        """The prediction: float32, zero on padding, for any number of frames.

        `context` holds the given latents where `mask` is 1 and zeros elsewhere. `log_snr` is the
        noise level, clipped to [-20, 20]. Only the first `text_lengths` tokens of `text` are read;
        an example may have none. `valid` is 1 on real frames and 0 on padding, which follows them.
        `conditioning` holds one vector per example and name.

        An example's output does not depend on its padding or on other examples; where `causal`,
        a frame's output does not depend on later frames.
        """

    def init(self, rngs: Array, *inputs) -> PyTree:
        """Flax's: {"params": the initial parameters} for the inputs of `__call__`."""

    def apply(self, variables: PyTree, *inputs) -> Float[Array, "batch frames k"]:
        """Flax's: the result of `__call__` with the parameters {"params": ...}."""
