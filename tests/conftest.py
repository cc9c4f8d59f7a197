"""Every test runs on the CPU, offline, with the array shapes in jen1_jax's signatures checked at each call."""

import os

os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_ENABLE_COMPILATION_CACHE="false",  # a kernel cached by another machine or version must not decide a result here
    TF_CPP_MIN_LOG_LEVEL="3",
    CUDA_VISIBLE_DEVICES="-1",  # keeps TensorFlow and torch off an accelerator too
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
)

from jaxtyping import install_import_hook

# Left installed for the whole session: it must come before the first import of jen1_jax.
install_import_hook("jen1_jax", "beartype.beartype")
