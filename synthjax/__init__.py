"""synthjax: verified self-training, generation after generation, in JAX."""

import contextlib
import ctypes
import os
import sys
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


def keep_memory() -> None:
    """Let this process keep memory that it once had, and go on with it, until it ends.

    By default glibc gives large arrays back to the system and asks for them anew: fresh pages can
    be a fifth of the time of a transformer's training step on a CPU. A sweep of the mixture gains
    nothing and can be a tenth slower. To be called before JAX's backends are up. Other than on
    Linux with glibc, or where the user has set GLIBC_TUNABLES, nothing changes.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt") and "GLIBC_TUNABLES" not in os.environ:
        trim_threshold, mmap_max, arena_max = -1, -4, -8  # of malloc.h
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(mmap_max, 0)
        libc.mallopt(arena_max, 1)  # others than the first give theirs back all the same


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
