"""One contract for every interchangeable part of a trajectory.

What is tested is read from the registries, so a new kind goes through by being in one, and a part
of the user's own by a line in OWN of `own_parts`. A kind of synthjax that uses random numbers is
named in RANDOM besides. Trajectories made of the parts are in `test_combinations`.

Rounding: a part alone, batched and compiled may order its sums differently, so numbers agree to
2e-5 (a learner stops at a relative gradient of 1e-5, on a Hessian here between 0.1 and 3), labels
and verdicts exactly. A margin within rounding of 0 would flip one: a chance of 1e-7 an example and
1e-2 for this file and `test_combinations`, and seeds are fixed.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixture.parts import DEFAULT, FAMILIES, OTHER, D, K, N, differ, inputs
from own_parts import probit
from sampled import assert_same

from synthjax.mixture import pool
from synthjax.mixture.covariance import Covariance, rotation
from synthjax.mixture.data import Numbers, Sample, side
from synthjax.mixture.learn import Fit
from synthjax.protocol.select import SELECTIONS
from synthjax.protocol.spec import Kind

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_theory", "with_own_parts", "threefry_as_in_trajectories"),
]

TOLERANCE = 2e-5

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
