"""One contract for every interchangeable part of a trajectory, and for trajectories made of them.

What is tested is read from the registries, so a new kind goes through by being in one, and a kind
of the user's own by being registered here before `PARTS` is made. A part that uses no random
numbers is named in DETERMINISTIC besides.

Rounding: a part alone, batched and compiled may order its sums differently, so numbers agree to
2e-5 (a learner stops at a relative gradient of 1e-5, on a Hessian here between 0.1 and 3), labels
and verdicts exactly. A margin within rounding of 0 would flip one: a chance of 1e-7 an example and
1e-2 for this file, and seeds are fixed.
"""

import itertools
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax import mixture
from synthjax.mixture import plan
from synthjax.mixture.data import Numbers, Sample
from synthjax.mixture.learn import Fit
from synthjax.mixture.spec import Spec, reads
from synthjax.mixture.sweep import run_tiles
from synthjax.mixture.trajectory import Record, trajectory
from synthjax.protocol.spec import Kind, SpecError, fields_of

N, D, T = 40, 5, 2
TOLERANCE = 2e-5

FAMILIES = {
    name: field.metadata["kinds"]
    for name, field in fields_of(Spec).items()
    if field.metadata["kinds"] and name != "engine"
}
# `initial` has no function of its own: it is tested in trajectories.
PARTS = [
    pytest.param(family, name, part, id=f"{family}-{name}")
    for family, kinds in FAMILIES.items()
    for name, part in kinds.items()
    if part.call is not None
]
KEYED = ("features", "generator", "verifier")
DETERMINISTIC = {
    ("generator", "linear"),
    ("verifier", "none"),
    ("verifier", "oracle"),
    ("verifier", "linear"),
}

each_part = pytest.mark.parametrize("family, name, part", PARTS)


class Inputs(NamedTuple):
    """All that any part takes."""

    key: Any
    numbers: Numbers
    generation: np.int32
    w: np.ndarray
    x: np.ndarray
    y: np.ndarray
    guesses: np.ndarray
    verdict: np.ndarray


def other_value(name):
    """A value in range of a numeric field that is not its default."""
    field = fields_of(Spec)[name]
    low, high = field.metadata["low"], min(field.metadata["high"], 10.0)
    goal = high if field.default < high else low
    return 0.7 * field.default + 0.3 * goal


DEFAULT = Numbers(*(np.float32(fields_of(Spec)[name].default) for name in Numbers._fields))
OTHER = Numbers(*(np.float32(other_value(name)) for name in Numbers._fields))


def inputs(seed, numbers=DEFAULT):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, D))
    y = np.sign(x[:, 0] + rng.standard_normal(N))
    guesses = np.where(rng.random(N) < 0.3, -y, y)
    arrays = (rng.standard_normal(D), x, y, guesses, rng.random(N) < 0.7)
    return Inputs(
        jax.random.key(seed), numbers, np.int32(1), *(a.astype(np.float32) for a in arrays)
    )


def applied(family, part):
    """The part as a function of Inputs."""
    call = part.call
    return {
        "features": lambda i: call(i.key, i.numbers, N, D),
        "generator": lambda i: call(i.key, i.numbers, i.generation, i.w, i.x, i.y),
        "verifier": lambda i: call(i.key, i.numbers, i.x, i.y, i.guesses),
        "selection": lambda i: call(i.verdict),
        "regime": lambda i: call(Sample(i.x, i.guesses, i.verdict)),
        "learner": lambda i: call(Sample(i.x, i.guesses, i.verdict), i.numbers.l2),
    }[family]


