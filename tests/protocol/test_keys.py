"""Random numbers by rows: the same however many are drawn, and independent of each other.

Statistics are checked against scipy's distributions, with fixed seeds and at a level of 1e-3 for
each of a few dozen tests: whether they pass is decided once and for all.
"""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from synthjax.protocol.keys import BLOCK, Stream, key, normal_rows, uniform_rows

LEVEL = 1e-3
D = 7
DRAWS = {
    "normal": lambda k, rows: normal_rows(k, rows, D),
    "uniform": uniform_rows,
}
SOME = key(3, Stream.FEATURES, 5, 2)

each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@each_draw
@pytest.mark.parametrize("partitionable", [False, True])
def test_fewer_rows_are_the_first_of_more(draw, partitionable):
    with jax.threefry_partitionable(partitionable):
        most = np.asarray(draw(SOME, 5 * BLOCK + 3))
        for rows in (1, BLOCK, BLOCK + 1, 5 * BLOCK + 2):
            some = np.asarray(draw(SOME, rows))
            assert some.shape == (rows, *most.shape[1:]) and some.dtype == np.float32
            np.testing.assert_array_equal(some, most[:rows])


@each_draw
def test_alone_batched_and_compiled_are_the_same(draw):
    keys = jax.vmap(lambda i: key(3, Stream.VERIFY, i, 1))(np.arange(4))
    batch = jax.jit(jax.vmap(lambda k: draw(k, 100)))(keys)
    for i in range(4):
        np.testing.assert_array_equal(batch[i], draw(key(3, Stream.VERIFY, i, 1), 100))


def test_every_key_is_another():
    """Each of seed, stream, trajectory and generation makes a difference, and none for another."""
    some = [
        jax.random.key_data(key(seed, stream, trajectory, generation)).tolist()
        for seed, stream, trajectory, generation in itertools.product(
            (0, 1, 2**32 - 1), Stream, (0, 1, 6, 2**31 - 1), (0, 1, 6)
        )
    ]
    assert len({tuple(data) for data in some}) == len(some)


def test_the_generator_is_threefry_whatever_the_default():
    wanted = uniform_rows(SOME, 10)
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(uniform_rows(key(3, Stream.FEATURES, 5, 2), 10), wanted)


def test_streams_keep_their_numbers():
    """They are part of the results: a new one goes to the end."""
    names = ["FEATURES", "REAL", "GENERATE", "VERIFY", "SELECT", "SUBSAMPLE", "LEARN"]
    assert [(s.name, s.value) for s in Stream][: len(names)] == [
        (n, i) for i, n in enumerate(names)
    ]


def test_the_law():
    uniform = np.asarray(uniform_rows(SOME, 50_000), float)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > LEVEL
    normal = np.asarray(normal_rows(SOME, 10_000, D), float)
    for column in normal.T:
        assert stats.kstest(column, "norm").pvalue > LEVEL


def blocks(values: np.ndarray) -> list[np.ndarray]:
    return list(np.asarray(values, float).reshape(-1, BLOCK * values[0].size))


def uncorrelated(sets: list[np.ndarray]) -> None:
    """Sums of products of standardised numbers, over all pairs of sets: jointly chi-square."""
    rows = np.stack([(s - s.mean()) / s.std() for s in sets])
    products = (rows @ rows.T)[np.triu_indices(len(rows), 1)] / np.sqrt(rows.shape[1])
    low, high = stats.chi2(len(products)).ppf([LEVEL / 2, 1 - LEVEL / 2])
    assert low < (products**2).sum() < high
    assert abs(products).max() < stats.norm.isf(LEVEL / 2 / len(products))


@each_draw
def test_blocks_are_independent(draw):
    """Rows of one block against those of another, at the same places."""
    uncorrelated(blocks(draw(SOME, 40 * BLOCK)))


@each_draw
def test_streams_trajectories_generations_and_guesses_are_independent(draw):
    keys = [key(3, stream, t, g) for stream in Stream for t in range(3) for g in range(3)]
    keys += [jax.random.fold_in(SOME, j) for j in range(8)]  # as the k guesses of an example
    uncorrelated([np.asarray(draw(k, 8 * BLOCK), float).ravel() for k in keys])


def test_pairs_of_blocks_fill_the_square():
    """Not only uncorrelated: neighbours (row i of a block, row i of the next) are uniform pairs."""
    u = np.asarray(uniform_rows(SOME, 200 * BLOCK), float).reshape(-1, 2, BLOCK)
    count, *_ = np.histogram2d(u[:, 0].ravel(), u[:, 1].ravel(), bins=8, range=[(0, 1)] * 2)
    assert stats.chisquare(count.ravel()).pvalue > LEVEL
