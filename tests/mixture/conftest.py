"""How parts are tested one by one, beside whole sweeps."""

import jax
import pytest
from own_parts import own_parts


@pytest.fixture(scope="module")
def with_own_parts():
    """Parts of a user's own in the registries."""
    with own_parts():
        yield


@pytest.fixture
def threefry_as_in_trajectories():
    """Of random numbers threefry has two forms; in the other one any draw would be one by rows."""
    with jax.threefry_partitionable(False):
        yield
