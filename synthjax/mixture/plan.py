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

from synthjax.mixture import matrix_free
from synthjax.mixture.covariance import dense
from synthjax.mixture.data import Numbers
from synthjax.mixture.engine import resolved
from synthjax.mixture.spec import Spec, reads
from synthjax.mixture.trajectory import Record, Static
from synthjax.protocol.keys import BLOCK
from synthjax.protocol.regime import REGIMES
from synthjax.protocol.spec import SpecError, combinations, fields_of

# Features drawn by one chunk, in numbers, per device: least and most. Some seconds of work at most
# (a stop waits for it), and within that about CHUNKS of them in a sweep (each is a folder).
CHUNK_WORK = {"cpu": (2**27, 2**30), "gpu": (2**33, 2**37), "tpu": (2**33, 2**37)}
CHUNKS = 64
# Features in a CPU tile, in numbers: about the cache that a core has to itself.
CPU_TILE = 2**19
# A step of the loop over the columns of a band costs a CPU tile as much as drawing this many
# examples, however many trajectories share it; past four of them leaving the cache costs more.
BAND_STEP, BAND_TILE = 200, 4
# Grid points that share a draw of the features. More would save little and cost memory.
TILE_POINTS = 8
# Of time, what a tile may take that is larger than the one of the least.
IDLE = 1.03
# Fields of the spec that a static takes the kind of.
KINDS = {
    name: field.metadata["kinds"]
    for name, field in fields_of(Spec).items()
    if name in Static._fields and field.metadata["kinds"] is not None
}
# Numbers of examples and guesses: arrays are as long as the largest of a group, whose values lie
# within a power of two of each other, or up to the power given here.
SIZES = {"n": 6, "n_real": 6, "k": 3}
# Numbers that change the features, which grid points share otherwise.
OWN_FEATURES = {"signal", "covariance_decay"}
# Arrays of the size of the features that a tile holds at most, with those that draw them.
COPIES = 9
# Arrays of the size of the past, or of a sample drawn from it, that a tile holds at most.
PAST_COPIES = 2
# Vectors over the examples (labels, margins and the like) that a grid point holds at most, and half
# as many as it holds over the features.
VECTORS = 24
# Vectors over all guesses for the examples, or over the past, from which some are selected.
GUESSES = 8
# Numbers that the ridge band of the matrix-free engine draws and holds for a feature it leaves out.
BAND = 24
# Records of a generation that a grid point holds twice over.
RECORDS = 4
# What putting labelled results together needs, as a multiple of the records.
ASSEMBLY = 5


class Group(NamedTuple):
    """Grid points that share a program and base seed, and lack the same trajectories.

    Fields: `where` are flat indices into the grid; `swept` names the numbers that vary, `numbers`
    holds them all, a vector over `where` where swept and a scalar where not; `trajectories` are
    those to run; `kinds` names the kinds that `static` holds.
    """

    static: Static
    kinds: dict[str, str]
    seed: int
    where: np.ndarray
    swept: tuple[str, ...]
    numbers: Numbers
    trajectories: range


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


def groups(spec: Spec, before: Spec | None = None) -> list[Group]:
    """The groups of a sweep, in grid order; those that a run of `before` leaves to do, if given."""
    swept = tuple(name for name in spec.sweep if name in Numbers._fields)
    fixed = [name for name in spec.sweep if name not in swept]
    shape = tuple(len(values) for values in spec.sweep.values())
    grid = np.arange(math.prod(shape)).reshape(shape)
    mesh = np.meshgrid(*(spec.sweep[name] for name in swept), indexing="ij")
    vectors = {name: values.ravel() for name, values in zip(swept, mesh, strict=True)}
    done = np.zeros(grid.size, bool)
    if before is not None:
        done[within(before, spec)] = True
    result = []
    for values in combinations(spec, fixed):
        at = tuple(
            spec.sweep[name].index(values[name]) if name in values else slice(None)
            for name in spec.sweep
        )
        where = np.asarray(grid[at]).ravel()
        point = {name: values.get(name, getattr(spec, name)) for name in fields_of(spec)}
        kinds = {name: point[name] for name in KINDS}
        read = reads(kinds)
        l2 = np.broadcast_to(vectors.get("l2", spec.l2), where.shape)
        engines = np.array([resolved(spec.engine, point | {"l2": value}) for value in l2])
        sizes = {
            name: np.broadcast_to(vectors.get(name, getattr(spec, name)), where.shape)
            for name in SIZES
            if name in read
        }
        for inside in _alike(sizes, engines):
            [engine] = {*engines[inside]}
            frame, columns = 0, point["d"]
            replayed = engine == "matrix_free" and REGIMES[kinds["regime"]].call.past
            if engine == "state_evolution":
                frame, columns, replayed = 3, 3, True
            if engine == "matrix_free":
                frame = matrix_free.frame(kinds)
                fits = spec.generations + 1
                columns = frame + matrix_free.room(kinds, l2[inside].min(), point["d"], fits)
            for part, trajectories, first in _todo(
                spec, before, inside & done[where], inside, replayed
            ):
                longest = {name: int(size[part].max()) for name, size in sizes.items()}
                static = Static(
                    **{
                        name: KINDS[name][kind]
                        for name, kind in (kinds | {"engine": engine}).items()
                    },
                    n=_rows(longest["n"]),
                    d=point["d"],
                    columns=columns,
                    frame=frame,
                    names=tuple(kinds.items()),
                    n_real=_rows(longest.get("n_real", 1)),
                    k=longest.get("k", 1),
                    first=first,
                    generations=spec.generations,
                    keep_classifiers=spec.keep_classifiers,
                )
                numbers = Numbers(
                    *(
                        np.asarray(
                            vectors[name][part] if name in swept else getattr(spec, name),
                            np.int32 if name in SIZES else np.float32,
                        )
                        for name in Numbers._fields
                    )
                )
                group = static, kinds, point["seed"], where[part], swept, numbers, trajectories
                result.append(Group(*group))
    return result


