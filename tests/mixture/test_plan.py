import itertools
import random

import jax
import numpy as np
import pytest

from synthjax.mixture import Spec, plan, sweep
from synthjax.mixture.data import Numbers
from synthjax.mixture.trajectory import Record, Static
from synthjax.protocol.spec import SpecError

GIB = 2**30
# Axes of every sort: numbers (traced), sizes (traced, and lengths of arrays), d, kinds and the seed
# (a group each).
AXES = {
    "initial": ("real", "angle"),
    "generator": ("flip", "logistic"),
    "verifier": ("none", "oracle", "noisy"),
    "regime": ("replace", "accumulate", "mix"),
    "learner": ("logistic", "ridge"),
    "n": (5, 700, 40, 600, 512),
    "d": (3, 6),
    "n_real": (1000, 90, 10, 100),
    "k": (1, 12, 3, 16),
    "seed": (4, 9, 0),
    "p": tuple(np.linspace(0.1, 0.9, 9).round(3).tolist()),
    "psi": (0.1, 0.2, 0.4, 0.8),
    "l2": (0.5, 0.25),
}
NAMES = [name for name in AXES if name in plan.KINDS]
TRACED = [name for name in AXES if name in Numbers._fields]


def some_spec(rng: random.Random) -> Spec:
    axes = rng.sample(list(AXES), rng.randrange(4))
    values = {name: AXES[name][: rng.randint(1, len(AXES[name]))] for name in axes}
    # So that something reads every axis.
    for name in {"verifier", "initial", "generator"} & {*values}:
        values[name] = AXES[name]
    if {"initial", "n_real"} & {*values}:
        values["generator"] = AXES["generator"]
    if "p" in values and "generator" in values:
        values["generator"] = AXES["generator"]
    return Spec(
        generator="flip",
        verifier="noisy",
        initial="real" if "n_real" in values and "initial" not in values else "angle",
        selection="best_of_k" if "k" in values else "prune",
        n=rng.choice((1, 7, 50)),
        d=rng.choice((3, 8)),
        generations=rng.randint(1, 3),
        trajectories=rng.choice((1, 2, 3, 10, 33)),
        memory_gb=rng.choice((1e-2, 4e-2, 1.0)),
        sweep=values,
    )


def larger(spec: Spec, rng: random.Random) -> Spec:
    """A spec that goes on where `spec` ends: longer, more often, with further values and axes."""
    axes = {}
    for name in AXES:
        old = spec.sweep.get(name, (getattr(spec, name),))
        new = [value for value in AXES[name] if value not in old]
        readable = name in spec.sweep or name in ("learner", "regime", "n", "d", "seed", "l2")
        new = rng.sample(new, rng.randint(0, len(new))) if readable and rng.random() < 0.4 else []
        if new or name in spec.sweep:
            axes[name] = tuple(rng.sample([*old, *new], len(old) + len(new)))
    return replaced(
        spec,
        sweep=axes,
        trajectories=spec.trajectories + rng.choice((0, 0, 1, 5)),
        generations=spec.generations + rng.choice((0, 0, 1, 2)),
    )


def replaced(spec: Spec, **changes) -> Spec:
    return Spec(**{**vars(spec), **changes})


SPECS = [some_spec(random.Random(i)) for i in range(40)]
STAGES = []  # three specs each, every one of which goes on from the one before
for i, first in enumerate(SPECS):
    second = larger(first, random.Random(100 + i))
    STAGES.append((first, second, larger(second, random.Random(200 + i))))

each_spec = pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
each_stages = pytest.mark.parametrize("stages", STAGES, ids=range(len(STAGES)))


def grid(spec: Spec) -> list[dict]:
    """Every grid point as the fields that hold there, in the order of the results."""
    plain = {name: getattr(spec, name) for name in AXES}
    return [
        plain | dict(zip(spec.sweep, values, strict=True))
        for values in itertools.product(*spec.sweep.values())
    ]


def cut(spec: Spec, work: int, platform: str, devices: int, processes: int = 1) -> plan.Layout:
    groups = plan.groups(spec)
    return plan.layout(spec, groups, [*plan.chunks(groups, work)], platform, devices, processes)


def octave(name: str, size: int) -> int:
    """j of the 2^(j−1) < size ≤ 2^j; one for all that fit a short array."""
    return max((size - 1).bit_length(), {"n": 6, "n_real": 6, "k": 3}[name])


