"""One contract for every interchangeable part of a trajectory, and for trajectories made of them.

What is tested is read from the registries, so a new kind goes through by being in one, and a part
of the user's own by a line in OWN of `own_parts`. A kind of synthjax that uses random numbers is
named in RANDOM besides.

That every legal combination of kinds runs follows from three tests, as a trajectory is two halves
that know each other by arrays of fixed shapes and dtypes alone:

- what a classifier makes of a generation, a `Sample` (`_kept`): features, covariance, generator,
  verifier, selection, and whether the regime is given real examples. Every combination of these
  runs by itself, in arrays of two lengths, and all of them give arrays alike.
- what a sample makes of the classifier (the rest of `trajectory`): initial, regime, learner, and
  whether the generator asks for w₀. Every combination of these runs in whole trajectories, at once
  and from half way on.
- whole trajectories in which every two kinds that go together meet, compiled in a batch.

That these halves put together are all that a spec allows is a test as well.

Rounding: a part alone, batched and compiled may order its sums differently, so numbers agree to
2e-5 (a learner stops at a relative gradient of 1e-5, on a Hessian here between 0.1 and 3), labels
and verdicts exactly. A margin within rounding of 0 would flip one: a chance of 1e-7 an example and
1e-2 for this file, and seeds are fixed.
"""

import itertools
import random
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_parts import own_parts, probit
from sampled import assert_same

from synthjax.mixture import plan, pool
from synthjax.mixture.covariance import Covariance, rotation
from synthjax.mixture.data import Examples, Numbers, Sample, side
from synthjax.mixture.learn import Fit
from synthjax.mixture.spec import Spec, reads
from synthjax.mixture.trajectory import Before, Record, _kept, trajectory
from synthjax.protocol.keys import key
from synthjax.protocol.select import SELECTIONS
from synthjax.protocol.spec import Kind, SpecError, fields_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_theory")]

N, K, D, T = 64, 3, 5, 2
TOLERANCE = 2e-5

FIELDS = fields_of(Spec)


@pytest.fixture(autouse=True, scope="module")
def _own_parts():
    with own_parts():
        yield


@pytest.fixture(autouse=True)
def _as_trajectories_draw():
    """Of random numbers threefry has two forms; in the other one any draw would be one by rows."""
    with jax.threefry_partitionable(False):
        yield


with own_parts():
    FAMILIES = {
        name: dict(field.metadata["kinds"])
        for name, field in FIELDS.items()
        if field.metadata["kinds"] and name != "engine"
    }
# `initial` and `regime` are choices, with no function of their own: they are tested in
# trajectories.
PARTS = [
    pytest.param(family, name, part, id=f"{family}-{name}")
    for family, kinds in FAMILIES.items()
    for name, part in kinds.items()
    if callable(part.call)
]
RANDOM = {
    ("features", "teacher"),
    ("features", "mixture"),
    ("generator", "logistic"),
    ("generator", "flip"),
    ("generator", "flip_by_class"),
    ("verifier", "noisy"),
    ("verifier", "noisy_by_class"),
    ("selection", "prune"),
    ("selection", "best_of_k"),
}

each_part = pytest.mark.parametrize("family, name, part", PARTS)


class Inputs(NamedTuple):
    """All that any part takes."""

    key: Any
    numbers: Numbers
    examples: Examples
    guesses: np.ndarray
    scores: np.ndarray
    valid: np.ndarray


def other_value(name):
    """A value in range of a numeric field that is not its default."""
    low, high = FIELDS[name].metadata["low"], min(FIELDS[name].metadata["high"], 10.0)
    goal = high if FIELDS[name].default < high else low
    return 0.7 * FIELDS[name].default + 0.3 * goal


SIZES = {"n": (N, N - 9), "n_real": (N, N - 9), "k": (K, K - 1)}
DEFAULT, OTHER = (
    Numbers(
        *(
            np.int32(SIZES[name][i]) if name in SIZES else np.float32(value(name))
            for name in Numbers._fields
        )
    )
    for i, value in enumerate((lambda name: FIELDS[name].default, other_value))
)


