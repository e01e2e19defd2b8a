"""Shared by all tests: a process may not map memory without end, and every program maps some.

State evolution, which results carry beside them, compiles for seconds with every combination of
kinds. Only modules marked `evolution` and processes of the launcher have it; elsewhere it is NaN.
"""

from pathlib import Path
from unittest import mock

import jax
import pytest

from synthjax.mixture import dataset

MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def forget_programs():
    """XLA maps some 450 regions for a program, and Linux allows a process 65,530."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def no_evolution(request):
    """Results without `evolution_accuracy`, to save the time of compiling it."""
    if request.node.get_closest_marker("evolution"):
        yield
    else:
        with mock.patch.object(dataset, "evolve", lambda spec, accuracy: (accuracy, "left out")):
            yield
