"""All tests run on the CPU and offline.

The array shapes in the signatures of jen1_jax and jen1_numpy are checked at each call.
"""

import atexit
import os
import shutil
import tempfile

# The processes of one test run share a compilation cache, in a new folder: programs that another
# machine or version has compiled must not be used. Workers and started programs inherit its path.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jen1-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Compiling takes most of the time of the tests, so it is made fast and the programs are slow.
# tests/test_learning.py runs long programs and does not use these flags.
os.environ.update(
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    JAX_ENABLE_COMPILATION_CACHE="true",
    TF_CPP_MIN_LOG_LEVEL="3",
    CUDA_VISIBLE_DEVICES="-1",  # keeps TensorFlow and torch off an accelerator too
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    NO_GCE_CHECK="true",  # Google's libraries look for no credentials on the network,
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",  # nor for the kind of a bucket
)

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook finds it as a loaded module)

# Installed before the first import of these packages, for the whole session.
install_import_hook(["jen1_jax", "jen1_numpy"], "tests.typecheck.check")

import pytest  # noqa: E402  (after the hook)


def pytest_collection_modifyitems(items):
    """Marks all tests that need a trained run as slow."""
    for item in items:
        if "tiny_run" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A run with both models trained for a few steps; tests must not write into its folder."""
    from jen1_jax.models.run import Run
    from jen1_jax.training.autoencoder import train_autoencoder
    from jen1_jax.training.diffusion import train_diffusion
    from jen1_jax.training.npz import NpzData
    from tests import tiny

    folder = tmp_path_factory.mktemp("tiny")
    run, config = Run(folder / "run"), tiny.config()
    audio = str(tiny.write_audio_npz(folder / "audio.npz"))
    train_autoencoder(config, run, NpzData(audio, 4, seed=0, crop=3072), progress=lambda text: None)
    train_diffusion(config, run, NpzData(audio, 6, seed=0), progress=lambda text: None)
    return run.path


@pytest.fixture(scope="session")
def tiny_model(tiny_run):
    """The loaded tiny run, which generates noise in little time."""
    import jen1_jax

    return jen1_jax.load(tiny_run)
