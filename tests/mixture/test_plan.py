import itertools
import random

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from configs import mixture as variants
from synthjax.mixture import Spec, plan, sweep
from synthjax.mixture.plan import Tile
from synthjax.mixture.trajectory import Record
from synthjax.protocol.spec import SpecError

GIB = 2**30
# Axes of every sort: numbers (traced), shapes, kinds and the seed (a group each).
AXES = {
    "verifier": ("none", "oracle", "noisy"),
    "learner": ("logistic", "ridge"),
    "n": (5, 40, 12),
    "d": (3, 6),
    "seed": (4, 9, 0),
    "p": tuple(np.linspace(0.1, 0.9, 13).round(3).tolist()),
    "psi": (0.1, 0.2, 0.4, 0.8),
    "l2": (0.5, 0.25),
}


def some_spec(rng: random.Random) -> Spec:
    axes = rng.sample(list(AXES), rng.randrange(4))
    values = {name: AXES[name][: rng.randint(1, len(AXES[name]))] for name in axes}
    if "verifier" in values:
        values["verifier"] = AXES["verifier"]  # so that something reads psi
    return Spec(
        generator="flip",
        verifier="noisy",
        n=rng.choice((1, 7, 50)),
        d=rng.choice((3, 8)),
        generations=rng.randint(1, 3),
        trajectories=rng.choice((1, 2, 3, 10, 33)),
        memory_gb=rng.choice((1e-3, 4e-3, 1.0)),
        sweep=values,
    )


SPECS = [some_spec(random.Random(i)) for i in range(60)]


def grid(spec: Spec) -> list[dict]:
    """Every grid point as the fields that hold there, in the order of the results."""
    plain = {name: getattr(spec, name) for name in AXES}
    return [
        plain | dict(zip(spec.sweep, values, strict=True))
        for values in itertools.product(*spec.sweep.values())
    ]


def work_of(static: plan.Static, pairs: int) -> int:
    return static.n * static.d * static.generations * pairs


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_groups_hold_every_grid_point_once(spec):
    points = grid(spec)
    seen = []
    for group in plan.groups(spec):
        for i, at in enumerate(group.where):
            here = points[at]
            seen.append(at)
            assert group.seed == here["seed"]
            for name in ("verifier", "learner", "n", "d"):
                assert getattr(group.static, name) == here[name]
            for name in ("p", "psi", "l2"):
                values = getattr(group.numbers, name)
                assert (name in group.swept) == (name in spec.sweep) == (np.ndim(values) == 1)
                value = values[i] if name in group.swept else values
                assert value == np.float32(here[name])
    assert sorted(seen) == list(range(len(points)))


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_chunks_hold_every_trajectory_once(spec):
    groups = plan.groups(spec)
    for work in (1, 300, 5_000, 10**6, 10**12):
        count = np.zeros((len(grid(spec)), spec.trajectories), int)
        chunks = list(plan.chunks(spec, work))
        for chunk in chunks:
            where = groups[chunk.group].where[chunk.points]
            count[where, chunk.trajectories] += 1
            assert chunk.shape == (len(where), count[0, chunk.trajectories].size)
            pairs = chunk.shape[0] * chunk.shape[1]
            # Nothing smaller than one trajectory of the points that share its features.
            least = min(len(groups[chunk.group].where), plan.TILE_POINTS)
            assert pairs <= least or work_of(groups[chunk.group].static, pairs) <= work
        assert (count == 1).all()
        if work == 10**12:
            assert len(chunks) == len(groups)


def test_chunks_are_of_nearly_one_size():
    """100 trajectories, 30 of which fill a chunk: 4 of 25, not 3 of 30 and one of 10."""
    spec = Spec(n=10, d=10, generations=1, trajectories=100)
    shapes = [chunk.shape for chunk in plan.chunks(spec, 3000)]
    assert shapes == [(1, 25)] * 4


