"""Model FLOPs utilisation: what share of a device's arithmetic the training uses.

A training step counts as three forward passes, without what rematerialisation computes again
(Chowdhery et al. 2022, appendix B), relative to the peak of all devices in bfloat16.
"""

from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from jen1_jax.chips import CHIPS
from jen1_jax.flops import flops
from jen1_jax.training.step import Trainable, TrainState

# Dense bfloat16 operations per second of one device, by the start of its `device_kind`; from the
# vendors' data sheets. The first entry that fits counts.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6": CHIPS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


class Utilisation:
    """Counts the operations of a step; for devices without a known peak there are no figures.

    `peak` is that of all devices in bfloat16 operations per second, 0 where it is not known.
    """

    def __init__(self, mesh: Mesh):
        kind = mesh.devices.flat[0].device_kind
        peak = next((peak for name, peak in PEAKS.items() if kind.startswith(name)), 0.0)
        self.peak, self._operations = mesh.size * peak, 0

    def count(
        self,
        trainables: Mapping[str, Trainable],
        draw: Callable,
        state: TrainState,
        batch: PyTree,
        frozen: PyTree,
    ) -> None:
        """Counts a step on `batch`; the arrays may be shapes.

        Frozen networks and parameters, and what two trainables share, are not computed three times.
        With them the operations are not known, and there is no MFU.
        """
        (one, *more) = trainables.values()
        if self.peak and frozen is None and not more and not one.trained:
            drawn = jax.eval_shape(draw, jax.random.key(0), state.step, batch)
            self._operations = 3 * flops(one.losses, state.params, drawn, None)

    def figures(self, steps_per_second: float) -> dict[str, float]:
        if not self._operations:
            return {}
        return {"mfu": self._operations * steps_per_second / self.peak}