def inputs(seed, numbers=DEFAULT, rows=N):
    """Of more rows the first are the same, and those beyond N do not count."""

    def rng(i):
        return np.random.default_rng([seed, i])

    z = rng(0).standard_normal((rows, D))
    y = np.where(z[:, 0] + rng(1).standard_normal(rows) >= 0, 1, -1)
    guesses = np.where(rng(2).random(rows) < 0.3, -y, y)
    w = rng(3).standard_normal(D)
    scores = rng(4).integers(0, 2, (rows, K)).T  # with ties
    valid = (rng(5).random((rows, K)).T < 0.8) & (np.arange(rows) < N)
    arrays = (z * np.linspace(1.5, 0.5, D), z, y, w, guesses, scores)
    x, z, y, w, guesses, scores = (a.astype(np.float32) for a in arrays)
    examples = Examples(x, z, y, w, np.int32(1))
    return Inputs(jax.random.key(seed), numbers, examples, guesses, scores, valid)


def sample_of(given):
    return Sample(given.examples.x, given.guesses, given.valid[0].astype(np.float32))


def applied(family, part):
    """The part as a function of Inputs."""
    call, rows = part.call, K if "k" in part.reads else 1

    def selected(i):
        valid = i.valid[:rows] & (jnp.arange(rows)[:, None] < i.numbers.k)
        return [call(i.key, i.scores[:rows], valid, keep) for keep in (None, np.float32(0.3))]

    return {
        "features": lambda i: call(i.key, i.numbers, len(i.guesses), D),
        "covariance": lambda i: call(i.numbers.covariance_decay, D, rotation(D)),
        "generator": lambda i: call(i.key, i.numbers, i.examples),
        "verifier": lambda i: call(i.key, i.numbers, i.examples, i.guesses),
        "selection": selected,
        "learner": lambda i: call(i.key, i.numbers, sample_of(i)),
    }[family]


def differ(found, wanted):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in leaves)


def check_shapes(family, name, part):
    given = inputs(0)
    out = applied(family, part)(given)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(out)]
    assert dtypes == ([jnp.float32, bool] if family == "learner" else [jnp.float32] * len(dtypes))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    shape = jax.tree.map(jnp.shape, out)
    if family == "features":
        assert shape == ((N, D), (N,)) and set(np.unique(out[1])) == {-1, 1}
    if family == "covariance":
        assert isinstance(out, Covariance)
        root, inverse = (_square(leaf) for leaf in out)
        np.testing.assert_allclose(root @ inverse, np.eye(D), atol=TOLERANCE)
        np.testing.assert_allclose(root, root.T, atol=TOLERANCE)
        np.testing.assert_allclose(np.trace(root @ root), D, rtol=TOLERANCE)
    if family == "generator":
        assert shape == (N,) and set(np.unique(out)) == {-1, 1}
    if family == "verifier":
        assert shape == (N,)
        assert "keep" in part.reads or set(np.unique(out)) <= {0, 1}
    if family == "selection":
        for weights in out:
            assert weights.shape[1] == N and set(np.unique(weights)) <= {0, 1}
            assert not weights[~given.valid[: len(weights)]].any()
            assert weights.any() and weights.sum(0).max() <= 1  # of each example one guess
    if family == "learner":
        assert isinstance(out, Fit) and shape == Fit((D,), ())


def _square(root):
    return np.eye(D) if root is None else np.diag(root) if root.ndim == 1 else np.asarray(root)


def check_randomness(family, name, part):
    """The same key gives the same draws, and another key others where there are any."""
    call, given = jax.jit(applied(family, part)), inputs(0)
    again, other = call(given), call(given._replace(key=jax.random.key(1)))
    assert not differ(call(given), again)
    assert part.own or differ(other, again) == ((family, name) in RANDOM)


