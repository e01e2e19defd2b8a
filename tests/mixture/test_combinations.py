"""Every legal combination of kinds makes a trajectory.

What is tested is read from the registries, as in `test_contract`, where parts are tested alone.

That every legal combination of kinds runs follows from three tests, as a trajectory is two halves
that know each other by arrays of fixed shapes and dtypes alone:

- what a classifier makes of a generation, a `Sample` (`_kept`): features, covariance, generator,
  verifier, selection, and whether the regime is given real examples. Every combination of these
  runs by itself, in arrays of two lengths, and all of them give arrays alike.
- what a sample makes of the classifier (the rest of `trajectory`): initial, regime, learner, and
  whether the generator asks for w₀. Every combination of these runs in whole trajectories, at once
  and from half way on.
- whole trajectories in which every two kinds that go together meet, compiled in a batch.

That these halves put together are all that a spec allows is a test as well. Rounding as in
`test_contract`.
"""

import itertools
import random
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture.parts import FAMILIES, FIELDS, OTHER, SIZES, D, K, N, differ, inputs
from own_parts import own_parts
from sampled import assert_same

from synthjax.mixture import plan
from synthjax.mixture.covariance import rotation
from synthjax.mixture.data import Numbers
from synthjax.mixture.spec import Spec, reads
from synthjax.mixture.trajectory import Before, Record, _kept, trajectory
from synthjax.protocol.keys import key
from synthjax.protocol.spec import SpecError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_theory", "with_own_parts", "threefry_as_in_trajectories"),
]

T = 2
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
    """Every fourth; `make test-long` runs the others."""
    cases = []
    for i, kinds in enumerate(combinations):
        marks = pytest.mark.long if i % 4 else ()
        cases.append(pytest.param(kinds, id="-".join(kinds.values()), marks=marks))
    return pytest.mark.parametrize("kinds", cases)


def group_of(kinds):
    read = reads(
        {name: field.default for name, field in FIELDS.items() if name in FAMILIES} | kinds
    )
    sizes = {"n_real": 30, "k": K}
    sizes = {name: value for name, value in sizes.items() if name in read}
    spec = Spec(n=N - 14, d=D, generations=T, keep_classifiers=True, **sizes, **kinds)
    return plan.groups(spec)[0]


def test_every_combination_is_made_of_two_halves():
    for kinds in every(**FAMILIES):
        halves = first_half(kinds) in FIRST_HALVES and second_half(kinds) in SECOND_HALVES
        assert is_legal(kinds) == halves, kinds


@cache
def compiled(call, *static):
    return jax.jit(call, static_argnums=static)


@pytest.mark.parametrize(
    "generator, verifier",
    [
        pytest.param(*kinds, marks=pytest.mark.long if i % 3 else ())
        for i, kinds in enumerate(itertools.product(FAMILIES["generator"], FAMILIES["verifier"]))
    ],
)
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
