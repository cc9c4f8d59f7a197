"""Small denoisers and their inputs."""

import numpy as np

from jen1_jax.unet import UNet
from tests.layers.testing import normal

FRAMES, K, TOKENS, D = 24, 3, 4, 6
CAUSAL, BIDIRECTIONAL = 0, 1  # the two examples of `batch`
SIZES = dict(out_channels=K, channels=8, head_dim=4, ff_multiplier=2, text_features=5)
UNET = UNet(**SIZES, multipliers=(1, 1, 2), factors=(2, 3), num_blocks=(1, 2), attentions=(0, 1, 0))
# Each denoiser with the digest of its parameters' names and shapes.
DENOISERS = {
    "unet": (UNET, "01eee05ed94fc8a8"),
    "unet_scan": (UNET.clone(scan=True), "d13249c7215e7cbd"),
    "unet_attention_first": (
        UNet(
            **SIZES, multipliers=(1, 2, 1), factors=(1, 4), num_blocks=(1, 1), attentions=(1, 0, 1)
        ),
        "9a2a3e5032747e49",
    ),
    "unet_null_text_self_attention": (
        UNet(
            **SIZES,
            multipliers=(1, 1, 2),
            factors=(1, 2),
            num_blocks=(1, 1),
            attentions=(1, 1, 1),
            null_text="self_attention",
        ),
        "5a670c7419f1859b",
    ),
}


def batch(frames=FRAMES, valid=None, **changed):
    """Inputs of a causal and a bidirectional example, whose first `valid` frames are real."""
    inputs = dict(
        noisy=normal(0, 2, FRAMES, K)[:, :frames],
        context=normal(1, 2, FRAMES, K)[:, :frames],
        mask=(normal(2, 2, FRAMES, 1)[:, :frames] > 0).astype(np.float32),
        log_snr=np.array([-1.0, 2.0], np.float32),
        text=normal(3, 2, TOKENS, D),
        text_lengths=np.array([2, 4], np.int32),
        valid=np.broadcast_to(
            (np.arange(frames) < (valid or frames)).astype(np.float32)[:, None], (2, frames, 1)
        ),
        causal=np.array([True, False]),
    )
    return inputs | changed
