"""The matrix-free engine has the law of the direct one: a family of comparisons (see `compared`).

What the family can see is tested too: a noise norm off by 3 % is refused.
"""

from unittest import mock

import jax
import numpy as np
import pytest
from compared import BASE, FALSE_ALARM, compared, run

from synthjax.mixture import matrix_free

pytestmark = [pytest.mark.long, pytest.mark.optimized, pytest.mark.usefixtures("no_theory")]

SIZES = [(100, 90), (60, 100)]
TIMES = (1, 2, 5)
LEARNERS = ("ridge", "logistic")
RECORDED = ("accuracy", "norm")


def settings(n, d):
    """Features and learners by grid point."""
    return dict(
        BASE,
        n=n,
        d=d,
        generations=5,
        trajectories=2000,
        sweep={"features": ("teacher", "mixture"), "learner": LEARNERS},
    )


@pytest.fixture(scope="module")
def direct():
    return {size: run("direct", **settings(*size)) for size in SIZES}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_same(direct):
    """48 comparisons: sizes, features, learners, generations 1, 2 and 5, accuracy and norm."""
    found = []
    for n, d in SIZES:
        ours = run("matrix_free", **settings(n, d), seed=1)
        assert not (ours.status > 0).any()
        found += compared(ours, direct[n, d], RECORDED, TIMES)
    assert len(found) == 48
    assert min(found) > FALSE_ALARM / len(found), sorted(found)[:5]
    # As many are below 1/2 as above it: a family of p-values that lean is a law that is off.
    assert 0.3 < np.mean(np.array(found) < 0.5) < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_noise_norm_off_by_3_percent_is_refused(direct, learner):
    n, d = SIZES[-1]
    afresh = matrix_free._afresh
    jax.clear_caches()
    with mock.patch.object(
        matrix_free, "_afresh", lambda alpha, beta, columns: afresh(alpha, 1.03 * beta, columns)
    ):
        sweep = {"features": ("teacher", "mixture"), "learner": (learner,)}
        wrong = run("matrix_free", **settings(n, d) | {"sweep": sweep}, seed=1)
    jax.clear_caches()
    found = compared(wrong, direct[n, d].sel(learner=[learner]), RECORDED, TIMES)
    assert min(found) < FALSE_ALARM / 48