def check_reads(family, name, part):
    """A number matters if and only if the part says that it reads it."""
    call, given = applied(family, part), inputs(0)

    @jax.jit
    def result(i):
        if family != "verifier" or "keep" not in part.reads:
            return call(i)
        # Which guesses are kept is decided by the selection, as the scores and `keep` have it.
        scores = call(i)
        kept = SELECTIONS["prune"].call(i.key, scores[None], i.valid[:1], i.numbers.keep)
        return scores, kept

    plain = result(given)
    for number in Numbers._fields:
        changed = DEFAULT._replace(**{number: getattr(OTHER, number)})
        changed = differ(result(given._replace(numbers=changed)), plain)
        assert changed == (number in part.reads), number


def check_compiles_once(family, name, part):
    call, traces = applied(family, part), []

    @jax.jit
    def counted(given):
        traces.append(1)
        return call(given)

    counted(inputs(0))
    other = inputs(1, OTHER)
    counted(other._replace(examples=other.examples._replace(generation=np.int32(2))))
    assert len(traces) == 1


def check_alone_and_batched(family, name, part):
    """Plain, compiled, and the same in a batch of others: with other keys, inputs and numbers."""
    call = applied(family, part)
    many = [inputs(seed, OTHER if seed % 2 else DEFAULT) for seed in range(4)]
    batch = jax.jit(jax.vmap(call))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *many))
    assert_same(jax.jit(call)(many[0]), call(many[0]))
    for i, given in enumerate(many):
        alone = jax.jit(call)(given)
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], batch), alone)


def check_longer(family, name, part):
    """A longer array leaves the first rows as they are, and the fit to what counts in it."""
    call = jax.jit(applied(family, part))
    short, long = call(inputs(0)), call(inputs(0, rows=2 * N))
    if family == "selection":
        assert not any(weights[:, N:].any() for weights in long)
        long = [weights[:, :N] for weights in long]
    elif family not in ("covariance", "learner"):
        long = jax.tree.map(lambda leaf: leaf[:N], long)
    assert_same(long, short)


CHECKS = [
    check_shapes,
    check_randomness,
    check_reads,
    check_compiles_once,
    check_alone_and_batched,
    check_longer,
]


@pytest.mark.parametrize("check", CHECKS)
@each_part
def test_part(family, name, part, check):
    check(family, name, part)


def _draws_for_the_whole_array(key, numbers, examples):
    return side(jax.random.uniform(key, examples.y.shape) - 0.5)


@pytest.mark.parametrize(
    "check, family, reads, call",
    [
        (check_shapes, "verifier", (), lambda key, numbers, e, guesses: guesses == e.y),
        (check_shapes, "verifier", (), lambda key, numbers, e, guesses: 0.5 * guesses),
        (check_shapes, "generator", (), lambda key, numbers, e: e.x @ e.w),
        (check_shapes, "selection", (), lambda key, scores, valid, keep: scores),
        (check_shapes, "learner", (), lambda key, numbers, sample: sample.x[0]),
        (check_shapes, "covariance", (), lambda decay, d, axes: Covariance(axes, axes)),
        (check_randomness, "generator", (), probit),  # random, and in no list
        (check_reads, "verifier", (), lambda key, numbers, e, guesses: guesses + numbers.phi),
        (check_reads, "verifier", ("psi",), lambda key, numbers, e, guesses: guesses),
        (check_reads, "verifier", ("keep",), lambda key, numbers, e, guesses: numbers.p * guesses),
        (
            check_compiles_once,
            "generator",
            (),
            lambda key, numbers, e: e.y if float(numbers.p) > 0.5 else -e.y,
        ),
        (
            check_alone_and_batched,
            "generator",
            (),
            lambda key, numbers, e: e.y * (1 + isinstance(e.w, jax.core.Tracer)),
        ),
        (check_longer, "generator", (), _draws_for_the_whole_array),
        (check_longer, "verifier", (), lambda key, numbers, e, guesses: guesses - guesses.mean()),
        (check_longer, "learner", (), lambda key, numbers, sample: Fit(sample.x.mean(0), True)),
    ],
)
def test_contract_refuses_a_broken_part(check, family, reads, call):
    with pytest.raises((AssertionError, jax.errors.ConcretizationTypeError)):
        check(family, "broken", Kind(call, reads, ""))


