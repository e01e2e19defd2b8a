"""Is there a best n under a weak verifier? (docs/mixture.md, the variant `verifier_scaling`.)

In the mixture features, yes, where the penalty is weak or not divided by n: the limit is worse than
what fewer examples give. Not at a strong penalty, and not in the teacher features. Steps between
neighbouring n are asserted by their standard errors, as if n had nothing in common (they share
draws); the falls are about six of them.
"""

import math
from functools import cache

import numpy as np
import pytest

from synthjax import mixture

pytestmark = pytest.mark.slow

N = (150, 1500, 15_000)
L2 = (1e-5, *(1 / n for n in reversed(N)))


@cache
def accuracy(trajectories, **fields):
    """Mean accuracy after a generation, its standard error and its limit, each [n, λ]."""
    found = mixture.run(
        mixture.Spec(
            d=50,
            verifier="linear",
            theta_gen=1.0,
            theta_ver=math.pi / 12,
            generations=1,
            trajectories=trajectories,
            sweep={"n": N, "l2": L2},
            **fields,
        )
    ).isel(generation=1)
    assert not found.status.any()
    mean, error = found.accuracy.mean("trajectory"), found.accuracy.std("trajectory", ddof=1)
    return mean.values, error.values / math.sqrt(trajectories), found.population_accuracy.values


def steps(mean, error):
    """From each n to the next, in standard errors."""
    return np.diff(mean, axis=0) / np.hypot(error[1:], error[:-1])


def in_the_mixture():
    return accuracy(100, features="mixture", signal=2.0)


@pytest.mark.long
def test_a_strong_penalty_has_no_best_n():
    mean, error, limit = in_the_mixture()
    assert (steps(mean, error)[:, -1] > 3).all()
    assert (mean[:, -1] < limit[:, -1] + 3 * error[:, -1]).all()


@pytest.mark.long
def test_a_weak_penalty_has_one():
    mean, error, limit = in_the_mixture()
    up, down = steps(mean, error)[:, 0]
    assert up > 5 and down < -4
    assert mean[1, 0] > limit[1, 0] + 3 * error[1, 0]  # fewer examples beat infinitely many


@pytest.mark.long
def test_a_penalty_that_is_not_divided_by_n_has_one():
    """λ = 1/n, as where the loss is summed."""
    mean, error, _ = in_the_mixture()
    at = np.arange(3), [3, 2, 1]
    up, down = steps(mean[at], error[at])
    assert up > 3 and down < -5


@pytest.mark.long
def test_in_the_teacher_features_there_is_none():
    """Reflecting g into v changes nothing, so the limit is their bisector at any λ."""
    mean, error, limit = accuracy(40)
    assert (steps(mean, error)[0] > 5).all()
    assert (steps(mean, error)[1] > 1).all()
    assert np.ptp(limit) < 1e-6
    assert (mean < limit + 3 * error).all()
