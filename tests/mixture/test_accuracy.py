"""What a trajectory records of its classifiers, against a test set, and how it records failure."""

import jax
import numpy as np
import pytest

from synthjax import mixture
from synthjax.mixture import plan
from synthjax.mixture.spec import Spec
from synthjax.mixture.trajectory import (
    FINE,
    NOT_CONVERGED,
    NOT_FINITE,
    NOTHING_KEPT,
    trajectory,
)

TESTS = 10**6
D = 6
MEASURES = ["accuracy", "test_accuracy", "overlap", "norm"]


def test_set(features, signal, seed):
    """(x, y, Bayes classifier's label), drawn by the definitions in the README."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((TESTS, D))
    y = np.where(x[:, 0] >= 0, 1, -1)
    if features == "mixture":
        y = rng.choice([-1, 1], TESTS)
        x[:, 0] += signal * y
    return x, y, np.where(x[:, 0] >= 0, 1, -1)


test_set.__test__ = False  # a helper; what it makes is called so


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds, signal",
    [
        pytest.param(dict(features="teacher", theta_gen=1.2), 0, marks=pytest.mark.long),
        (dict(features="teacher", theta_gen=2.2, learner="ridge"), 0),
        (dict(features="mixture", theta_gen=0.8, signal=0.5, learner="ridge"), 0.5),
        pytest.param(
            dict(features="mixture", theta_gen=2.0, signal=1.7), 1.7, marks=pytest.mark.long
        ),
        (dict(features="mixture", initial="real", n_real=30, signal=1.7), 1.7),
        (dict(features="mixture", generator="flip", p=0.6, signal=0.9), 0.9),
    ],
    ids=["teacher", "teacher-bad", "weak-signal", "bad", "real", "flip"],
)
def test_accuracies(kinds, signal):
    """Within 4 standard errors of a test set of a million: 5e-4 each at most, so within 0.002.

    Some 80 comparisons at 4 SE: a chance of 0.005 to fail for a new seed.
    """
    ds = mixture.run(Spec(n=60, d=D, generations=2, trajectories=3, keep_classifiers=True, **kinds))
    x, y, bayes = test_set(kinds["features"], signal, seed=1)
    first = int(kinds.get("generator") == "flip")  # there is no w₀
    for i in range(3):
        for t in range(first, 3):
            record = ds.isel(trajectory=i, generation=t)
            w = record.classifier.values.astype(float)
            label = np.where(x @ w >= 0, 1, -1)
            for name, truth in (("accuracy", bayes), ("test_accuracy", y)):
                share = np.mean(label == truth)
                error = np.sqrt(share * (1 - share) / TESTS)
                assert abs(record[name] - share) <= 4 * error + 1e-6, (name, i, t)
            size = np.linalg.norm(w)
            np.testing.assert_allclose(record.norm, size, rtol=1e-5)
            np.testing.assert_allclose(record.overlap, w[0] / size, atol=1e-6)
    spread = ds.accuracy.isel(generation=slice(1, None)).values
    assert np.ptp(spread) > 0.01  # the classifiers differ


def test_generation_0():
    placed = mixture.run(Spec(n=40, d=D, generations=1, trajectories=2, theta_gen=2.0))
    start = placed.isel(generation=0)
    np.testing.assert_allclose(start.overlap, np.cos(2.0), atol=1e-6)
    np.testing.assert_allclose(start.norm, 1, atol=1e-6)
    np.testing.assert_allclose(start.accuracy, 1 - 2.0 / np.pi, atol=1e-6)
    np.testing.assert_array_equal(start.accuracy, start.test_accuracy)

    flipped = mixture.run(
        Spec(
            n=40, d=D, generations=1, trajectories=2, generator="flip", p=0.2, keep_classifiers=True
        )
    )
    start = flipped.isel(generation=0)
    np.testing.assert_allclose(start.accuracy, 0.8, atol=1e-6)
    np.testing.assert_allclose(start.test_accuracy, 0.8, atol=1e-6)
    assert np.isnan(start[["overlap", "norm", "classifier"]].to_array().values).all()
    for ds in (placed, flipped):
        start = ds.isel(generation=0)
        assert not start.status.any()
        unmeasured = ["p_hat", "phi_hat", "psi_hat", "p_star_hat", "kept"]
        assert np.isnan(start[unmeasured].to_array()).all()


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["ridge", pytest.param("logistic", marks=pytest.mark.long)])
def test_nothing_kept(learner):
    """Only wrong guesses are kept and few are made, so that some trajectories run out of them.

    At p = 0.1 and n = 20 a trajectory makes no wrong guess with probability 0.12. What fails ends
    there; what does not is as if it were alone.
    """
    spec = Spec(
        n=20,
        d=3,
        generations=3,
        trajectories=40,
        seed=1,
        generator="flip",
        p=0.1,
        verifier="noisy",
        phi=0.0,
        psi=1.0,
        l2=0.1,
        learner=learner,
        keep_classifiers=True,
    )
    ds = mixture.run(spec)
    status = ds.status.values
    without = ds.p_hat[:, 1].values == 0
    assert 1 <= without.sum() <= 12  # 4.9 expected
    np.testing.assert_array_equal(status[:, 1] == NOTHING_KEPT, without)
    assert set(np.unique(status)) == {FINE, NOTHING_KEPT}

    failed = status == NOTHING_KEPT
    assert (np.diff(failed.astype(int)) >= 0).all()  # for good
    before = np.pad(failed, ((0, 0), (1, 0)))[:, :-1]
    for name in (*MEASURES, "classifier"):
        gone = np.isnan(ds[name].values[:, 1:].reshape(40, 3, -1)).all(-1)
        there = np.isfinite(ds[name].values[:, 1:].reshape(40, 3, -1)).all(-1)
        np.testing.assert_array_equal(gone, failed[:, 1:])
        np.testing.assert_array_equal(there, ~failed[:, 1:])
    # The generation that fails has made its guesses; those after it make none.
    np.testing.assert_array_equal(np.isnan(ds.p_hat[:, 1:]), before[:, 1:])
    assert (ds.kept.values[failed & ~before] == 0).all()
    assert np.isnan(ds.kept.values[before]).all()

    group = plan.groups(spec)[0]
    alone = jax.jit(trajectory, static_argnums=0)
    for i in (int(np.argmax(without)), *np.flatnonzero(~failed.any(1))[:3]):
        record = alone(group.static, group.numbers, None, np.uint32(1), np.int32(i))
        np.testing.assert_allclose(record.classifier, ds.classifier[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(record.status, status[i])


@pytest.mark.slow
def test_not_converged():
    """As many examples as features and no penalty: for some draws float32 is too short.

    Such a trajectory says so and goes on; it may converge again.
    """
    ds = mixture.run(
        Spec(n=100, d=100, generations=3, trajectories=40, learner="ridge", l2=0.0, theta_gen=0.5)
    )
    assert set(np.unique(ds.status)) == {FINE, NOT_CONVERGED}
    assert not ds.status[:, 0].any()
    assert np.isfinite(ds[MEASURES].to_array()).all()
    late = np.diff(ds.status.values.astype(int)[:, 1:])
    assert (late > 0).any() and (late < 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["direct", "matrix_free"])
@pytest.mark.parametrize("learner, initial", [("ridge", "angle"), ("logistic", "real")])
def test_not_finite(learner, initial, engine):
    """A penalty of NaN, which no spec lets through, stands for numbers that have run away."""
    real = {"n_real": 30} if initial == "real" else {}
    spec = Spec(n=40, d=4, generations=2, learner=learner, initial=initial, engine=engine, **real)
    group = plan.groups(spec)[0]

    def one(l2):
        numbers = group.numbers._replace(l2=l2)
        return group.static.engine.call(group.static, numbers, None, np.uint32(0), np.int32(0))

    record = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(np.float32([0.01, np.nan, 0.01])))
    first = int(initial == "angle")  # a placed w₀ was not trained
    assert (record.status[1, first:] == NOT_FINITE).all()
    for name in MEASURES:
        values = getattr(record, name)
        assert np.isnan(values[1, first:]).all(), name
        assert np.isfinite(values[[0, 2]]).all(), name
        np.testing.assert_array_equal(values[0], values[2])
    assert not record.status[[0, 2]].any()
