"""Every test runs on the CPU, offline, with the array shapes in jen1_jax's signatures checked at each call."""

import atexit
import os
import shutil
import tempfile

# What one process compiles the others load, in a folder of this run alone: what another machine or version compiled must not
# decide a result here. Workers and programs that tests start find it in their environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jen1-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Compiling takes most of the time here, and little of what is compiled runs for long (tests/test_learning.py does without).
os.environ.update(
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    JAX_ENABLE_COMPILATION_CACHE="true",
    TF_CPP_MIN_LOG_LEVEL="3",
    CUDA_VISIBLE_DEVICES="-1",  # keeps TensorFlow and torch off an accelerator too
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
)

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook finds it as a loaded module)

# Left installed for the whole session: it must come before the first import of jen1_jax.
install_import_hook("jen1_jax", "tests.typecheck.check")

import pytest  # noqa: E402  (after the hook)


def pytest_collection_modifyitems(items):
    """What needs a trained run is slow."""
    for item in items:
        if "tiny_run" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A run folder with both halves trained for a few steps; read it, do not write it."""
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
    """The loaded tiny run: it makes noise, quickly."""
    import jen1_jax

    return jen1_jax.load(tiny_run)
