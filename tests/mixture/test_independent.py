"""The simulator against a plain loop in float64, in which the definitions are read again.

Means over trajectories of all that is recorded are compared at every generation up to the third,
within 3 standard errors of their difference. Every kind of every family meets both learners and
both features, and every regime with a memory or real data w₀ placed and trained, with a verifier
and without.

Power: a bias of 3 % in the norm is 5 to 50 standard errors; it is refused at every generation of
every setting. So is every wrong loop in WRONG, by the measures and from the generation named there.
What cannot be seen is + and − exchanged everywhere: the setting is the same for (x, y, y′) and
(−x, −y, −y′), so a class shows only beside another one (subsample-classes).

False alarms: of 698 comparisons, each beyond 3 SE with probability 0.003 if all is well, 1.9 would
be expected for seeds chosen blindly. Here there is none; the worst is 2.9. Before, with 200
trajectories of the loop and 2000 of the simulator, there was one of 3.1 (linear-linear-ridge, an
overlap; with 2000 and 20,000 the same comparison gives 0.1). All scores together are held against
the normal law as well.
"""

import dataclasses
import itertools
from functools import cache

import numpy as np
import pytest

from synthjax import mixture
from tests.mixture.independent_loop import MEASURED, SIGNAL, D, N, T, trajectories

pytestmark = [pytest.mark.optimized, pytest.mark.usefixtures("no_theory")]

SIMULATED, LOOPED = 1000, 300  # trajectories; of the simulator they cost next to nothing
FIRST_SEED = 20
L2 = 0.05
FAMILIES = {
    field.name: {name for name, kind in field.metadata["kinds"].items() if not kind.own}
    for field in dataclasses.fields(mixture.Spec)
    if field.metadata["kinds"] and field.name != "engine"
}

ANGLE = {"theta_gen": 1.0}
REAL = {"initial": "real", "n_real": 150}
LINEAR = {"generator": "linear"}
LOGISTIC = {"generator": "logistic", "temperature": 0.5}
FLIP = {"generator": "flip", "p": 0.2}
FLIP_BY_CLASS = {"generator": "flip_by_class", "p_plus": 0.1, "p_minus": 0.4}
NOISY = {"verifier": "noisy", "phi": 0.8, "psi": 0.3}
NOISY_BY_CLASS = {
    "verifier": "noisy_by_class",
    "phi_plus": 0.9,
    "phi_minus": 0.6,
    "psi_plus": 0.2,
    "psi_minus": 0.5,
}
AGREES = {"verifier": "linear", "theta_ver": 0.6}
MARGIN = {"verifier": "margin", "theta_ver": 0.6}
SELF = {"verifier": "self"}
KEEP = {"keep": 0.6}
SHARED = {"error_correlation": 0.7}
BEST = {"selection": "best_of_k", "k": 3}
ACCUMULATE = {"regime": "accumulate"}
SUBSAMPLE = {"regime": "subsample"}
MIX = {"regime": "mix", "real_fraction": 0.3}
DIAGONAL = {"covariance": "diagonal", "covariance_decay": 0.8}
DENSE = {"covariance": "dense", "covariance_decay": 1.2}
RIDGE_TEACHER, RIDGE_MIXTURE, LOGISTIC_TEACHER, LOGISTIC_MIXTURE = (
    {"learner": learner, "features": features}
    for learner in ("ridge", "logistic")
    for features in ("teacher", "mixture")
)

