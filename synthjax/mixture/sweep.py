"""Runs a sweep: thousands of trajectories, vmapped, sharded over devices, streamed in chunks."""

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from synthjax import gathered
from synthjax.io.checkpoint import Checkpoints
from synthjax.io.log import Metrics, Progress
from synthjax.io.results import write_together
from synthjax.io.stop import GracefulStop, Stopped
from synthjax.io.watchdog import Watchdog, watched
from synthjax.io.workdir import Workdir, WorkdirError
from synthjax.mixture import dataset, plan
from synthjax.mixture.covariance import dense, rotation
from synthjax.mixture.data import Numbers
from synthjax.mixture.spec import Spec
from synthjax.mixture.trajectory import Before, Record, Static
from synthjax.protocol.spec import to_json

# Compiled programs to hold at one time: on a CPU each maps some 450 regions of memory, of which
# Linux allows a process 65,530.
PROGRAMS = 64

# A spec that a workdir was run with, and the features that a chunk of it may draw.
Stage = tuple[Spec, int]


def run(spec: Spec, workdir: str | os.PathLike | None = None) -> xr.Dataset:
    """Run every trajectory of `spec` and return the labelled results.

    With `workdir`, every chunk is saved as it is computed (Orbax, under `checkpoints/`), a run
    that was interrupted goes on where it was, and `spec.json`, `metrics.jsonl` and `results.nc`
    are written there. A workdir accepts a spec with more trajectories, more generations or further
    values of axes than it was begun with, and computes what is new. Raises SpecError, WorkdirError,
    CheckpointError, or Stopped after a SIGTERM.
    """
    devices = jax.devices()
    plan.check_results(spec)
    if workdir is None:
        sweep = _Sweep(spec, devices)
        for _ in sweep.compute():
            pass
        return sweep.results()
    with watched():
        estimate(spec)  # refuses before anything is written
        place = Workdir(
            workdir,
            json.loads(to_json(spec)),
            free=("memory_gb",),
            goes_on=_goes_on,
            facts=lambda before: {
                "chunk_work": _chunk_work(spec, Spec(**before) if before else None, devices)
            },
        )
    # Chunks are cut as they were when the run began, whatever this machine would choose.
    try:
        stages = [(Spec(**stage["spec"]), int(stage["chunk_work"])) for stage in place.stages]
    except (KeyError, TypeError, ValueError):
        raise WorkdirError(f"{place.path}/spec.json: is no spec of a run of this version") from None
    sweep = _Sweep(spec, devices, stages)
    with (
        GracefulStop() as stop,
        Metrics(place.path / "metrics.jsonl") as metrics,
        Checkpoints(place.path / "checkpoints") as checkpoints,
    ):
        with Watchdog() as watchdog:
            watchdog.phase()
            for step in sorted(sweep.todo.keys() & checkpoints.steps()):
                saved = checkpoints.restore(step, _leaves(sweep.target(step)))
                sweep.put(step, Record(**{"classifier": None, **saved}))
                watchdog.phase()
        for step, record, seconds in sweep.compute(stop.asked):
            checkpoints.save(step, _leaves(record))
            metrics.write(chunk=step, seconds=seconds, **sweep.summary(step, record))
        with watched():
            checkpoints.wait()
    if sweep.todo:
        done = _pairs(sweep.chunks) - _pairs(sweep.todo.values())
        raise Stopped(f"{done} of {_pairs(sweep.chunks)} trajectories are computed and saved")
    results = sweep.results()
    write_together(results, place.path / "results.nc")
    return results


