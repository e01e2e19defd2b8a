"""Shared by all tests: a process may not map memory without end, and every program maps some."""

from pathlib import Path

import jax
import pytest

MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def forget_programs():
    """XLA maps some 450 regions for a program, and Linux allows a process 65,530."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