# With both learners; which of the two pairings with features a way runs with alternates.
WAYS = {
    "linear-none": LINEAR | ANGLE,
    "linear-oracle": LINEAR | {"theta_gen": 1.3, "verifier": "oracle"},
    "linear-noisy": LINEAR | ANGLE | NOISY,
    "linear-linear": LINEAR | AGREES | SHARED | {"theta_gen": 1.2},
    "flip-noisy": FLIP | NOISY,
    "real-linear": LINEAR | REAL | AGREES,
}
SETTINGS = {
    f"{name}-{pairing['learner']}": way | pairing
    for i, (name, way) in enumerate(WAYS.items())
    for pairing in (
        (RIDGE_MIXTURE, LOGISTIC_TEACHER) if i % 2 else (RIDGE_TEACHER, LOGISTIC_MIXTURE)
    )
} | {
    "classes": LOGISTIC | ANGLE | NOISY_BY_CLASS | LOGISTIC_MIXTURE,
    "margin": LINEAR | ANGLE | MARGIN | KEEP | SHARED | RIDGE_TEACHER,
    "self": LINEAR | ANGLE | SELF | KEEP | DENSE | LOGISTIC_TEACHER,
    "best-self": LOGISTIC | REAL | SELF | BEST | RIDGE_MIXTURE,
    "best-oracle": FLIP_BY_CLASS | {"verifier": "oracle"} | BEST | DIAGONAL | LOGISTIC_TEACHER,
    "accumulate-margin": ACCUMULATE | LINEAR | ANGLE | MARGIN | KEEP | DENSE | LOGISTIC_TEACHER,
    "accumulate-best-none": ACCUMULATE | LOGISTIC | ANGLE | BEST | RIDGE_MIXTURE,
    "accumulate-real-none": ACCUMULATE | LINEAR | REAL | DENSE | RIDGE_MIXTURE,
    "accumulate-real-classes": ACCUMULATE
    | LINEAR
    | REAL
    | NOISY_BY_CLASS
    | DIAGONAL
    | RIDGE_TEACHER,
    "accumulate-best-noisy": ACCUMULATE | FLIP_BY_CLASS | NOISY | BEST | LOGISTIC_MIXTURE,
    "subsample-none": SUBSAMPLE | LINEAR | ANGLE | DIAGONAL | LOGISTIC_TEACHER,
    "subsample-best-linear": SUBSAMPLE | LOGISTIC | ANGLE | AGREES | SHARED | BEST | RIDGE_MIXTURE,
    "subsample-real-none": SUBSAMPLE | LINEAR | REAL | RIDGE_TEACHER,
    "subsample-real-margin": SUBSAMPLE | LOGISTIC | REAL | MARGIN | KEEP | LOGISTIC_MIXTURE,
    "subsample-classes": SUBSAMPLE | FLIP_BY_CLASS | NOISY_BY_CLASS | RIDGE_TEACHER,
    "mix-none": MIX | LINEAR | ANGLE | DIAGONAL | RIDGE_MIXTURE,
    "mix-best-margin": MIX | LOGISTIC | ANGLE | MARGIN | BEST | DENSE | LOGISTIC_TEACHER,
    "mix-real-none": MIX | LOGISTIC | REAL | LOGISTIC_TEACHER,
    "mix-real-self": MIX | LOGISTIC | REAL | SELF | KEEP | RIDGE_MIXTURE,
}


# `make test` runs these, in which every kind is met; `make test-long` the others.
CORE = (
    "linear-none-ridge",
    "linear-linear-logistic",
    "flip-noisy-ridge",
    "best-oracle",
    "accumulate-margin",
    "subsample-classes",
    "mix-real-self",
)


def marks(name):
    return () if name in CORE else pytest.mark.long


def spec(name, **more):
    way = {"l2": L2} | SETTINGS[name] | more
    if way["features"] == "mixture":
        way["signal"] = SIGNAL
    return mixture.Spec(
        engine="direct",
        n=N,
        d=D,
        generations=T,
        seed=FIRST_SEED + list(SETTINGS).index(name),
        **way,
    )


@cache
def simulated(name, count=SIMULATED):
    """MEASURED by synthjax: [trajectory, generation] by name."""
    ds = mixture.run(spec(name, trajectories=count))
    assert not ds.status.any()
    return {measure: ds[measure].values.astype(float) for measure in MEASURED}


@cache
def loop(name, count=LOOPED, **changes):
    """MEASURED in NumPy; `changes` make the setting another one."""
    way = vars(spec(name)) | changes
    return trajectories(way, count, [list(SETTINGS).index(name), 1])


def z_scores(a, b):
    """Differences of means in standard errors, [measure, generation]; NaN where both are NaN.

    Where neither side varies they must be equal to rounding: 0 or infinity.
    """
    scores = []
    for name in MEASURED:
        np.testing.assert_array_equal(np.isnan(a[name]).any(0), np.isnan(b[name]).all(0))
        error = np.sqrt(sum(side[name].var(0, ddof=1) / len(side[name]) for side in (a, b)))
        gap = a[name].mean(0) - b[name].mean(0)
        exact = error < 1e-6
        scores.append(
            np.where(exact, np.where(abs(gap) < 1e-6, 0, np.inf), gap / np.where(exact, 1, error))
        )
    return np.array(scores)


def rows(scores, *names):
    return abs(scores[[MEASURED.index(name) for name in names]])


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SETTINGS])
def test_means(name):
    found, wanted = simulated(name), loop(name)
    scores = z_scores(found, wanted)
    assert np.isfinite(scores[:, 1:]).all()
    worst = np.unravel_index(np.nanargmax(abs(scores)), scores.shape)
    assert np.nanmax(abs(scores)) <= 3, (MEASURED[worst[0]], "generation", worst[1], scores[worst])
    for off in (0.97, 1.03):
        biased = found | {"norm": off * found["norm"]}
        assert (rows(z_scores(biased, wanted), "norm")[:, 1:] > 3).all()


@pytest.mark.slow
@pytest.mark.long
def test_all_together():
    """Standard errors are neither too wide nor too narrow: the squares of all scores average 1.

    Measures of one generation and generations of one trajectory hang together; as few as 60
    independent scores among them would leave an average within 0.5 of 1 with probability 0.99.
    """
    scores = np.array([z_scores(simulated(name), loop(name)) for name in SETTINGS])
    scores = scores[np.isfinite(scores) & (scores != 0)]  # 0: equal, and neither side varies
    assert len(scores) == 698
    assert abs(np.mean(scores**2) - 1) < 0.5