@pytest.mark.parametrize("name, part", FAMILIES["learner"].items(), ids=FAMILIES["learner"])
def test_learner_sees_kept_rows_only(name, part):
    """Whatever stands in rows of weight 0, the fit is that of the kept rows by themselves."""
    given = inputs(0)
    sample = sample_of(given)
    kept = sample.weights > 0
    alone = part.call(given.key, DEFAULT, Sample(*(leaf[kept] for leaf in sample)))
    rng = np.random.default_rng(1)
    x = np.where(kept[:, None], sample.x, 10 * rng.standard_normal((N, D))).astype(np.float32)
    labels = np.where(kept, sample.labels, -sample.labels)
    assert_same(part.call(given.key, DEFAULT, Sample(x, labels, sample.weights)), alone)


def test_subsample():
    """Of what was kept n rows, each once, whatever the lengths of the arrays; all if fewer."""

    @partial(jax.jit, static_argnums=(2, 4))
    def subsample(key, past, parts, n, rows):
        return pool.taken(past, pool.chosen(key, past.weights, parts, n), rows)

    def chosen(seed, n, rows):
        parts = []
        for i in range(2):
            kept = np.random.default_rng(i).random(rows) < 0.5
            row = np.arange(rows)
            x = np.broadcast_to((1000 * i + row)[:, None], (rows, D))
            parts.append((x, np.where(row % 2, 1, -1), kept & (row < N)))
        past = Sample(
            *(np.concatenate(leaves).astype(np.float32) for leaves in zip(*parts, strict=True))
        )
        found = subsample(jax.random.key(seed), past, (0, rows, rows), np.int32(n), rows)
        assert found.x.shape == (rows, D)
        x, labels, weights = (np.asarray(leaf) for leaf in found)
        names = x[weights > 0, 0]
        np.testing.assert_array_equal(labels[weights > 0], np.where(names % 2, 1, -1))
        assert set(names) <= set(past.x[past.weights > 0, 0]) and len(set(names)) == len(names)
        return sorted(names), int(past.weights.sum())

    once, kept = chosen(0, 30, N)
    assert len(once) == 30
    assert once == chosen(0, 30, 2 * N)[0]
    assert once != chosen(1, 30, N)[0]
    assert len(chosen(0, kept + 1, 2 * N)[0]) == kept


SEED = np.uint32(2**32 - 1)
COUNTS = Record._fields[6:11]
# One kind for all that are the same to a half of a trajectory.
BY_REAL = {part.call.real: name for name, part in FAMILIES["regime"].items()}
BY_PLACED = {"initial" in part.reads: name for name, part in FAMILIES["generator"].items()}
FIRST = ("features", "covariance", "generator", "verifier", "selection", "regime")
SECOND = ("initial", "generator", "regime", "learner")


def is_legal(kinds):
    try:
        Spec(**kinds)
    except SpecError:
        return False
    return True


def every(**families):
    for kinds in itertools.product(*families.values()):
        yield dict(zip(families, kinds, strict=True))


def first_half(kinds):
    real = FAMILIES["regime"][kinds["regime"]].call.real
    return {name: kinds[name] for name in FIRST} | {"regime": BY_REAL[real]}


def second_half(kinds):
    placed = "initial" in FAMILIES["generator"][kinds["generator"]].reads
    return {name: kinds[name] for name in SECOND} | {"generator": BY_PLACED[placed]}


def covering_pairs():
    """A few combinations in which every two kinds that go together meet."""
    every_kind = [(family, kind) for family, kinds in FAMILIES.items() for kind in kinds]
    todo = [pair for pair in itertools.combinations(every_kind, 2) if pair[0][0] != pair[1][0]]
    rng = random.Random(0)
    while todo:
        some = [
            {name: rng.choice([*kinds]) for name, kinds in FAMILIES.items()} | dict(todo[0])
            for _ in range(100)
        ]
        legal = [kinds for kinds in some if is_legal(kinds)]
        # Two kinds that go with nothing are given up.
        best, left = {}, todo[1:]
        for kinds in legal:
            rest = [pair for pair in todo if not met(pair, kinds)]
            if len(rest) <= len(left):
                best, left = kinds, rest
        todo = left
        if best:
            yield best


