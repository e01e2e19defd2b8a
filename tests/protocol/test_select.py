"""Selections against brute force in NumPy, and ties against chance."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from synthjax.protocol import select
from synthjax.protocol.keys import uniform_rows
from synthjax.protocol.spec import SpecError

top, prune, best_of_k = (jax.jit(call) for call in (select.top, select.prune, select.best_of_k))

LEVEL = 1e-3
N = 130  # three blocks of rows, the last not full
SOME = jax.random.key(1)

# What scores may look like: ties, signs, both zeros, infinities, and numbers next to each other.
# 2e-38 is about the smallest that XLA does not take for 0.
SCORES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "verdicts": lambda rng, shape: rng.integers(0, 2, shape),
    "few values": lambda rng, shape: rng.choice([-2.5, -1.0, 0.0, 1.0, 3.0], shape),
    "negative": lambda rng, shape: -rng.random(shape) - 1,
    "zeros": lambda rng, shape: rng.choice([-0.0, 0.0], shape),
    "zeros and next to them": lambda rng, shape: rng.choice([-0.0, 0.0, 2e-38, -2e-38], shape),
    "infinite": lambda rng, shape: rng.choice([-np.inf, np.inf, 0.0, 1.0, -1.0], shape),
    "all -inf": lambda rng, shape: np.full(shape, -np.inf),
    "huge and tiny": lambda rng, shape: (
        rng.choice([-1, 1], shape) * 10.0 ** rng.integers(-35, 38, shape)
    ),
    "neighbours": lambda rng, shape: (
        np.float32(1) + rng.integers(-3, 4, shape) * np.finfo(np.float32).eps
    ),
}
VALID = {"all": 1.0, "most": 0.8, "few": 0.05, "none": 0.0}

each_kind = pytest.mark.parametrize("kind", SCORES)
each_share = pytest.mark.parametrize("share", VALID.values(), ids=VALID)


def problem(kind, share, k, seed=0):
    rng = np.random.default_rng(seed)
    scores = SCORES[kind](rng, (k, N)).astype(np.float32)
    return scores, rng.random((k, N)) < share


def brute_top(scores, chance, valid, count):
    """The first `count` valid rows, sorted by score and then by chance; all must differ by both."""
    # + 0.0 makes −0 of a sort with 0
    order = sorted(np.flatnonzero(valid), key=lambda i: (-(scores[i] + 0.0), -chance[i]))
    chosen = np.zeros(len(scores), bool)
    chosen[order[: max(count, 0)]] = True
    return chosen


@each_share
@each_kind
def test_top(kind, share):
    scores, valid = (leaf[0] for leaf in problem(kind, share, 1))
    chance = np.asarray(uniform_rows(SOME, N))
    assert len(set(chance)) == N
    for count in (0, 1, 2, 17, N - 1, N, N + 5):
        found = np.asarray(top(scores, chance, valid, count))
        np.testing.assert_array_equal(found, brute_top(scores, chance, valid, count))


@each_kind
def test_top_of_equal_chances_is_no_more_than_asked_for(kind):
    scores, valid = (leaf[0] for leaf in problem(kind, 0.8, 1))
    chance = np.float32(np.random.default_rng(0).integers(0, 3, N) / 4)
    for count in (1, 30, 77):
        found = np.asarray(top(scores, chance, valid, count))
        assert found.sum() == min(count, valid.sum()) and not found[~valid].any()
        assert scores[found].min() >= scores[valid & ~found].max(initial=-np.inf)


@each_share
@each_kind
def test_prune_keeps_what_is_kept(kind, share):
    scores, valid = problem(kind, share, 1)
    found = np.asarray(prune(SOME, scores, valid, None))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, valid & (scores > 0))


@each_share
@each_kind
def test_prune_keeps_the_top(kind, share):
    """The number is keep times the valid, rounded, and at least 1, or all where there are fewer."""
    scores, valid = problem(kind, share, 1)
    rank = np.asarray(uniform_rows(SOME, N))
    for keep in (1e-6, 0.01, 0.3, 0.5, 0.999, 1.0):
        found = np.asarray(prune(SOME, scores, valid, np.float32(keep)))
        count = max(1, round(float(np.float32(keep)) * int(valid.sum())))
        assert found.shape == (1, N)
        np.testing.assert_array_equal(found[0], brute_top(scores[0], rank, valid[0], count))


@each_share
@each_kind
@pytest.mark.parametrize("k", [1, 2, 5])
def test_best_of_k(kind, share, k):
    scores, valid = problem(kind, share, k)
    for keep in (None, np.float32(0.3)):  # which it has no use for
        found = np.asarray(best_of_k(SOME, scores, valid, keep))
        assert found.shape == (k, N) and set(np.unique(found)) <= {0, 1}
        assert not found[~valid].any()
        np.testing.assert_array_equal(found.sum(0), valid.any(0))  # one of each, if there is any
        for i in np.flatnonzero(valid.any(0)):
            assert scores[:, i][found[:, i] > 0] == scores[:, i][valid[:, i]].max()


def test_selections_do_not_depend_on_how_long_arrays_are():
    """Rows and guesses that are not valid fill up: what is selected is the same without them."""
    for kind, (k, more) in itertools.product(SCORES, [(1, 0), (3, 0), (3, 4)]):
        scores, valid = problem(kind, 0.8, k)
        wide = np.pad(scores, ((0, more), (0, 70)), constant_values=np.inf)
        filled = np.pad(valid, ((0, more), (0, 70)))
        for call, keep in ((prune, None), (prune, np.float32(0.3)), (best_of_k, None)):
            if (call is prune) == (k == 1):
                found = np.asarray(call(SOME, wide, filled, keep))
                np.testing.assert_array_equal(found[:k, :N], call(SOME, scores, valid, keep))
                assert not found[~filled].any()


KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), np.arange(2000))


def assert_uniform(counts, draws):
    """Counts of rows that are alike. Without replacement they vary less than a multinomial."""
    p = counts.sum() / draws / len(counts)
    statistic = ((counts - draws * p) ** 2).sum() / (draws * p * (1 - p)) * (1 - 1 / len(counts))
    low, high = stats.chi2(len(counts) - 1).ppf([LEVEL / 2, 1 - LEVEL / 2])
    assert low < statistic < high


@pytest.mark.parametrize("value", [0.0, -1.5, 1.0, -np.inf])
def test_ties_of_top_are_broken_evenly(value):
    """Of 130 rows 30 are better and 80 tied for 20 places, one of them −0 if they are zeros."""
    scores = np.full(N, value, np.float32)
    scores[:30] = 5
    scores[40] = -0.0 if value == 0 else value
    valid = np.arange(N) < 110
    keep = np.float32(50 / 110)
    found = jax.jit(jax.vmap(select.prune, (0, None, None, None)))(
        KEYS, scores[None], valid[None], keep
    )
    found = np.asarray(found)[:, 0]
    assert found[:, :30].all() and not found[:, 110:].any() and (found.sum(1) == 50).all()
    assert_uniform(found[:, 30:110].sum(0), len(KEYS))


@pytest.mark.parametrize("value", [0.0, -1.5, 1.0, -np.inf])
def test_ties_of_best_of_k_are_broken_evenly(value):
    """Guesses 1, 3 and 4 of 6 are tied, 2 is worse and 0 and 5 do not count."""
    scores = np.full((6, 1), value, np.float32)
    scores[3] = -0.0 if value == 0 else value
    scores[2] = -2
    scores[[0, 5]] = np.inf
    valid = np.array([0, 1, 1 if value > -2 else 0, 1, 1, 0], bool)[:, None]
    found = jax.jit(jax.vmap(select.best_of_k, (0, None, None, None)))(KEYS, scores, valid, None)
    counts = np.asarray(found)[:, :, 0].sum(0)
    assert not counts[[0, 2, 5]].any() and counts.sum() == len(KEYS)
    assert_uniform(counts[[1, 3, 4]], len(KEYS))


def test_scores_that_order_nothing():
    valid = np.array([[True, True], [True, False]])
    scores = np.array([[1, -np.inf], [2, np.nan]])  # what is not valid may be anything
    assert select.checked("mine", scores, valid).dtype == np.float32
    with pytest.raises(SpecError, match="'mine': gave NaN for 1 of 3 guesses"):
        select.checked("mine", np.where(scores == 2, np.nan, scores), valid)
    with pytest.raises(SpecError, match=r"of the shape \[2\], where \[2, 2\] is asked"):
        select.checked("mine", scores[0], valid)


def test_random_looks_at_no_score():
    """The fraction asked for, of the valid ones, whatever they score; other keys, other guesses."""
    for kind in ("normal", "all -inf"):
        scores, valid = problem(kind, 0.8, 1)
        kept = np.asarray(select.random(SOME, scores, valid, np.float32(0.25)))
        assert kept.sum() == round(0.25 * valid.sum()) and not kept[~valid].any()
        np.testing.assert_array_equal(kept, select.random(SOME, -scores, valid, np.float32(0.25)))
        assert (kept != select.random(jax.random.key(2), scores, valid, np.float32(0.25))).any()
