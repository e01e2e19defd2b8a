import itertools
import random

import jax
import numpy as np
import pytest

from configs import mixture as variants
from synthjax.mixture import Spec, plan, sweep
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
            held = plan.bytes_of(group.static, group.swept, tile.points) * tile.trajectories
            assert held * tile.devices <= spec.memory_gb * GIB
            shapes = [chunk.shape for chunk in chunks if chunk.group == g]
            assert 1 <= tile.points <= max(points for points, _ in shapes)
            assert 1 <= tile.trajectories <= max(trajectories for _, trajectories in shapes)
            assert 1 <= tile.devices <= devices
            assert tile.count % tile.devices == 0
            for points, trajectories in shapes:  # one number of tiles covers every chunk
                tiles_needed = -(-points // tile.points) * -(-trajectories // tile.trajectories)
                assert tiles_needed <= tile.count


def test_every_device_works_where_memory_allows():
    spec = Spec(n=1000, d=50, trajectories=64)
    for devices in (1, 2, 8):
        (tile,) = plan.layout(spec, 2**40, "cpu", devices)[2]
        assert tile.devices == devices
    one = plan.bytes_of(plan.groups(spec)[0].static, (), 1)
    short = Spec(n=1000, d=50, trajectories=64, memory_gb=3.5 * one / GIB)
    assert plan.layout(short, 2**40, "cpu", 8)[2][0].devices == 3


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
        layout(0.98 * least)


def test_results_larger_than_the_memory_of_the_machine():
    """Refused before anything of that size is asked for."""
    spec = Spec(trajectories=2**31 - 1, generations=1000)
    with pytest.raises(SpecError) as caught:
        plan.layout(spec, 2**30, "cpu", 2)
    assert caught.value.path == "trajectories"
    records = sweep.dataset.empty(Spec(trajectories=3, generations=2, keep_classifiers=True))
    held = sum(leaf.nbytes for leaf in records)
    assert plan.result_bytes(Spec(trajectories=3, generations=2, keep_classifiers=True)) == held


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
    monkeypatch.setattr(sweep.dataset, "theory", lambda spec, groups: None)
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


L2 = {"l2": (0.1, 0.2, 0.3, 0.4)}
SIGNAL = {"signal": (0.5, 1.0, 2.0)}
REAL = {"initial": "real", "n": 100, "d": 20, "n_real": 3000}
MANY = 10**9  # more trajectories in a tile than any takes

# a spec, and the trajectories of a tile of all its grid points
MEASURED = {
    "logistic": (Spec(n=1000, d=20), 1),
    "logistic, 8 trajectories": (Spec(n=4000, d=100), 8),
    "logistic, 4 points": (Spec(n=1000, d=20, sweep=L2), 2),
    "logistic, d > n": (Spec(n=100, d=300), 2),
    "logistic, d ≫ n": (Spec(n=10, d=3000), 1),
    "logistic, d ≫ n, 4 points": (Spec(n=10, d=3000, sweep=L2), 1),
    "ridge": (Spec(n=4000, d=100, learner="ridge"), 1),
    "ridge, 8 trajectories": (Spec(n=1000, d=20, learner="ridge"), 8),
    "ridge, d = n, 4 points": (Spec(n=200, d=200, learner="ridge", sweep=L2), 2),
    "ridge, d > n": (Spec(n=100, d=300, learner="ridge"), 2),
    "real": (Spec(**REAL), 2),
    "real, 4 points": (Spec(**REAL, sweep=L2), 1),
    "signal swept": (Spec(features="mixture", d=20, sweep=SIGNAL), 2),
    "long": (Spec(n=10, d=3, generations=20_000, learner="ridge"), 2),
    "long, classifiers": (
        Spec(n=10, d=50, generations=5000, learner="ridge", keep_classifiers=True),
        2,
    ),
    "configs: base": (variants.VARIANTS["base"](), MANY),
    "configs: breakdown": (variants.VARIANTS["quickstart"]()["breakdown"], MANY),
    "configs: angles": (variants.VARIANTS["quickstart"]()["angles"], MANY),
    "configs: phase_diagram": (variants.VARIANTS["phase_diagram"](), MANY),
}


@pytest.mark.slow
@pytest.mark.parametrize("spec,trajectories", MEASURED.values(), ids=MEASURED)
def test_the_estimate_of_memory_bounds_what_xla_takes(spec, trajectories):
    """Per device, as XLA's own buffer assignment counts it; and not idly far above."""
    devices = jax.local_devices()
    work = plan.chunk_work(spec, "cpu", len(devices))
    groups, chunks, tiles = plan.layout(spec, work, "cpu", len(devices))
    tile = tiles[0]._replace(trajectories=min(trajectories, tiles[0].trajectories))
    whole = chunks[0]._replace(trajectories=slice(0, tile.trajectories * tile.count))
    lowered = sweep.run_tiles.lower(*sweep.arguments(groups[0], whole, tile, devices))
    taken = lowered.compile().memory_analysis().temp_size_in_bytes
    one = plan.bytes_of(groups[0].static, groups[0].swept, tile.points)
    said = one * tile.trajectories
    assert taken <= said <= 6 * taken, f"{said / taken:.2f} of {taken / 2**20:.2f} MiB"