def met(pair, kinds):
    return all(kinds[family] == kind for family, kind in pair)


with own_parts():
    FIRST_HALVES = [
        kinds
        for kinds in every(**{f: FAMILIES[f] for f in FIRST[:-1]}, regime=BY_REAL.values())
        if is_legal(kinds)
    ]
    SECOND_HALVES = [
        kinds
        for kinds in every(**{f: FAMILIES[f] for f in SECOND} | {"generator": BY_PLACED.values()})
        if is_legal(kinds)
    ]
    COMPILED = list(covering_pairs())


def each(combinations):
    return pytest.mark.parametrize("kinds", combinations, ids=lambda k: "-".join(k.values()))


def group_of(kinds):
    read = reads(
        {name: field.default for name, field in FIELDS.items() if name in FAMILIES} | kinds
    )
    sizes = {"n_real": 30, "k": K}
    sizes = {name: value for name, value in sizes.items() if name in read}
    spec = Spec(n=N - 14, d=D, generations=T, keep_classifiers=True, **sizes, **kinds)
    return plan.groups(spec)[0]


@pytest.mark.slow
def test_every_combination_is_made_of_two_halves():
    for kinds in every(**FAMILIES):
        halves = first_half(kinds) in FIRST_HALVES and second_half(kinds) in SECOND_HALVES
        assert is_legal(kinds) == halves, kinds


@cache
def compiled(call, *static):
    return jax.jit(call, static_argnums=static)


@pytest.mark.slow
@pytest.mark.parametrize("generator", FAMILIES["generator"])
@pytest.mark.parametrize("verifier", FAMILIES["verifier"])
def test_every_first_half(generator, verifier):
    """From a classifier to a sample, as far as it can be wrong: every part compiled by itself."""
    for kinds in FIRST_HALVES:
        if (kinds["generator"], kinds["verifier"]) != (generator, verifier):
            continue
        group = group_of(kinds)
        static, numbers = group.static, group.numbers
        covariance = static.covariance.call(numbers.covariance_decay, D, rotation(D))
        parts = {
            name: getattr(static, name)._replace(
                call=compiled(getattr(static, name).call, *((2, 3) if name == "features" else ()))
            )
            for name in ("features", "generator", "verifier", "selection")
        }
        static = static._replace(**parts)
        # The same with more room, for examples and for guesses.
        roomy = static._replace(n=2 * N, k=static.k + (static.k > 1))
        n = int(numbers.n)
        fresh = round(n * float(numbers.real_fraction)) if static.regime.call.real else 0
        for t in (1, 2):
            w = inputs(t).examples.w * (t > 1 or static.placed)
            given = numbers, covariance, lambda name, t: key(SEED, name, 0, t), w, jnp.int32(t)
            sample, counts = _kept(static, *given)
            longer, same_counts = _kept(roomy, *given)
            assert not longer.weights[N:].any()
            assert_same(jax.tree.map(lambda leaf: leaf[:N], longer), sample)
            assert counts == same_counts
            assert [(leaf.shape, leaf.dtype) for leaf in sample] == [
                ((N, D), jnp.float32),
                ((N,), jnp.float32),
                ((N,), jnp.float32),
            ]
            assert all(count.dtype == jnp.int32 for count in counts)
            x, labels, weights = (np.asarray(leaf) for leaf in sample)
            assert np.isfinite(x).all() and set(np.unique(labels)) == {-1, 1}
            assert set(np.unique(weights)) <= {0, 1} and not weights[n:].any()
            assert weights[:fresh].all()
            right, wrong, kept_right, kept_wrong = (int(count) for count in counts)
            assert right + wrong == (n - fresh) * static.k
            assert kept_right <= right and kept_wrong <= wrong
            assert kept_right + kept_wrong == weights[fresh:].sum() > 0
            if kinds["selection"] == "best_of_k" or kinds["verifier"] == "none":
                assert kept_right + kept_wrong == n - fresh


