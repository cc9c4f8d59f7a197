"""The one place TensorFlow comes from: quiet, and with its hands off the accelerator, which belongs to JAX."""

import contextlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "0"
)  # no use in a data pipeline, and it announces itself on stderr
os.environ.setdefault(
    "TF_USE_LEGACY_KERAS", "1"
)  # leaves Keras out, which nothing here uses: 4 s of importing

with contextlib.suppress(ImportError):
    import triton  # noqa: F401  (PyTorch's, for CUDA: imported after TensorFlow, whose LLVM it then meets, it crashes Python)

import tensorflow as tf
import tensorflow_datasets as tfds

tf.config.set_visible_devices([], "GPU")

__all__ = ["tf", "tfds"]
