"""How a sweep is cut up: groups that share a program, chunks that are saved, tiles that run.

- A *group* is the part of the grid that one compiled program (and one base seed) serves.
- A *chunk* is a rectangle of a group, grid points × trajectories, with the work of a few seconds:
  what is computed, saved and resumed as a whole. Its size depends on the spec and on the recorded
  work of a chunk alone.
- A *tile* is the part of a chunk that a device works on at one time: a few grid points, which
  share their features, and as many trajectories as fit the memory budget. On a CPU it is kept to
  the size of a cache, which is faster than any larger batch.

None of this changes a result beyond rounding.
"""

import math
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from synthjax.mixture.data import Numbers
from synthjax.mixture.spec import Spec
from synthjax.mixture.trajectory import Static
from synthjax.protocol.spec import SpecError, combinations

# Features drawn by one chunk, in numbers, per device: least and most. Some seconds of work at most
# (a stop waits for it), and within that about CHUNKS of them in a sweep (each is a folder).
CHUNK_WORK = {"cpu": (2**27, 2**30), "gpu": (2**33, 2**37), "tpu": (2**33, 2**37)}
CHUNKS = 64
# Features in a CPU tile, in numbers: about the cache that a core has to itself.
CPU_TILE = 2**19
# Grid points that share a draw of the features. More would save little and cost memory.
TILE_POINTS = 8
# Arrays of the size of the features that a tile holds at most, with those that draw them.
COPIES = 9
# Vectors over the examples (labels, margins and the like) that a grid point holds at most, and half
# as many as it holds over the features.
VECTORS = 24
# What putting labelled results together needs, as a multiple of the records.
ASSEMBLY = 5


class Group(NamedTuple):
    """Grid points that share shapes, kinds and base seed.

    Fields: `where` are flat indices into the grid; `swept` names the numbers that vary, `numbers`
    holds them all, a vector over `where` where swept and a scalar where not.
    """

    static: Static
    seed: int
    where: np.ndarray
    swept: tuple[str, ...]
    numbers: Numbers


class Chunk(NamedTuple):
    """A rectangle of a group, grid points × trajectories."""

    group: int
    points: slice
    trajectories: slice

    @property
    def shape(self) -> tuple[int, int]:
        """How many grid points and how many trajectories."""
        points, trajectories = self.points, self.trajectories
        return points.stop - points.start, trajectories.stop - trajectories.start


class Tile(NamedTuple):
    """Grid points and trajectories that a device holds at one time.

    `count` tiles, a multiple of `devices`, cover any chunk of the group.
    """

    points: int
    trajectories: int
    count: int
    devices: int


def groups(spec: Spec) -> list[Group]:
    """The groups of a sweep, in grid order."""
    swept = tuple(name for name in spec.sweep if name in Numbers._fields)
    fixed = [name for name in spec.sweep if name not in swept]
    shape = tuple(len(values) for values in spec.sweep.values())
    grid = np.arange(math.prod(shape)).reshape(shape)
    mesh = np.meshgrid(*(spec.sweep[name] for name in swept), indexing="ij")
    vectors = {name: values.ravel() for name, values in zip(swept, mesh, strict=True)}
    numbers = Numbers(
        *(np.float32(vectors.get(name, getattr(spec, name))) for name in Numbers._fields)
    )
    result = []
    for values in combinations(spec, fixed):
        at = tuple(
            spec.sweep[name].index(values[name]) if name in values else slice(None)
            for name in spec.sweep
        )
        static = Static(*(values.get(name, getattr(spec, name)) for name in Static._fields))
        where = np.asarray(grid[at]).ravel()
        result.append(Group(static, values.get("seed", spec.seed), where, swept, numbers))
    return result