@each_spec
def test_groups_hold_every_grid_point_once(spec):
    points = grid(spec)
    seen = []
    for group in plan.groups(spec):
        assert group.trajectories == range(spec.trajectories)
        assert (group.static.first, group.static.generations) == (1, spec.generations)
        for i, at in enumerate(group.where):
            here = points[at]
            seen.append(at)
            assert group.seed == here["seed"]
            assert group.static.d == here["d"]
            for name in NAMES:
                assert group.kinds[name] == here[name]
                assert getattr(group.static, name) is plan.KINDS[name][here[name]]
            for name in TRACED:
                values = getattr(group.numbers, name)
                assert (name in group.swept) == (name in spec.sweep) == (np.ndim(values) == 1)
                value = values[i] if name in group.swept else values
                kind = np.int32 if name in plan.SIZES else np.float32
                assert value == kind(here[name]) and value.dtype == kind
    assert sorted(seen) == list(range(len(points)))


@each_spec
def test_arrays_are_as_long_as_the_largest_of_an_octave(spec):
    points, alike = grid(spec), {}
    for group in plan.groups(spec):
        static = group.static
        inside = [points[at] for at in group.where]
        real = static.real
        for name, read in (("n", True), ("n_real", real), ("k", spec.selection == "best_of_k")):
            sizes = [here[name] if read else 1 for here in inside]
            rows = max(sizes) if name == "k" else -(-max(sizes) // 64) * 64
            assert getattr(static, name) == rows
            assert len({octave(name, size) for size in sizes}) == 1
        kinds = tuple(group.kinds.values())
        key = (*kinds, static.d, group.seed, octave("n", static.n))
        key += (octave("k", static.k), octave("n_real", static.n_real))
        assert key not in alike, "two groups that could be one"
        alike[key] = group


@pytest.mark.parametrize(
    "sizes, programs",
    [((65, 100, 127, 128), 1), ((33, 40, 64, 10, 1), 1), ((64, 65), 2), ((1024, 1025, 2049), 3)],
)
def test_programs_of_a_swept_n(sizes, programs):
    """One for each octave, and one for all up to 64, as there are no shorter arrays."""
    assert len({group.static for group in plan.groups(Spec(sweep={"n": sizes}))}) == programs


def test_only_sizes_that_are_read_cut_groups():
    def count(**values):
        return len(plan.groups(Spec(**values)))

    sizes = {"n_real": (10, 1000)}
    assert count(initial="real", sweep=sizes) == 2
    assert count(sweep=sizes | {"initial": ("real", "angle")}) == 3
    kinds = {"selection": ("prune", "best_of_k")}
    assert count(sweep={"k": (1, 8, 16)} | kinds, generator="flip") == 3


def cells(groups: list[plan.Group], place: np.ndarray, shape: tuple) -> np.ndarray:
    """How often [grid point, trajectory, generation] is computed."""
    count = np.zeros(shape, int)
    for group in groups:
        times = slice(0 if group.static.first == 1 else group.static.first, None)
        rows = place[group.where]
        columns = slice(group.trajectories.start, group.trajectories.stop)
        count[rows, columns, times.start : group.static.generations + 1] += 1
    return count


@each_stages
def test_stages_add_up_to_the_whole_and_do_nothing_twice(stages):
    spec = stages[-1]
    shape = (len(grid(spec)), spec.trajectories, spec.generations + 1)
    count = np.zeros(shape, int)
    for before, stage in zip((None, *stages), stages, strict=False):
        place = plan.within(stage, spec)
        added = cells(plan.groups(stage, before), place, shape)
        for group in plan.groups(stage, before):
            # What goes on has something to go on from, up to the generation before.
            if group.static.first > 1:
                rows = place[group.where]
                columns = slice(group.trajectories.start, group.trajectories.stop)
                assert count[rows, columns, : group.static.first].all()
        count += added
        part = count[place][:, : stage.trajectories, : stage.generations + 1]
        assert (part == 1).all()
        assert count.sum() == part.size
    assert not plan.groups(spec, spec)


@each_stages
def test_what_extends_what(stages):
    for small, large in itertools.combinations_with_replacement(stages, 2):
        assert plan.extends(large, small)
        place = plan.within(small, large)
        both = grid(large)
        for at, here in zip(place, grid(small), strict=True):
            assert both[at] == here
        assert plan.extends(replaced(large, memory_gb=7.0), small)
        assert not plan.extends(large, replaced(small, trajectories=large.trajectories + 1))
        assert not plan.extends(large, replaced(small, generations=large.generations + 1))
        for name, value in (("phi", 0.9), ("keep_classifiers", True), ("signal", 2.0)):
            changes = {name: value} | ({"features": "mixture"} if name == "signal" else {})
            if name == "keep_classifiers" and "d" in large.sweep:
                continue
            assert not plan.extends(replaced(large, **changes), small)
        for name, values in small.sweep.items():
            fewer = {**large.sweep, name: [v for v in large.sweep[name] if v != values[0]]}
            if fewer[name] and name not in ("generator", "verifier", "initial"):
                assert not plan.extends(replaced(large, sweep=fewer), small)


def test_a_scalar_becomes_an_axis_only_with_its_value_on_it():
    small = Spec(n=50, l2=0.1)
    assert plan.extends(Spec(n=50, sweep={"l2": (0.2, 0.1)}), small)
    assert plan.within(small, Spec(n=50, sweep={"l2": (0.2, 0.1)})).tolist() == [1]
    assert not plan.extends(Spec(n=50, sweep={"l2": (0.2, 0.3)}), small)
    assert plan.extends(Spec(n=7, sweep={"n": (60, 50)}, l2=0.1), small)
    assert plan.extends(small, Spec(n=50, sweep={"l2": (0.1,)}))
    assert not plan.extends(small, Spec(n=50, sweep={"l2": (0.1, 0.2)}))


@each_spec
def test_chunks_hold_every_trajectory_once(spec):
    groups = plan.groups(spec)
    for work in (1, 300, 20_000, 10**6, 10**12):
        count = np.zeros((len(grid(spec)), spec.trajectories), int)
        chunks = list(plan.chunks(groups, work))
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


def work_of(static: Static, pairs: int) -> int:
    return static.n * static.d * static.generations * pairs


def test_chunks_are_of_nearly_one_size():
    """100 trajectories, 30 of which fill a chunk: 4 of 25, not 3 of 30 and one of 10."""
    groups = plan.groups(Spec(n=64, d=10, generations=1, trajectories=100))
    shapes = [chunk.shape for chunk in plan.chunks(groups, 64 * 10 * 30)]
    assert shapes == [(1, 25)] * 4


def test_chunks_of_what_is_new():
    """Trajectories 100 to 149 alone, and generations 4 and 5 of the first 100 as another group."""
    old, new = (Spec(n=64, d=10, trajectories=j, generations=t) for j, t in ((100, 3), (150, 5)))
    groups = plan.groups(new, old)
    found = [(groups[c.group].static.first, c.trajectories) for c in plan.chunks(groups, 64 * 500)]
    starts = {1: list(range(100, 150, 10)), 4: list(range(0, 100, 25))}
    ends = {1: list(range(110, 151, 10)), 4: list(range(25, 101, 25))}
    assert found == [(t, slice(*ab)) for t in (1, 4) for ab in zip(starts[t], ends[t], strict=True)]


def test_chunks_do_not_depend_on_the_memory_budget():
    big, small = (Spec(n=4000, d=100, trajectories=500, memory_gb=gb) for gb in (64.0, 0.05))
    found = [cut(spec, 2**28, "gpu", 1) for spec in (big, small)]
    assert found[0].chunks == found[1].chunks
    assert len(found[0].chunks) > 1
    assert found[0].tiles[0].trajectories > found[1].tiles[0].trajectories  # but tiles do


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@each_spec
def test_tiles_keep_to_the_budget_and_to_the_chunk(spec, platform):
    for work, devices in itertools.product((300, 10**6), (1, 2, 8)):
        groups, chunks, tiles = cut(spec, work, platform, devices)
        for g, (group, tile) in enumerate(zip(groups, tiles, strict=True)):
            held = plan.bytes_of(group.static, group.swept, tile.points) * tile.trajectories
            together = tile.devices if platform == "cpu" else 1
            assert held * together <= spec.memory_gb * GIB
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
        (tile,) = cut(spec, 2**40, "cpu", devices).tiles
        assert tile.devices == devices
    one = plan.bytes_of(plan.groups(spec)[0].static, (), 1)
    short = Spec(n=1000, d=50, trajectories=64, memory_gb=3.5 * one / GIB)
    assert cut(short, 2**40, "cpu", 8).tiles[0].devices == 3
    for processes in (1, 2, 8):  # each has memory of its own
        (tile,) = cut(short, 2**40, "cpu", 8, processes).tiles
        assert tile.devices == min(3, 8 // processes) * processes


def test_a_chip_of_a_pod_has_no_more_to_do_than_one_alone():
    """4000 trajectories for each chip, whatever their number: hardly more is computed for it."""
    steps = {"theta_ver": tuple(np.linspace(0.1, 3, 1000))}
    for chips in (1, 8, 64, 256, 1024, 4096):
        spec = Spec(n=1000, d=100, trajectories=4 * chips, verifier="linear", sweep=steps)
        (tile,) = cut(spec, 2**60, "tpu", chips).tiles
        assert tile.devices == chips
        assert 4000 <= tile.points * tile.trajectories * tile.count / chips <= 1.05 * 4000


@pytest.mark.parametrize("regime", ["replace", "accumulate"])
@pytest.mark.parametrize("devices", [1, 2, 7])
@pytest.mark.parametrize("n,d", [(1000, 50), (4000, 100), (123, 456), (100_000, 30)])
def test_a_budget_too_small_for_one_trajectory(n, d, devices, regime):
    def layout(memory_gb):
        return cut(Spec(n=n, d=d, regime=regime, memory_gb=memory_gb), 2**30, "cpu", devices)

    with pytest.raises(SpecError) as caught:
        layout(1e-7)
    error = caught.value
    assert (error.path, error.value) == ("memory_gb", 1e-7)
    least = float(error.rule.removeprefix("must be at least ").split(":")[0])
    assert f"d={d}" in error.rule
    assert ("keeps the examples" in error.rule) == (regime == "accumulate")
    layout(least)  # who follows the advice is not refused again
    with pytest.raises(SpecError):
        layout(0.98 * least)


def test_results_larger_than_the_memory_of_the_machine():
    """Refused before anything of that size is asked for."""
    with pytest.raises(SpecError) as caught:
        plan.check_results(Spec(trajectories=2**31 - 1, generations=1000))
    assert caught.value.path == "trajectories"
    spec = Spec(trajectories=3, generations=2, keep_classifiers=True)
    plan.check_results(spec)
    records = sweep.dataset.empty(spec, goes_on=False)
    assert plan.result_bytes(spec) == sum(leaf.nbytes for leaf in jax.tree.leaves(records))


def told(static, swept, tile_points, mesh, axes, numbers, seed, index, before) -> Record:
    """In place of run_tiles: each record says which grid point and trajectory it was asked for.

    And classifiers say it too, which those that go on from them must have come with.
    """
    tiles, trajectories = index.shape
    assert tiles % mesh.size == 0
    ts = np.arange(0 if static.first == 1 else static.first, static.generations + 1)
    shape = (tiles, trajectories, tile_points, len(ts))

    def of_point(name):
        values = getattr(numbers, name)
        if name in swept:
            assert values.shape == (tiles, tile_points)
            values = values[:, None, :, None]
        return np.broadcast_to(values, shape)

    verifier = AXES["verifier"].index(name_of("verifier", static))
    here = 1000 * of_point("psi")[..., :1] + index[:, :, None, None]
    if static.first > 1:
        past = np.arange(static.first)[-before.carried.shape[-2] :]
        assert len(past) == (static.first if static.parts else 1)
        assert before.carried.shape[-1] == static.coordinates
        assert (before.carried == (here + past)[..., None]).all()
        assert (before.status == verifier).all()
    carried = (here + (ts if static.parts else ts[-1:]))[..., None]
    return Record(
        accuracy=np.broadcast_to(index[:, :, None, None], shape),
        test_accuracy=of_point("p"),
        overlap=of_point("psi"),
        verifier_overlap=of_point("l2"),
        norm=of_point("l2"),
        status=np.full(shape, verifier),
        right=of_point("n"),
        wrong=np.full(shape, static.d),
        kept_right=np.full(shape, AXES["learner"].index(name_of("learner", static))),
        kept_wrong=np.full(shape, seed),
        products=np.full(shape, static.d),
        carried=np.broadcast_to(carried, (*carried.shape[:-1], static.coordinates)),
        classifier=None,
    )


told._cache_size = lambda: 0  # as a function that jax.jit made has it


def name_of(family: str, static: Static) -> str:
    (name,) = (name for name in AXES[family] if plan.KINDS[family][name] is getattr(static, family))
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages",
    [
        pytest.param(case, id=f"{i}{name}", marks=pytest.mark.long if i % 4 else ())
        for name, cases in (("", [(spec,) for spec in SPECS]), (" stages", STAGES))
        for i, case in enumerate(cases)
    ],
)
def test_a_record_lands_where_it_belongs(stages, monkeypatch):
    """Through chunks, tiles, their padding and back: every trajectory of every grid point."""
    monkeypatch.setattr(sweep, "run_tiles", told)
    monkeypatch.setattr(sweep.dataset, "theory", lambda spec: None)
    spec = stages[-1]
    points = grid(spec)

    def of_point(value):
        values = np.array([value(point) for point in points])[:, None, None]
        return np.broadcast_to(values, (len(points), spec.trajectories, spec.generations + 1))

    for work, cpu_tile, devices in (
        (3000, 1, jax.devices()),
        (3000, 2000, jax.devices()[:1]),
        (10**7, 2000, jax.devices()),
        (10**7, 2**19, jax.devices()[:1]),
    ):
        monkeypatch.setattr(plan, "CPU_TILE", cpu_tile)
        run = sweep._Sweep(spec, devices, [(stage, work) for stage in stages])
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
