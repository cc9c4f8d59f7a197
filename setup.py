"""Packaging: the base install generates, `[train]` adds TensorFlow for the data pipeline, `[dev]` what the tests need."""

from pathlib import Path

from setuptools import find_packages, setup

TRAIN = [
    # The data pipeline runs on the CPU: the small build where there is one.
    "tensorflow-cpu>=2.18; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "tensorflow>=2.18; sys_platform != 'linux' or platform_machine != 'x86_64'",
    "tensorflow-datasets>=4.9.8",
    "array_record>=0.6",
    "importlib_resources",  # tensorflow-datasets 4.9.10 imports it without declaring it
]
TORCH = [
    "torch>=2.4"
]  # with CUDA, some 3 GB, on Linux from PyPI; the CPU build comes from PyTorch's own index

setup(
    name="jen1-jax",
    version="0.1.0",
    description="JEN-1 in JAX: text-to-music training and generation from raw 48 kHz stereo audio",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["jen1_jax*", "configs*", "data_pipeline*"]),
    entry_points={"console_scripts": ["jen1 = jen1_jax.cli:main"]},
    install_requires=[
        "jax>=0.7",
        "flax>=0.11",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "jaxtyping>=0.3",
        "ml_collections>=1.0",
        "numpy>=2.0",
        "sentencepiece>=0.2",
        "safetensors>=0.5",
        "huggingface_hub>=0.30",
        "librosa>=0.11",
        "soundfile>=0.13",
        "soxr>=0.5",
        "scipy>=1.13",
        "matplotlib>=3.9",
        "tensorboardX>=2.6",
    ],
    extras_require={
        "train": TRAIN,
        "torch": TORCH,
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "dev": [
            *TRAIN,
            *TORCH,
            "transformers>=5.0",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "beartype>=0.20",
            "ruff>=0.12",
            "build",
            "setuptools>=77",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Science/Research",
        "Topic :: Multimedia :: Sound/Audio",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