def chunks(spec: Spec, work: int) -> Iterator[Chunk]:
    """The chunks of a sweep in order; `work` is the number of features that one may draw."""
    for index, group in enumerate(groups(spec)):
        static, points = group.static, len(group.where)
        # Pairs of a grid point and a trajectory that a chunk has room for.
        pairs = max(1, work // (static.n * static.d * static.generations))
        block = min(points, TILE_POINTS)
        if spec.trajectories * block > pairs:
            columns = _even(spec.trajectories, max(1, pairs // block))
            rows = _even(points, block)
        else:
            columns = [slice(0, spec.trajectories)]
            rows = _even(points, pairs // (spec.trajectories * block) * block)
        for row in rows:
            for column in columns:
                yield Chunk(index, row, column)


def _even(total: int, size: int) -> list[slice]:
    """range(total) in as few parts of at most `size` as will do, all of nearly one length."""
    parts = -(-total // size)
    edges = [total * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def bytes_of(static: Static, swept: tuple[str, ...], points: int) -> int:
    """Upper estimate of the memory for a tile of one trajectory at some grid points, in bytes."""
    n = max(static.n, static.n_real * (static.initial == "real"))
    # Where the signal is swept every grid point has features of its own.
    features = COPIES * n * static.d * (points if "signal" in swept else 1)
    classifiers = static.d * (static.generations + 1) * static.keep_classifiers
    vectors = VECTORS * n + 2 * VECTORS * static.d  # L-BFGS remembers some
    return 4 * (features + points * (vectors + classifiers))


def tile(spec: Spec, group: Group, shape: tuple[int, int], platform: str, devices: int) -> Tile:
    """The tile for chunks of up to `shape`: as large as is fast within the memory budget.

    Where the budget is too small for every device to have one, fewer devices work. Raises SpecError
    where not even one trajectory fits.
    """
    static, budget = group.static, spec.memory_gb * 2**30
    one = bytes_of(static, group.swept, 1)
    if one > budget:
        raise SpecError(
            "memory_gb",
            spec.memory_gb,
            f"must be at least {1.005 * one / 2**30:.3g}: one trajectory at n={static.n}, "
            f"d={static.d} needs that",
        )
    devices = min(devices, int(budget // one))
    points = min(shape[0], TILE_POINTS)
    while points > 1 and (
        bytes_of(static, group.swept, points) * devices > budget
        or -(-shape[0] // points) * shape[1] < devices
    ):
        points //= 2
    most = int(budget // devices // bytes_of(static, group.swept, points))
    if platform == "cpu":
        most = min(most, max(1, CPU_TILE // (static.n * static.d)))
    blocks = -(-shape[0] // points)
    # No larger than lets every device have a tile.
    most = min(most, max(1, shape[1] * blocks // devices))
    parts = -(-shape[1] // most)
    count = -(-blocks * parts // devices) * devices
    return Tile(points, -(-shape[1] // parts), count, devices)


def result_bytes(spec: Spec) -> int:
    """Memory for the records of a whole sweep: nine numbers a generation, and the classifiers."""
    grid = math.prod(len(values) for values in spec.sweep.values())
    numbers = 9 + spec.d * spec.keep_classifiers
    return 4 * grid * spec.trajectories * (spec.generations + 1) * numbers


def chunk_work(spec: Spec, platform: str, devices: int) -> int:
    """Features that a chunk of this sweep may draw on these devices."""
    least, most = CHUNK_WORK.get(platform, CHUNK_WORK["gpu"])
    drawn = sum(
        group.static.n * group.static.d * spec.generations * spec.trajectories * len(group.where)
        for group in groups(spec)
    )
    return min(max(drawn // CHUNKS, least * devices), most * devices)


def layout(
    spec: Spec, work: int, platform: str, devices: int
) -> tuple[list[Group], list[Chunk], list[Tile]]:
    """Groups, chunks of `work`, and the tile of every group.

    A tile is fitted to the group's largest chunk, so that a group compiles once. Raises SpecError
    where memory is too small for a trajectory, or the machine's for the results.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if ASSEMBLY * result_bytes(spec) > memory:
        raise SpecError(
            "trajectories",
            spec.trajectories,
            f"with this sweep the results take {result_bytes(spec) / 2**30:.3g} GiB, and "
            f"{ASSEMBLY} times that while they are put together; this machine has "
            f"{memory / 2**30:.3g}: take fewer trajectories or generations or a smaller sweep",
        )
    parts, cuts = groups(spec), list(chunks(spec, work))
    shapes = [np.array([c.shape for c in cuts if c.group == g]) for g in range(len(parts))]
    largest = [tuple(shape.max(axis=0).tolist()) for shape in shapes]
    fitted = [tile(spec, *pair, platform, devices) for pair in zip(parts, largest, strict=True)]
    return parts, cuts, fitted
