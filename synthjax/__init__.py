"""synthjax: verified self-training, generation after generation, in JAX."""

import contextlib
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host() -> jax.Device:
    """The CPU, which small work in long loops is for, unless JAX was told to leave it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def gathered(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """All of an array in every process."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def shared(compute: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """Rows number 0 to count − 1, of which each process computes a part and all get all.

    `compute` is given the numbers of a part and returns an array with as many rows.
    """
    size = -(-count // jax.process_count())
    part = compute(np.minimum(np.arange(size) + jax.process_index() * size, count - 1))
    if jax.process_count() == 1:
        return part
    return multihost_utils.process_allgather(part, tiled=True)[:count]


def _one_cpu_device_per_core() -> None:
    """Let XLA use every core: trajectories are sharded over devices, and a CPU is one by default.

    Only where the user has not chosen a number and JAX's backends are not up yet (then JAX refuses
    the change and the process keeps what it has).
    """
    chosen = jax.config.jax_num_cpu_devices != -1 or (
        "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    )
    if not chosen:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores())


_one_cpu_device_per_core()
