"""Shared by all tests: a process may not map memory without end, and every program maps some.

Compiling is most of the time that tests take. Programs are kept in a folder that goes with the
tests, for all of their processes: launchers compile the same few again and again. They are compiled
without XLA's emitters of fusions, which with JAX 0.10 takes half the time (`make test-long` and any
XLA_FLAGS of your own leave them on; later JAX knows no other way), and with little optimisation,
half the time again, but in modules marked `optimized`: what is slow to run, and what should hold of
what users run. And theory, which results carry beside them, takes as long to compile as
what it stands beside: state evolution is there in modules marked `evolution` and in processes of
the launcher alone, and modules that use `no_theory` have no population limit either; elsewhere they
are NaN.
"""

import atexit
import math
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # of xdist's processes the first makes it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="synthjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
if version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends every process
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # in launchers' processes
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # small ones add up

import jax
from bucket import served

from synthjax.mixture import dataset

MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def forget_programs():
    """XLA maps some 450 regions for a program, and Linux allows a process 65,530."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def optimized(request):
    """Programs as users have them, where the module is marked."""
    quick = not request.node.get_closest_marker("optimized")
    if quick != jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture(autouse=True, scope="module")
def no_evolution(request):
    """Results without `evolution_accuracy`, to save the time of compiling it."""
    if request.node.get_closest_marker("evolution"):
        yield
    else:
        with mock.patch.object(dataset, "evolve", lambda spec, accuracy: (accuracy, "left out")):
            yield


@pytest.fixture(scope="module")
def no_theory():
    """Results without theory."""

    def nothing(spec):
        grid = math.prod(len(values) for values in spec.sweep.values())
        nan = np.full((grid, spec.generations + 1), np.nan, np.float32)
        return dataset.Limit(nan, nan, "left out", nan, "left out")

    with mock.patch.object(dataset, "theory", nothing):
        yield


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    """A bucket that an emulator serves, for this process and those that it begins."""
    with served(tmp_path_factory.mktemp("bucket")) as bucket:
        yield bucket