def test_chunks_do_not_depend_on_the_memory_budget():
    big, small = (Spec(n=4000, d=100, trajectories=500, memory_gb=gb) for gb in (64.0, 0.05))
    cut = [plan.layout(spec, 2**28, "gpu", 1) for spec in (big, small)]
    assert cut[0][1] == cut[1][1]
    assert len(cut[0][1]) > 1
    assert cut[0][2][0].trajectories > cut[1][2][0].trajectories  # but tiles do


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_tiles_keep_to_the_budget_and_to_the_chunk(spec, platform):
    for work, devices in itertools.product((300, 10**6), (1, 2, 8)):
        groups, chunks, tiles = plan.layout(spec, work, platform, devices)
        for g, (group, tile) in enumerate(zip(groups, tiles, strict=True)):
            held = plan.bytes_of(group.static, group.swept, tile) * devices
            assert held <= spec.memory_gb * GIB
            shapes = [chunk.shape for chunk in chunks if chunk.group == g]
            assert 1 <= tile.points <= max(points for points, _ in shapes)
            assert 1 <= tile.trajectories <= max(trajectories for _, trajectories in shapes)


@pytest.mark.parametrize("devices", [1, 2, 7])
@pytest.mark.parametrize("n,d", [(1000, 50), (4000, 100), (123, 456), (100_000, 30)])
def test_a_budget_too_small_for_one_trajectory(n, d, devices):
    def layout(memory_gb):
        return plan.layout(Spec(n=n, d=d, memory_gb=memory_gb), 2**30, "cpu", devices)

    with pytest.raises(SpecError) as caught:
        layout(1e-7)
    error = caught.value
    assert (error.path, error.value) == ("memory_gb", 1e-7)
    least = float(error.rule.removeprefix("must be at least ").split(":")[0])
    assert f"n={n}, d={d}" in error.rule
    layout(least)  # who follows the advice is not refused again
    with pytest.raises(SpecError):
        layout(0.99 * least)


def told(static, swept, tile_points, mesh, numbers, seed, index) -> Record:
    """In place of run_tiles: each record says which grid point and trajectory it was asked for."""
    tiles, trajectories = index.shape
    assert tiles % mesh.size == 0
    shape = (tiles, trajectories, tile_points, static.generations + 1)

    def of_point(name):
        values = getattr(numbers, name)
        if name in swept:
            assert values.shape == (tiles, tile_points)
            values = values[:, None, :, None]
        return np.broadcast_to(values, shape)

    return Record(
        accuracy=np.broadcast_to(index[:, :, None, None], shape),
        test_accuracy=of_point("p"),
        overlap=of_point("psi"),
        norm=of_point("l2"),
        status=np.full(shape, AXES["verifier"].index(static.verifier)),
        right=np.full(shape, static.n),
        wrong=np.full(shape, static.d),
        kept_right=np.full(shape, AXES["learner"].index(static.learner)),
        kept_wrong=np.full(shape, seed),
        classifier=None,
    )


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_a_record_lands_where_it_belongs(spec, monkeypatch):
    """Through chunks, tiles, their padding and back: every trajectory of every grid point."""
    monkeypatch.setattr(sweep, "run_tiles", told)
    points = grid(spec)

    def of_point(value):
        values = np.array([value(point) for point in points])[:, None, None]
        return np.broadcast_to(values, (len(points), spec.trajectories, spec.generations + 1))

    for work, cpu_tile, devices in itertools.product(
        (300, 10**6), (1, 200, 2**19), (jax.devices(), jax.devices()[:1])
    ):
        monkeypatch.setattr(plan, "CPU_TILE", cpu_tile)
        run = sweep._Sweep(spec, work, devices)
        steps = [step for step, _, _ in run.compute()]
        assert steps == list(range(len(run.chunks)))
        assert not run.todo
        found = run.records
        assert (found.accuracy == np.arange(spec.trajectories)[:, None]).all()
        assert (found.test_accuracy == of_point(lambda at: np.float32(at["p"]))).all()
        assert (found.overlap == of_point(lambda at: np.float32(at["psi"]))).all()
        assert (found.norm == of_point(lambda at: np.float32(at["l2"]))).all()
        for name in ("verifier", "learner"):
            leaf = {"verifier": found.status, "learner": found.kept_right}[name]
            assert (leaf == of_point(lambda at, name=name: AXES[name].index(at[name]))).all()
        assert (found.right == of_point(lambda at: at["n"])).all()
        assert (found.wrong == of_point(lambda at: at["d"])).all()
        assert (found.kept_wrong == of_point(lambda at: at["seed"])).all()