@pytest.mark.slow
@each(SECOND_HALVES)
def test_every_second_half(kinds):
    """Operation by operation, which takes less time than compiling; and from half way on."""
    group = group_of(kinds)
    static = group.static
    numbers = group.numbers._replace(l2=np.float32(1))  # of which logistic regression is fast

    def run(before=None, **changes):
        axes = rotation(D)
        part = static._replace(**changes)
        return defined(part, trajectory(part, numbers, axes, SEED, 0, before))

    with jax.disable_jit():
        whole, half = run(), run(generations=1)
        on = run(Before(half.carried, half.status[-1]), first=2)
    assert all(np.isfinite(leaf[1:]).all() for leaf in whole)
    assert not whole.status.any()
    assert whole.carried.shape == (static.carried, D)
    assert_same(half._replace(carried=None), jax.tree.map(lambda a: a[:2], _bare(whole)))
    assert_same(on._replace(carried=None), jax.tree.map(lambda a: a[2:], _bare(whole)))
    np.testing.assert_array_equal(on.carried, whole.carried[-1:])


def defined(static, record):
    """Without the overlap with a classifier that a verifier has not, which is NaN."""
    if static.has_classifier:
        return record
    return record._replace(verifier_overlap=jnp.zeros_like(record.overlap))


def _bare(record):
    return record._replace(carried=None)


@pytest.mark.slow
@each(COMPILED)
def test_trajectory(kinds):
    """Compiled in a batch, and the same alone, operation by operation; a number matters if read.

    Every two kinds that go together are in one of the combinations.
    """
    group, index = group_of(kinds), np.arange(16, dtype=np.int32)
    static, numbers = group.static, group.numbers
    axes = rotation(D)
    batched = jax.jit(
        jax.vmap(lambda n, i: defined(static, trajectory(static, n, axes, SEED, i)), (None, 0)),
    )
    many = batched(numbers, index)
    assert many.classifier.shape == (len(index), T + 1, D)
    assert many.carried.shape == (len(index), static.carried, D)
    last = min(T, static.carried)
    np.testing.assert_array_equal(many.carried[:, -last:], many.classifier[:, -last:])
    for name, leaf in many._asdict().items():
        assert leaf.dtype == (jnp.int32 if name in ("status", *COUNTS) else jnp.float32)
        if name != "carried":
            assert leaf.shape[:2] == (len(index), T + 1)
            assert np.isfinite(leaf[:, 1:]).all()
    assert not many.status.any()
    fresh = round(float(numbers.real_fraction * numbers.n)) * static.regime.call.real
    assert ((many.right + many.wrong)[:, 1:] == (numbers.n - fresh) * static.k).all()
    assert not many.right[:, 0].any() and not many.wrong[:, 0].any()
    assert (many.kept_right <= many.right).all() and (many.kept_wrong <= many.wrong).all()
    assert len({float(a) for a in many.accuracy[:, -1]}) == len(index)
    read = reads(kinds)
    for name in Numbers._fields:
        # Where ρ only turns the verifier's classifier, it may.
        if name != "error_correlation" or "theta_gen" in read:
            value = getattr(numbers, name) - 1 if name in SIZES else getattr(OTHER, name)
            changed = batched(numbers._replace(**{name: value}), index)
            assert differ(changed, many) == (name in read), name
    alike = batched(numbers, np.full_like(index, 1))  # the same among others as among its likes
    assert_same(jax.tree.map(lambda leaf: leaf[0], alike), jax.tree.map(lambda leaf: leaf[1], many))
    if kinds["learner"] != "logistic":  # whose line search would take seconds
        with jax.disable_jit():
            alone = defined(static, trajectory(static, numbers, axes, SEED, index[1]))
        assert_same(jax.tree.map(lambda leaf: leaf[1], many), alone)
