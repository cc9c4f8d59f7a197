"""TensorFlow, set up to print little and to leave the accelerator to JAX.

The other modules import it from here.
"""

import contextlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN is of no use in a data pipeline, and prints to stderr.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Without this, TensorFlow imports Keras, which takes 4 s and is not used.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# PyTorch's Triton crashes if it is imported after TensorFlow, whose LLVM conflicts with its own.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

import tensorflow as tf
import tensorflow_datasets as tfds

tf.config.set_visible_devices([], "GPU")

__all__ = ["tf", "tfds"]