def of_a_variant(spec: Spec, part: int = 0) -> tuple[Spec, Tile]:
    """The tile that this machine would take."""
    devices = jax.local_devices()
    work = plan.chunk_work("cpu", len(devices))
    return spec, plan.layout(spec, work, "cpu", len(devices))[2][part]


L2 = {"l2": (0.1, 0.2, 0.3, 0.4)}
SIGNAL = {"signal": (0.5, 1.0, 2.0)}
MEASURED = {
    "logistic": (Spec(n=1000, d=20), Tile(1, 1)),
    "logistic, 8 trajectories": (Spec(n=4000, d=100), Tile(1, 8)),
    "logistic, 4 points": (Spec(n=1000, d=20, sweep=L2), Tile(4, 2)),
    "logistic, d > n": (Spec(n=100, d=300), Tile(1, 2)),
    "logistic, d ≫ n": (Spec(n=10, d=3000), Tile(1, 1)),
    "logistic, d ≫ n, 4 points": (Spec(n=10, d=3000, sweep=L2), Tile(4, 1)),
    "ridge": (Spec(n=4000, d=100, learner="ridge"), Tile(1, 1)),
    "ridge, 8 trajectories": (Spec(n=1000, d=20, learner="ridge"), Tile(1, 8)),
    "ridge, d = n, 4 points": (Spec(n=200, d=200, learner="ridge", sweep=L2), Tile(4, 2)),
    "ridge, d > n": (Spec(n=100, d=300, learner="ridge"), Tile(1, 2)),
    "real": (Spec(initial="real", n=100, d=20, n_real=3000), Tile(1, 2)),
    "real, 4 points": (Spec(initial="real", n=100, d=20, n_real=3000, sweep=L2), Tile(4, 1)),
    "signal swept": (Spec(features="mixture", d=20, sweep=SIGNAL), Tile(3, 2)),
    "signal swept, 1 point": (Spec(features="mixture", d=20, sweep=SIGNAL), Tile(1, 4)),
    "configs: base": of_a_variant(variants.VARIANTS["base"]()),
    "configs: breakdown": of_a_variant(variants.VARIANTS["quickstart"]()["breakdown"]),
    "configs: angles": of_a_variant(variants.VARIANTS["quickstart"]()["angles"]),
    "configs: phase_diagram": of_a_variant(variants.VARIANTS["phase_diagram"]()),
}


@pytest.mark.slow
@pytest.mark.parametrize("spec,tile", MEASURED.values(), ids=MEASURED)
def test_the_estimate_of_memory_bounds_what_xla_takes(spec, tile):
    """Per device, as XLA's own buffer assignment counts it; and not idly far above."""
    (group, *_), devices = plan.groups(spec), jax.local_devices()
    count = 2 * len(devices)
    numbers = group.numbers._replace(
        **{name: np.zeros((count, tile.points), np.float32) for name in group.swept}
    )
    lowered = sweep.run_tiles.lower(
        group.static,
        group.swept,
        tile.points,
        Mesh(np.array(devices), ("trajectory",)),
        numbers,
        np.uint32(0),
        np.zeros((count, tile.trajectories), np.int32),
    )
    taken = lowered.compile().memory_analysis().temp_size_in_bytes
    said = plan.bytes_of(group.static, group.swept, tile)
    assert taken <= said <= 8 * taken, f"{said / taken:.2f} of {taken / 2**20:.2f} MiB"