def estimate(spec: Spec) -> str:
    """In words, before anything runs: how many trajectories, in how many chunks, how much memory.

    Raises SpecError where the memory budget is too small for a single trajectory, or the results
    are larger than the machine's memory.
    """
    devices = jax.devices()
    plan.check_results(spec)
    groups, chunks, tiles = layout_of(spec, devices)
    together = devices[0].platform == "cpu"
    processes = _processes(devices)
    each = "" if together and processes == 1 else " each"
    held = max(
        plan.bytes_of(group.static, group.swept, tile.points)
        * tile.trajectories
        * (tile.devices // processes if together else 1)
        for group, tile in zip(groups, tiles, strict=True)
    )
    return (
        f"{_pairs(chunks):,} trajectories, generations: {spec.generations}, chunks: {len(chunks)}, "
        f"programs: {len({group.static for group in groups})}, "
        f"on {len(devices)} x {devices[0].device_kind}; "
        f"about {held / 2**30:.2g} GiB{each} at one time (memory_gb={spec.memory_gb:g}), "
        f"{plan.result_bytes(spec) / 2**30:.2g} GiB of results"
    )


def layout_of(
    spec: Spec, devices: Sequence[jax.Device], stages: Sequence[Stage] | None = None
) -> plan.Layout:
    """The chunks in which a sweep runs on these devices, and the programs that run them.

    `stages` are what a workdir was run with: then these are what each added to the one before, in
    order, as parts of the grid of `spec`. Raises SpecError where memory is too small for a
    trajectory.
    """
    groups, chunks, before = [], [], None
    for stage, work in stages or [(spec, _chunk_work(spec, None, devices))]:
        parts, place = plan.groups(stage, before), plan.within(stage, spec)
        for chunk in plan.chunks(parts, work):
            chunks.append(chunk._replace(group=len(groups) + chunk.group))
        groups += [group._replace(where=place[group.where]) for group in parts]
        before = stage
    here = devices[0].platform, len(devices), _processes(devices)
    return plan.layout(spec, groups, chunks, *here)


def _goes_on(large: Mapping, small: Mapping) -> bool:
    try:
        return plan.extends(Spec(**large), Spec(**small))
    except (TypeError, ValueError):  # of another version
        return False


def _chunk_work(spec: Spec, before: Spec | None, devices: Sequence[jax.Device]) -> int:
    """Features that a chunk may draw of what a spec adds to the one before."""
    return plan.chunk_work(plan.groups(spec, before), devices[0].platform, len(devices))


class _Sweep:
    """A sweep under way: its chunks, those that are still to do, and the records so far."""

    def __init__(self, spec: Spec, devices: list[jax.Device], stages: list[Stage] | None = None):
        self.devices = devices
        self.groups, self.chunks, self.tiles = layout_of(spec, devices, stages)
        self.todo = dict(enumerate(self.chunks))
        self.limit = dataset.theory(spec)
        goes_on = any(group.static.first > 1 for group in self.groups)
        self.records = dataset.empty(spec, goes_on)
        self._spec = spec

    def target(self, step: int) -> Record:
        """Shapes and dtypes of a chunk's record."""
        return dataset.shapes(self._static(step), *self.chunks[step].shape)

    def results(self) -> xr.Dataset:
        """The labelled results, once nothing is left to do."""
        return dataset.to_dataset(self._spec, self.records, self.limit)

    def put(self, step: int, record: Record) -> None:
        """Take in the record of a chunk, [points, trajectories, t, …]."""
        static, chunk = self._static(step), self.todo.pop(step)
        where = self.groups[chunk.group].where[chunk.points]
        for whole, part in zip(self.records, record, strict=True):
            if whole is not None and part is not None:
                time = slice(0 if static.first == 1 else static.first, static.generations + 1)
                if part is record.carried:
                    whole = whole[..., : static.coordinates]
                    time = time if static.carried > 1 else slice(1)
                whole[where, chunk.trajectories, time] = part

    def summary(self, step: int, record: Record) -> dict:
        """A line of metrics.jsonl: which part this was, and its mean accuracy by generation."""
        chunk, static = self.chunks[step], self._static(step)
        fine = np.isfinite(record.accuracy)
        mean = np.where(fine, record.accuracy, 0).sum((0, 1)) / np.maximum(fine.sum((0, 1)), 1)
        return {
            "group": chunk.group,
            "points": [chunk.points.start, chunk.points.stop],
            "trajectories": [chunk.trajectories.start, chunk.trajectories.stop],
            "generations": [0 if static.first == 1 else static.first, static.generations],
            "accuracy": np.where(fine.any((0, 1)), mean, np.nan).round(6).tolist(),
            "not_fine": int((record.status > 0).sum()),
        }

    def compute(
        self, halt: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Record, float]]:
        """(step, record, seconds) of each chunk to do; the next runs while one is handled.

        Until `halt` says so: then what is under way is finished, and nothing more begun.
        """
        total = _pairs(self.chunks)
        ahead, began = None, time.perf_counter()

        def finish(step, started):
            nonlocal began
            chunk = self.chunks[step]
            watchdog.pause()
            jax.block_until_ready(started)  # this process's part
            watchdog.beat(time.perf_counter() - began)  # the others' take no longer
            record = _fetch(chunk, self.tiles[chunk.group], started)
            watchdog.saving(record)
            self.put(step, record)
            now = time.perf_counter()
            yield step, record, now - began
            began = now
            progress.advance(_pairs([chunk]))

        done = total - _pairs(self.todo.values())
        with Progress("trajectories", total, done) as progress, Watchdog() as watchdog:
            for step in [*self.todo, None]:
                running = None
                if step is not None and not halt():
                    if ahead is not None and self._static(step).first > 1:
                        yield from finish(*ahead)  # this one may go on from it
                        ahead = None
                    watchdog.phase()
                    running = step, self._start(step)
                if ahead is not None:
                    yield from finish(*ahead)
                ahead = running

    def _static(self, step: int) -> Static:
        return self.groups[self.chunks[step].group].static

    def _start(self, step: int) -> Record:
        chunk = self.chunks[step]
        group, tile = self.groups[chunk.group], self.tiles[chunk.group]
        if run_tiles._cache_size() >= PROGRAMS:
            run_tiles.clear_cache()
        return run_tiles(*arguments(group, chunk, tile, self.devices, self.records))