def _alike(sizes: dict[str, np.ndarray], engines: np.ndarray) -> Iterator[np.ndarray]:
    """Masks over the points, of those of an engine with sizes within the same powers of two."""
    powers = np.zeros((len(engines), len(sizes) + 1), int)
    for i, (name, size) in enumerate(sizes.items()):
        powers[:, i] = np.maximum(np.frexp(size - 1.0)[1], SIZES[name])
    powers[:, -1] = np.unique(engines, return_inverse=True)[1]
    for power in np.unique(powers, axis=0):
        yield (powers == power).all(1)


def _rows(n: int) -> int:
    """Length of an array for n rows: a whole number of blocks that share a key."""
    return -(-n // BLOCK) * BLOCK


def _todo(
    spec: Spec, before: Spec | None, old: np.ndarray, inside: np.ndarray, replayed: bool
) -> Iterator[tuple]:
    """(which points, trajectories, first generation) of what is to do at the points `inside`."""
    every, new = range(spec.trajectories), inside & ~old
    if new.any():
        yield new, every, 1
    if old.any():
        if spec.trajectories > before.trajectories:
            yield old, every[before.trajectories :], 1
        if spec.generations > before.generations:
            yield old, every[: before.trajectories], 1 if replayed else before.generations + 1


def within(small: Spec, large: Spec) -> np.ndarray | None:
    """For every grid point of a spec its flat index in another's grid; None if any is not there.

    Specs agree in all but their sweeps and how often and how long they run, or there is no such
    index.
    """
    names = [name for name in fields_of(large) if name in {**small.sweep, **large.sweep}]
    free = {"sweep", "trajectories", "generations", "memory_gb", *names}
    if any(getattr(small, name) != getattr(large, name) for name in {*fields_of(small)} - free):
        return None
    index = {tuple(point.values()): i for i, point in enumerate(combinations(large, names))}
    found = [index.get(tuple(point.values())) for point in combinations(small, names)]
    return None if None in found else np.array(found)


def extends(large: Spec, small: Spec) -> bool:
    """Whether a run of `small` can go on as one of `large`: nothing of it is lost."""
    return (
        large.trajectories >= small.trajectories
        and large.generations >= small.generations
        and within(small, large) is not None
    )


def chunks(parts: list[Group], work: int) -> Iterator[Chunk]:
    """The chunks of groups in order; `work` is the number of features that one may draw."""
    for index, group in enumerate(parts):
        points, repeats = len(group.where), group.trajectories
        # Pairs of a grid point and a trajectory that a chunk has room for.
        pairs = max(1, work // _drawn(group.static))
        block = min(points, TILE_POINTS)
        if len(repeats) * block > pairs:
            columns = _even(len(repeats), max(1, pairs // block))
            rows = _even(points, block)
        else:
            columns = [slice(0, len(repeats))]
            rows = _even(points, pairs // (len(repeats) * block) * block)
        for row in rows:
            for column in columns:
                start, stop = repeats.start + column.start, repeats.start + column.stop
                yield Chunk(index, row, slice(start, stop))


def _drawn(static: Static) -> int:
    """Features that a trajectory draws: of what is to come, and of the past if it counts."""
    generations = static.generations - (0 if static.parts else static.first - 1)
    return (static.n * static.columns + BAND * _banded(static)) * generations


def _banded(static: Static) -> int:
    """Features of which ridge regression takes the band alone."""
    return static.d - static.columns if static.columns == static.frame else 0


def _even(total: int, size: int) -> list[slice]:
    """range(total) in as few parts of at most `size` as will do, all of nearly one length."""
    parts = -(-total // size)
    edges = [total * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def bytes_of(static: Static, swept: tuple[str, ...], points: int) -> int:
    """Upper estimate of the memory for a tile of one trajectory at some grid points, in bytes."""
    n, d = max(static.n, static.n_real * static.real), static.columns
    # Where features depend on what is swept, or on what is learnt, every grid point has its own.
    own = points if OWN_FEATURES & {*swept} or static.columns > static.frame > 0 else 1
    features = COPIES * n * d * own
    vectors = VECTORS * n + 2 * VECTORS * d + GUESSES * static.n * static.k * (static.k > 1)
    if static.parts:
        past = sum(static.parts)
        features += PAST_COPIES * past * d * own
        if static.regime.call.subsample:
            # Every grid point has a draw of its own, which is all that is trained on.
            vectors += GUESSES * past + PAST_COPIES * static.n * d
        else:
            vectors += VECTORS * past
    if static.covariance.call is dense:
        features += (1 + 3 * points * ("covariance_decay" in swept)) * d**2 + 3 * d**2
    vectors += BAND * _banded(static)
    records = (RECORDS + d * static.keep_classifiers) * (static.generations + 1)
    carried = static.coordinates * static.carried
    return 4 * (features + points * (vectors + records + 2 * carried))


def tile(
    spec: Spec, group: Group, shape: tuple[int, int], platform: str, devices: int, processes: int
) -> Tile:
    """The tile for chunks of up to `shape`: as large as is fast within the memory budget.

    The budget is for all CPU devices of a process together, and for each of other devices: where it
    is too small for every CPU device to have a tile, fewer of each process work. Raises SpecError
    where not even one trajectory fits.
    """
    static, budget = group.static, spec.memory_gb * 2**30
    one = bytes_of(static, group.swept, 1)
    if one > budget:
        raise SpecError(
            "memory_gb",
            spec.memory_gb,
            f"must be at least {1.005 * one / 2**30:.3g}: one trajectory at "
            f"n={np.max(group.numbers.n)}, "
            f"d={static.d}{_with_past(static)} needs that",
        )
    if platform == "cpu":  # whose devices share the machine's memory
        if budget // one < devices // processes:
            devices = int(budget // one) * processes
        budget *= processes
    else:
        budget *= devices
    points = min(shape[0], TILE_POINTS)
    while points > 1 and (
        bytes_of(static, group.swept, points) * devices > budget
        or -(-shape[0] // points) * shape[1] < devices
    ):
        points //= 2
    most = int(budget // devices // bytes_of(static, group.swept, points))
    if platform == "cpu":
        shared = 1 + min(BAND_TILE - 1, BAND_STEP * _banded(static) // static.n)
        most = min(most, max(shared, CPU_TILE // (static.n * static.columns)))
    blocks = -(-shape[0] // points)
    # As many trajectories as leave devices idle, or with a tile filled up, for hardly any time.
    parts = np.arange(-(-shape[1] // most), shape[1] + 1)
    time = -(-blocks * parts // devices) * -(-shape[1] // parts)
    parts = int(parts[np.argmax(time <= IDLE * time.min())])
    count = -(-blocks * parts // devices) * devices
    return Tile(points, -(-shape[1] // parts), count, devices)


def _with_past(static: Static) -> str:
    if not static.parts:
        return ""
    return f", which keeps the examples of all {static.generations} generations,"


def result_bytes(spec: Spec) -> int:
    """Memory for the records of a whole sweep: some numbers a generation, and the classifiers."""
    grid = math.prod(len(values) for values in spec.sweep.values())
    numbers = len(Record._fields) - 2 + spec.d * spec.keep_classifiers
    return 4 * grid * spec.trajectories * (spec.generations + 1) * numbers


def chunk_work(parts: list[Group], platform: str, devices: int) -> int:
    """Features that a chunk of these groups may draw on these devices."""
    least, most = CHUNK_WORK.get(platform, CHUNK_WORK["gpu"])
    drawn = sum(
        _drawn(group.static) * len(group.trajectories) * len(group.where) for group in parts
    )
    return min(max(drawn // CHUNKS, least * devices), most * devices)


def check_results(spec: Spec) -> None:
    """SpecError where the machine's memory is too small for the results."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if ASSEMBLY * result_bytes(spec) > memory:
        raise SpecError(
            "trajectories",
            spec.trajectories,
            f"with this sweep the results take {result_bytes(spec) / 2**30:.3g} GiB, and "
            f"{ASSEMBLY} times that while they are put together; this machine has "
            f"{memory / 2**30:.3g}: take fewer trajectories or generations or a smaller sweep",
        )


class Layout(NamedTuple):
    """Groups, their chunks in order, and a tile for every group, to fit its largest chunk.

    So a group compiles once.
    """

    groups: list[Group]
    chunks: list[Chunk]
    tiles: list[Tile]


def layout(
    spec: Spec,
    parts: list[Group],
    cuts: list[Chunk],
    platform: str,
    devices: int,
    processes: int = 1,
) -> Layout:
    """Groups, chunks and tiles; SpecError where memory is too small for a trajectory.

    `devices` are those of all `processes`.
    """
    shapes = [np.array([c.shape for c in cuts if c.group == g]) for g in range(len(parts))]
    largest = [tuple(shape.max(axis=0).tolist()) for shape in shapes]
    here = platform, devices, processes
    fitted = [tile(spec, *pair, *here) for pair in zip(parts, largest, strict=True)]
    return Layout(parts, cuts, fitted)