def assert_same(found, wanted, tolerance=TOLERANCE):
    """Equal pytrees; floats to `tolerance` of the larger of 1 and the value."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def differ(found, wanted):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return any(not np.array_equal(a, b) for a, b in leaves)


def check_shapes(family, name, part):
    given = inputs(0)
    out = applied(family, part)(given)
    shapes = {
        "features": ((N, D), (N,)),
        "regime": Sample((N, D), (N,), (N,)),
        "learner": Fit((D,), ()),
    }.get(family, (N,))
    assert jax.tree.map(jnp.shape, out) == shapes
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(out)]
    assert dtypes == ([jnp.float32, bool] if family == "learner" else [jnp.float32] * len(dtypes))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    if family in ("features", "generator"):
        assert set(np.unique(out[1] if family == "features" else out)) == {-1, 1}
    if family == "verifier":
        assert set(np.unique(out)) <= {0, 1}
    if family == "selection":
        assert (out >= 0).all() and not out[given.verdict == 0].any()
    if family == "regime":
        assert set(np.unique(out.labels)) == {-1, 1} and (out.weights >= 0).all()


def check_randomness(family, name, part):
    """The same key gives the same draws, and another key others where there are any."""
    call, given = applied(family, part), inputs(0)
    again, other = call(given), call(given._replace(key=jax.random.key(1)))
    assert not differ(call(given), again)
    random = family in KEYED and (family, name) not in DETERMINISTIC
    assert differ(other, again) == random


def check_reads(family, name, part):
    """A number matters if and only if the part says that it reads it."""
    call, given = applied(family, part), inputs(0)
    plain = call(given)
    for number in Numbers._fields:
        changed = DEFAULT._replace(**{number: getattr(OTHER, number)})
        changed = differ(call(given._replace(numbers=changed)), plain)
        assert changed == (number in part.reads), number


def check_compiles_once(family, name, part):
    call, traces = applied(family, part), []

    @jax.jit
    def counted(given):
        traces.append(1)
        return call(given)

    counted(inputs(0))
    counted(inputs(1, OTHER)._replace(generation=np.int32(2)))
    assert len(traces) == 1


def check_alone_and_batched(family, name, part):
    """Plain, compiled, and the same in a batch of others: with other keys, inputs and numbers."""
    call = applied(family, part)
    many = [inputs(seed, OTHER if seed % 2 else DEFAULT) for seed in range(4)]
    batch = jax.jit(jax.vmap(call))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *many))
    for i, given in enumerate(many):
        alone = call(given)
        assert_same(jax.jit(call)(given), alone)
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], batch), alone)


CHECKS = [check_shapes, check_randomness, check_reads, check_compiles_once, check_alone_and_batched]


@pytest.mark.parametrize("check", CHECKS)
@each_part
def test_part(family, name, part, check):
    check(family, name, part)


@pytest.mark.parametrize(
    "check, family, reads, call",
    [
        (check_shapes, "verifier", (), lambda key, numbers, x, y, guesses: guesses == y),
        (check_shapes, "generator", (), lambda key, numbers, t, w, x, y: x @ w),
        (check_shapes, "selection", (), lambda verdict: verdict - 0.5),
        (check_randomness, "features", (), lambda key, numbers, n, d: (jnp.ones((n, d)), 1.0)),
        (check_reads, "verifier", (), lambda key, numbers, x, y, guesses: guesses + numbers.phi),
        (check_reads, "verifier", ("psi",), lambda key, numbers, x, y, guesses: guesses),
        (
            check_compiles_once,
            "generator",
            (),
            lambda key, numbers, t, w, x, y: y if float(numbers.p) > 0.5 else -y,
        ),
        (
            check_alone_and_batched,
            "generator",
            (),
            lambda key, numbers, t, w, x, y: y * (1 + isinstance(w, jax.core.Tracer)),
        ),
    ],
)
def test_contract_refuses_a_broken_part(check, family, reads, call):
    with pytest.raises((AssertionError, jax.errors.ConcretizationTypeError)):
        check(family, "broken", Kind(call, reads, ""))


@pytest.mark.parametrize("name, part", FAMILIES["learner"].items(), ids=FAMILIES["learner"])
def test_learner_sees_kept_rows_only(name, part):
    """Whatever stands in rows of weight 0, the fit is that of the kept rows by themselves."""
    given, l2 = inputs(0), DEFAULT.l2
    kept = given.verdict > 0
    alone = part.call(Sample(given.x[kept], given.guesses[kept], given.verdict[kept]), l2)
    rng = np.random.default_rng(1)
    x = np.where(kept[:, None], given.x, 10 * rng.standard_normal((N, D))).astype(np.float32)
    labels = np.where(kept, given.guesses, -given.guesses)
    assert_same(part.call(Sample(x, labels, given.verdict), l2), alone)


def legal_combinations():
    """Every combination of kinds that makes a spec, as a dict."""
    for kinds in itertools.product(*FAMILIES.values()):
        combination = dict(zip(FAMILIES, kinds, strict=True))
        try:
            Spec(**combination)
        except SpecError:
            continue
        yield combination


def covering_pairs():
    """A few of them in which every two kinds that go together meet."""
    combinations = {tuple(c.items()): set(itertools.combinations(c.items(), 2)) for c in LEGAL}
    todo = set().union(*combinations.values())
    while todo:
        best = max(combinations, key=lambda c: len(todo & combinations[c]))
        todo -= combinations[best]
        yield dict(best)


LEGAL = list(legal_combinations())
COMPILED = list(covering_pairs())
SEED = np.uint32(2**32 - 1)


def each(combinations):
    return pytest.mark.parametrize("kinds", combinations, ids=lambda k: "-".join(k.values()))


def group_of(kinds):
    real = {"n_real": 30} if "n_real" in reads(kinds) else {}
    spec = Spec(n=N, d=D, generations=T, keep_classifiers=True, **real, **kinds)
    return plan.groups(spec)[0]


@pytest.mark.slow
@each(COMPILED)
def test_trajectory(kinds):
    """Finite and well-formed, and the same alone, operation by operation, as compiled in a batch.

    Every two kinds that go together are in one of the combinations.
    """
    group, index = group_of(kinds), np.arange(3, dtype=np.int32)
    many = jax.jit(
        jax.vmap(lambda i: trajectory(group.static, group.numbers, SEED, i)),
        # Compiling is nearly all of the time: no optimisation halves it.
        compiler_options={"xla_backend_optimization_level": 0},
    )(index)
    assert many.classifier.shape == (3, T + 1, D)
    for name, leaf in many._asdict().items():
        assert leaf.shape[:2] == (3, T + 1)
        assert leaf.dtype == (jnp.int32 if Record._fields.index(name) in range(4, 9) else "float32")
        assert np.isfinite(leaf[:, 1:]).all()
    assert not many.status.any()
    assert (many.right + many.wrong)[:, 1:].tolist() == [[N] * T] * 3
    assert not many.right[:, 0].any() and not many.wrong[:, 0].any()
    assert (many.kept_right <= many.right).all() and (many.kept_wrong <= many.wrong).all()
    assert len({float(a) for a in many.accuracy[:, -1]}) == 3
    with jax.disable_jit():
        alone = trajectory(group.static, group.numbers, SEED, index[1])
    assert_same(jax.tree.map(lambda leaf: leaf[1], many), alone)


@pytest.mark.slow
@each([kinds for kinds in LEGAL if kinds not in COMPILED])
def test_every_other_combination_runs(kinds):
    """Operation by operation, which takes a tenth of the time of compiling it."""
    group = group_of(kinds)
    with jax.disable_jit():
        record = trajectory(group.static, group.numbers, SEED, np.int32(0))
    assert all(np.isfinite(leaf[1:]).all() for leaf in record)
    assert not record.status.any()


# Random numbers of every kind, and grid points that share features.
WHOLE = dict(
    n=N,
    d=D,
    generations=T,
    trajectories=6,
    seed=3,
    features="mixture",
    generator="flip",
    verifier="noisy",
    phi=0.8,
    learner="ridge",
    keep_classifiers=True,
    sweep={"psi": (0.1, 0.5, 0.9)},
)


@cache
def whole():
    return mixture.run(Spec(**WHOLE))


def assert_same_results(found, wanted):
    for name in ("classifier", "accuracy", "test_accuracy", "overlap", "norm", "p_hat", "kept"):
        np.testing.assert_allclose(
            found[name], wanted[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
        )
    np.testing.assert_array_equal(found.status, wanted.status)


@pytest.mark.slow
def test_new_values_and_seeds_compile_nothing():
    before = whole()
    size = run_tiles._cache_size()
    changed = {"seed": 2**32 - 1, "signal": 2.0, "p": 0.1, "phi": 0.7, "l2": 1.0}
    after = mixture.run(Spec(**(WHOLE | changed | {"sweep": {"psi": (0.0, 0.3, 1.0)}})))
    assert run_tiles._cache_size() == size
    assert abs(after.accuracy.values - before.accuracy.values).min() > 0
    mixture.run(Spec(**(WHOLE | {"n": N + 1})))
    assert run_tiles._cache_size() == size + 1  # the count does count


@pytest.mark.slow
def test_alone():
    """Every trajectory of a run, computed by itself."""
    spec = Spec(**WHOLE)
    group = plan.groups(spec)[0]
    alone = jax.jit(trajectory, static_argnums=0)
    for (k, psi), i in itertools.product(enumerate(spec.sweep["psi"]), range(spec.trajectories)):
        numbers = group.numbers._replace(psi=np.float32(psi))
        record = alone(group.static, numbers, np.uint32(spec.seed), np.int32(i))
        found = whole().isel(psi=k, trajectory=i)
        for name in ("classifier", "accuracy", "test_accuracy", "overlap", "norm", "status"):
            assert_same(np.asarray(getattr(record, name)), found[name].values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, shared",
    [
        ({"trajectories": 2}, {"trajectory": [0, 1]}),
        ({"generations": 1}, {"generation": [0, 1]}),
        ({"sweep": {"psi": (0.9, 0.2, 0.1)}}, {"psi": [0.1, 0.9]}),
        # Then the grid points have features of their own: signal changes them.
        ({"sweep": {"psi": (0.5,), "signal": (1.0, 2.0)}}, {"psi": [0.5]}),
    ],
    ids=["trajectories", "generations", "psi", "signal"],
)
def test_what_else_is_run_changes_nothing(change, shared):
    found = mixture.run(Spec(**(WHOLE | change)))
    if "signal" in found.dims:
        found = found.sel(signal=1.0)
    assert_same_results(found.sel(shared), whole().sel(shared))


@pytest.mark.slow
def test_chunks_change_nothing(monkeypatch):
    spec, wanted = Spec(**WHOLE), whole()
    monkeypatch.setattr(plan, "chunk_work", lambda *_: 1)
    assert len(list(plan.chunks(spec, 1))) == spec.trajectories
    assert_same_results(mixture.run(spec), wanted)


@pytest.mark.slow
def test_memory_changes_nothing():
    """A budget for one trajectory at one grid point at a time, which leaves devices idle."""
    devices, one = jax.local_devices(), plan.bytes_of(plan.groups(Spec(**WHOLE))[0].static, (), 1)
    small = Spec(**(WHOLE | {"memory_gb": 1.01 * one / 2**30}))
    layouts = [
        plan.layout(spec, 10**9, devices[0].platform, len(devices))
        for spec in (small, Spec(**WHOLE))
    ]
    tight, roomy = (tiles[0] for _, _, tiles in layouts)
    assert (tight.points, tight.trajectories, tight.devices) == (1, 1, 1)
    assert roomy.points * roomy.trajectories > 1
    assert_same_results(mixture.run(small), whole())