# (setting, what its loop does wrong, the measures that all refuse it, from which generation on)
WRONG = [
    ("linear-noisy-ridge", {"l2": 2 * L2}, ["norm"], 1),
    ("linear-noisy-ridge", {"l2": 1.5 * L2}, ["norm"], 1),
    ("linear-noisy-logistic", {"l2": 1.25 * L2}, ["norm", "overlap"], 1),
    ("linear-noisy-ridge", {"phi": 0.3, "psi": 0.8}, ["overlap", "phi_hat", "psi_hat"], 1),
    ("linear-noisy-logistic", {"phi": 0.3, "psi": 0.8}, ["overlap", "phi_hat", "psi_hat"], 1),
    ("margin", {"keep": 1.2 * KEEP["keep"]}, ["norm", "phi_hat", "psi_hat"], 1),
    ("margin", {"keep": 0.8 * KEEP["keep"]}, ["norm", "phi_hat", "psi_hat"], 1),
    ("margin", {"error_correlation": -0.7}, ["phi_hat", "psi_hat"], 1),
    ("self", {"keep": 1.2 * KEEP["keep"]}, ["norm", "phi_hat", "psi_hat"], 1),
    ("self", {"keep": 0.8 * KEEP["keep"]}, ["overlap", "phi_hat", "psi_hat"], 1),
    ("self", {"verifier": "margin", "theta_ver": 0.6}, ["overlap", "phi_hat", "psi_hat"], 1),
    ("self", {"covariance_decay": DENSE["covariance_decay"] + 0.3}, ["norm", "overlap"], 1),
    ("self", {"covariance_decay": DENSE["covariance_decay"] - 0.3}, ["norm", "overlap"], 1),
    ("self", {"covariance": "diagonal"}, ["norm", "overlap"], 1),
    ("subsample-none", {"covariance_decay": DIAGONAL["covariance_decay"] + 0.3}, ["norm"], 1),
    ("subsample-none", {"covariance_decay": DIAGONAL["covariance_decay"] - 0.3}, ["norm"], 1),
    ("mix-none", {"real_fraction": MIX["real_fraction"] + 0.05}, ["norm", "overlap"], 1),
    ("mix-none", {"real_fraction": MIX["real_fraction"] - 0.05}, ["norm", "overlap"], 1),
    ("mix-real-none", {"temperature": 1.5 * LOGISTIC["temperature"]}, ["norm", "p_hat"], 1),
    ("mix-real-none", {"generator": "linear"}, ["norm", "p_hat"], 1),
    ("mix-best-margin", {"k": BEST["k"] - 1}, ["overlap", "phi_hat", "psi_hat"], 1),
    ("subsample-best-linear", {"k": BEST["k"] + 1}, ["overlap", "phi_hat", "psi_hat"], 1),
    ("accumulate-margin", {"regime": "replace"}, ["norm", "overlap"], 2),
    ("accumulate-real-classes", {"regime": "replace"}, ["overlap"], 1),
    ("accumulate-real-classes", {"forgets_real": True}, ["overlap"], 1),
    ("accumulate-real-none", {"regime": "subsample"}, ["norm", "overlap"], 2),
    ("subsample-real-none", {"regime": "accumulate"}, ["norm", "overlap"], 2),
    ("subsample-real-none", {"regime": "replace"}, ["overlap"], 1),
    ("subsample-classes", {"p_plus": 0.4, "p_minus": 0.1}, ["norm", "overlap"], 1),
    ("subsample-classes", {"psi_plus": 0.5, "psi_minus": 0.2}, ["norm", "overlap"], 1),
    ("subsample-classes", {"phi_plus": 0.6, "phi_minus": 0.9}, ["overlap"], 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes, refusing, first", [pytest.param(*w, marks=marks(w[0])) for w in WRONG]
)
def test_a_wrong_loop_is_refused(name, changes, refusing, first):
    scores = z_scores(simulated(name), loop(name, **changes))
    assert (rows(scores, *refusing)[:, first:] > 3).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_is_compared(family):
    specs = [spec(name) for name in SETTINGS]
    assert {getattr(spec(name), family) for name in CORE} == FAMILIES[family]
    for kind in FAMILIES[family]:
        having = [s for s in specs if getattr(s, family) == kind]
        for other in ("learner", "features"):
            if other != family:
                assert {getattr(s, other) for s in having} == FAMILIES[other], kind
        if family == "regime" and kind != "replace":  # which forgets where w₀ came from
            met = {(s.initial, s.verifier == "none") for s in having}
            assert met == set(itertools.product(FAMILIES["initial"], (True, False)))
