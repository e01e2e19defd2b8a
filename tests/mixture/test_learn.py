"""Both learners against float64: the closed form, scikit-learn, and the gradient itself."""

import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from synthjax.mixture.data import Numbers, Sample
from synthjax.mixture.learn import LEARNERS, TOLERANCE

ROOT = Path(__file__).parents[2]
SHAPES = [(200, 20), (60, 150)]  # more examples than features, and fewer
L2 = (1e-5, 1e-3, 0.1, 10.0)
LABELS = ("separable", "noisy", "wrong", "random")
KEPT = (1.0, 0.2)


def problem(seed, n, d, labels, kept, signal=0.0):
    """Isotropic features, labels of which some or all may be wrong, and pruned weights."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)
    x[:, 0] = x[:, 0] + signal * y if signal else y * abs(x[:, 0])
    wrong = {"separable": 0, "noisy": 0.2, "wrong": 1, "random": 0.5}[labels]
    guesses = np.where(rng.random(n) < wrong, -y, y)
    weights = rng.random(n) < kept
    return Sample(*(np.asarray(a, np.float32) for a in (x, guesses, weights)))


def called(learner, sample, l2):
    """The learner itself, which reads no other number and no random ones."""
    numbers = Numbers(**dict.fromkeys(Numbers._fields, np.nan))._replace(l2=l2)
    return LEARNERS[learner].call(jax.random.key(0), numbers, sample)


@cache
def compiled(learner):
    @jax.jit
    @jax.default_matmul_precision("highest")
    def fit(sample, l2):
        return jax.vmap(partial(called, learner))(sample, l2)

    return fit


def fit(learner, samples, l2):
    """The learner in a batch, as a sweep runs it."""
    stacked = Sample(*(np.stack(leaves) for leaves in zip(*samples, strict=True)))
    w, converged = compiled(learner)(stacked, np.asarray(l2, np.float32))
    return np.asarray(w, float), np.asarray(converged)


def double(sample, l2):
    """Everything in float64 as the float32 learner saw it; the kept rows alone."""
    x, labels, weights = (np.asarray(leaf, np.float64) for leaf in sample)
    kept = weights > 0
    return x[kept], labels[kept], float(np.float32(l2))


def gradient(learner, sample, l2, w):
    """∇ of (1/m) Σ ℓ(y x·w) + (λ/2)‖w‖²."""
    x, y, l2 = double(sample, l2)
    z = y * (x @ w)
    slope = {"ridge": z - 1, "logistic": -1 / (1 + np.exp(np.minimum(z, 700)))}[learner]
    return (y * slope) @ x / len(y) + l2 * w


def relative_gradient(learner, sample, l2, w):
    size = np.linalg.norm(gradient(learner, sample, l2, w))
    return size / np.linalg.norm(gradient(learner, sample, l2, 0 * w))


def hessian(learner, sample, l2, w):
    x, _, l2 = double(sample, l2)
    tail = np.exp(-abs(x @ w))
    curvature = {"ridge": np.ones(len(x)), "logistic": tail / (1 + tail) ** 2}[learner]
    return x.T * curvature @ x / len(x) + l2 * np.eye(x.shape[1])


def minimiser(learner, sample, l2):
    """The exact minimiser in float64: a linear system, or scikit-learn."""
    x, y, penalty = double(sample, l2)
    if learner == "ridge":
        return np.linalg.solve(hessian(learner, sample, l2, np.zeros(x.shape[1])), y @ x / len(y))
    model = LogisticRegression(
        C=1 / (penalty * len(y)), fit_intercept=False, tol=1e-10, max_iter=10**4
    )
    # The loss depends on y x alone; with labels that alternate both classes are always there.
    turned = (-1.0) ** np.arange(len(y))
    model.set_params(solver="newton-cholesky").fit((turned * y)[:, None] * x, turned)
    return model.coef_[0]


@pytest.mark.slow
@pytest.mark.parametrize("n, d", SHAPES)
@pytest.mark.parametrize("learner", LEARNERS)
def test_minimiser(learner, n, d):
    """Converged, to the tolerance in truth, and as near to the exact minimiser as that implies.

    To first order w − ŵ = H⁻¹∇, H the Hessian at the minimiser; half of that again for the rest.
    """
    cases = [(labels, kept, l2) for labels in LABELS for kept in KEPT for l2 in L2]
    samples = [problem(i, n, d, *case[:2]) for i, case in enumerate(cases)]
    ws, converged = fit(learner, samples, [l2 for *_, l2 in cases])
    assert converged.all()
    for case, sample, w in zip(cases, samples, ws, strict=True):
        l2 = case[2]
        assert relative_gradient(learner, sample, l2, w) <= TOLERANCE, case
        exact = minimiser(learner, sample, l2)
        assert relative_gradient(learner, sample, l2, exact) < TOLERANCE / 10, case
        start = np.linalg.norm(gradient(learner, sample, l2, 0 * w))
        flattest = np.linalg.eigvalsh(hessian(learner, sample, l2, exact))[0]
        assert np.linalg.norm(w - exact) <= 1.5 * TOLERANCE * start / flattest, case
        assert np.linalg.norm(w - exact) <= 0.05 * np.linalg.norm(exact), case


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_strong_signal(learner):
    """The direction of the signal is 100 times as curved as the rest."""
    cases = [(labels, l2) for labels in LABELS for l2 in (1e-7, *L2, 1e3)]
    samples = [problem(i, 200, 20, labels, 1.0, signal=10.0) for i, (labels, _) in enumerate(cases)]
    ws, converged = fit(learner, samples, [l2 for _, l2 in cases])
    assert converged.all()
    for (_, l2), sample, w in zip(cases, samples, ws, strict=True):
        assert relative_gradient(learner, sample, l2, w) <= TOLERANCE


@pytest.mark.parametrize("n, d", SHAPES)
def test_ordinary_least_squares(n, d):
    """λ = 0; the minimiser of least norm where there are several."""
    sample = problem(0, n, d, "noisy", 1.0)
    (w,), converged = fit("ridge", [sample], [0.0])
    x, y, _ = double(sample, 0.0)
    assert converged.all()
    np.testing.assert_allclose(w, np.linalg.lstsq(x, y)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learner", LEARNERS)
def test_weights_count_by_their_share(learner):
    """m = Σ q: a row of weight 2 is two rows, and the scale of all weights is nothing."""
    sample = problem(0, 60, 5, "noisy", 1.0)
    double_first = sample._replace(weights=1 + (np.arange(60) < 30).astype(np.float32))
    twice = Sample(*(np.concatenate([leaf, leaf[:30]]) for leaf in sample))
    (w,), _ = fit(learner, [double_first], [0.1])
    (scaled,), _ = fit(learner, [sample._replace(weights=3 * double_first.weights)], [0.1])
    np.testing.assert_allclose(w, fit(learner, [twice], [0.1])[0][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(w, scaled, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ridge_says_where_float32_is_too_short():
    """About as many examples as features and λ near 0: a Gram matrix that is nearly singular."""
    l2 = np.repeat([0.0, 1e-6, 1e-3], 8)
    samples = [problem(i, 150, 150, "random", 1.0) for i in range(len(l2))]
    ws, converged = fit("ridge", samples, l2)
    found = [relative_gradient("ridge", *case) for case in zip(samples, l2, ws, strict=True)]
    # The two measure the same to the rounding of a float32 gradient.
    assert max(r for r, c in zip(found, converged, strict=True) if c) <= 1.1 * TOLERANCE
    assert min(r for r, c in zip(found, converged, strict=True) if not c) >= 0.9 * TOLERANCE
    assert 1 <= converged[:16].sum() <= 15 and converged[16:].all()


@pytest.mark.slow
def test_logistic_says_when_it_stopped_early(monkeypatch):
    """Two iterations are too few; the classifier is the best so far all the same."""
    from synthjax.mixture import learn

    monkeypatch.setattr(learn, "MAX_ITERATIONS", 2)
    sample, l2 = problem(0, 200, 20, "separable", 1.0), 1e-3
    with jax.default_matmul_precision("highest"):
        w, converged = jax.jit(partial(called, "logistic"))(sample, l2)
    assert not converged
    assert 10 * TOLERANCE < relative_gradient("logistic", sample, l2, np.asarray(w, float)) < 1


@pytest.mark.parametrize("learner", LEARNERS)
def test_nothing_kept(learner):
    (w,), _ = fit(learner, [problem(0, 60, 5, "noisy", 0.0)], [0.1])
    assert not w.any()


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_failure_terminates_and_spoils_no_neighbour(learner):
    """NaN, infinite and huge numbers, and a problem that is done at once, among ordinary ones."""
    good = [problem(i, 60, 5, "noisy", 1.0) for i in range(4)]
    alone = np.concatenate([fit(learner, [sample], [1e-3])[0] for sample in good])

    def spoilt(value):
        sample = problem(9, 60, 5, "noisy", 1.0)
        sample.x[3, 2] = value
        return sample

    bad = [spoilt(np.nan), spoilt(np.inf), spoilt(3e38), problem(9, 60, 5, "noisy", 0.0)]
    mixed = [sample for pair in zip(good, bad, strict=True) for sample in pair]
    ws, converged = fit(learner, mixed, [1e-3] * len(mixed))
    assert converged[::2].all()
    np.testing.assert_allclose(ws[::2], alone, rtol=2e-5, atol=2e-5)
    assert not converged[1]
    w, converged = fit(learner, good, [1e-3, np.nan, 1e-3, 1e-3])
    assert converged.tolist() == [True, False, True, True]
    np.testing.assert_allclose(w[[0, 2, 3]], alone[[0, 2, 3]], rtol=2e-5, atol=2e-5)


BATCH = """
import jax, numpy as np
from synthjax.mixture.data import Numbers, Sample
from synthjax.mixture.learn import LEARNERS
rng = np.random.default_rng(0)
x = rng.standard_normal((256, 40, 5)).astype(np.float32)
labels = rng.choice(np.float32([-1, 1]), (256, 40))
l2 = np.float32(10 ** rng.uniform(-9, 6, 256))
sample = Sample(x, labels, np.ones_like(labels))
def fit(sample, l2):
    numbers = Numbers(**dict.fromkeys(Numbers._fields, np.nan))._replace(l2=l2)
    return LEARNERS["{}"].call(jax.random.key(0), numbers, sample)
print(bool(jax.jit(jax.vmap(fit))(sample, l2).converged.all()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_batch_of_any_penalties_ends(learner):
    """A problem that is solved at once waits for the slowest, and must not go astray meanwhile.

    In a process of its own, because a loop without end inside XLA cannot be interrupted.
    """
    command = [sys.executable, "-c", BATCH.format(learner)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "True", done.stderr