def arguments(
    group: plan.Group,
    chunk: plan.Chunk,
    tile: plan.Tile,
    devices: list[jax.Device],
    records: Record,
) -> tuple:
    """What `run_tiles` takes: a chunk in tiles, padded by repetition to fill tiles and devices.

    `records` are those of the whole sweep, from which a chunk may go on.
    """
    static = group.static
    rows, columns = _cut(chunk, tile)
    order = np.minimum(np.arange(tile.count), rows * columns - 1)
    point = _padded(chunk.points, rows, tile.points)[order // columns]
    index = _padded(chunk.trajectories, columns, tile.trajectories)[order % columns]
    numbers = group.numbers._replace(
        **{name: getattr(group.numbers, name)[point] for name in group.swept}
    )
    before = None
    if static.first > 1:
        at = group.where[point][:, None, :], index[:, :, None]
        carried = records.carried[..., : static.coordinates][at]
        carried = carried[..., : static.first if static.carried > 1 else 1, :]
        before = Before(carried, records.status[..., static.first - 1][at])
    axes = rotation(static.d) if static.covariance.call is dense else None
    mesh = Mesh(np.array(_working(devices, tile.devices)), ("trajectory",))
    seed = np.uint32(group.seed)
    index = index.astype(np.int32)
    return static, group.swept, tile.points, mesh, axes, numbers, seed, index, before


def _processes(devices: Sequence[jax.Device]) -> int:
    return len({device.process_index for device in devices})


def _working(devices: list[jax.Device], count: int) -> list[jax.Device]:
    """So many of the devices, of each process as many: one without a part could not fetch any."""
    if count == len(devices):
        return devices
    own = {}
    for device in devices:
        own.setdefault(device.process_index, []).append(device)
    return [device for part in own.values() for device in part[: count // len(own)]]


def _cut(chunk: plan.Chunk, tile: plan.Tile) -> tuple[int, int]:
    """How many tiles a chunk is high (grid points) and wide (trajectories)."""
    return -(-chunk.shape[0] // tile.points), -(-chunk.shape[1] // tile.trajectories)


def _padded(part: slice, count: int, size: int) -> Int[np.ndarray, "count size"]:
    return np.minimum(part.start + np.arange(count * size), part.stop - 1).reshape(count, size)


def _fetch(chunk: plan.Chunk, tile: plan.Tile, started: Record) -> Record:
    """Wait for a chunk; its record comes as [points, trajectories, T+1, …] without the padding."""
    rows, columns = _cut(chunk, tile)

    def untile(leaf):
        leaf = gathered(leaf)[: rows * columns]
        tail = leaf.shape[3:]
        leaf = leaf.reshape(rows, columns, tile.trajectories, tile.points, *tail)
        leaf = leaf.transpose(0, 3, 1, 2, *range(4, leaf.ndim))
        leaf = leaf.reshape(rows * tile.points, columns * tile.trajectories, *tail)
        return np.ascontiguousarray(leaf[: chunk.shape[0], : chunk.shape[1]])

    return jax.tree.map(untile, started)


@functools.partial(jax.jit, static_argnames=("static", "swept", "tile_points", "mesh"))
def run_tiles(
    static: Static,
    swept: tuple[str, ...],
    tile_points: int,
    mesh: Mesh,
    axes: Float[Array, "d d"] | None,
    numbers: Numbers,
    seed: Int[Array, ""],
    index: Int[Array, "tiles trajectories"],
    before: Before | None,
) -> Record:
    """Records [tiles, trajectories, points, t, …] of tiles sharded over the mesh.

    `numbers` are [tiles, points] where swept and scalars elsewhere, `before` [tiles, trajectories,
    points, …]. The grid points of a tile share a trajectory's draw of the features: the draw
    depends on neither, so vmap leaves it alone.
    """

    def along(value: object, rest: object) -> Numbers:
        return Numbers(*(value if name in swept else rest for name in Numbers._fields))

    def one_device(numbers, axes, seed, index, before):
        def one_tile(args):
            varying, index, before = args
            inside = Numbers(*(numbers[i] if v is None else v for i, v in enumerate(varying)))
            points = jax.vmap(
                lambda numbers, i, before: static.engine.call(
                    static, numbers, axes, seed, i, before, _any_in_tile
                ),
                (along(0, None), None, 0),
                axis_size=tile_points,
                axis_name="points",
            )
            return jax.vmap(points, (None, 0, 0), axis_name="repeats")(inside, index, before)

        varying = Numbers(
            *(v if n in swept else None for n, v in zip(Numbers._fields, numbers, strict=True))
        )
        return jax.lax.map(one_tile, (varying, index, before))

    split, whole = PartitionSpec("trajectory"), PartitionSpec()
    sharded = jax.shard_map(
        one_device,
        mesh=mesh,
        in_specs=(along(split, whole), whole, whole, split, split),
        out_specs=split,
        check_vma=False,
    )
    return sharded(numbers, axes, seed, index, before)


def _any_in_tile(flag: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether a flag is set in any trajectory of a tile: then a loop goes on for all of them.

    JAX cannot see that otherwise, and would copy all that a loop carries to keep it as it was.
    """
    return jax.lax.pmax(flag.any().astype(jnp.int32), ("points", "repeats")) > 0


def _leaves(record: Record) -> dict:
    """A record as a checkpoint holds it."""
    return {name: leaf for name, leaf in record._asdict().items() if leaf is not None}


def _pairs(chunks: Iterable[plan.Chunk]) -> int:
    """Trajectories in chunks, over all their grid points."""
    return sum(chunk.shape[0] * chunk.shape[1] for chunk in chunks)
