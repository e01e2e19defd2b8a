"""Matrices, their eigenvalues, and both as tokens.

Statistical bounds are six standard errors of their estimates, at fixed seeds: by chance 1e-9 each.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from synthjax.eigen.data import SPECTRA, Matrices, lengths, read, source_ids, target_ids
from synthjax.eigen.tokens import BOS, ENCODINGS, EOS, PAD, decode
from synthjax.protocol.keys import Stream, key

KEY = key(0, Stream.REAL, 0, 0)
N = 20_000
CLOSE = dict(rtol=0.00502, atol=1e-7)  # three digits


def drawn(n=N, start=0, **settings):
    return Matrices(**settings).draw(KEY, np.arange(start, start + n))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("d", [2, 5, 8])
def test_eigenvalues_are_those_of_the_matrix(spectrum, d):
    """By what every eigenvalue enters: trace, Frobenius norm, and the characteristic polynomial."""
    found = drawn(200, sizes=(d,), spectrum=spectrum)
    a, values = found.matrices, found.values
    np.testing.assert_array_equal(a, np.swapaxes(a, 1, 2))
    assert (np.diff(values, axis=1) <= 0).all()
    scale = np.abs(values).sum(1)
    np.testing.assert_allclose(
        np.trace(a, axis1=1, axis2=2) / scale, values.sum(1) / scale, atol=1e-12
    )
    np.testing.assert_allclose((a**2).sum((1, 2)), (values**2).sum(1), rtol=1e-12)
    for matrix, own, size in zip(a, values, scale, strict=True):
        for value in own:
            singular = np.linalg.svd(matrix - value * np.eye(d), compute_uv=False)
            assert singular[-1] < 1e-12 * size


def test_entries_are_even_and_independent():
    a = drawn(sizes=(4,), bound=3.0).matrices
    entries = a[:, *np.tril_indices(4)]
    assert entries.min() > -3 and entries.max() < 3
    for column in entries.T:
        assert stats.kstest(column, stats.uniform(-3, 6).cdf).pvalue > 1e-6
    correlation = np.corrcoef(entries.T) - np.eye(10)
    assert abs(correlation).max() < 6 / np.sqrt(N)


# Of an eigenvalue at random: its law, where there is a name for it.
LAWS = {
    "uniform": stats.uniform(-10 * np.sqrt(5), 20 * np.sqrt(5)),
    "gaussian": stats.norm(0, 10 * np.sqrt(5 / 3)),
    "laplace": stats.laplace(0, 10 * np.sqrt(5 / 3) / np.sqrt(2)),
    "positive_laplace": stats.expon(0, 10 * np.sqrt(5 / 3) / np.sqrt(2)),
}


@pytest.mark.parametrize("spectrum", LAWS)
def test_spectra_have_their_laws(spectrum):
    values = drawn(spectrum=spectrum).values
    one = np.random.default_rng(0).permuted(values, axis=1)[:, 0]
    assert stats.kstest(one, LAWS[spectrum].cdf).pvalue > 1e-6


def test_moments_of_the_random_matrices():
    """E Σλ² = Σ E a², and for σ GGᵀ/d E Σλ = σ d, E Σλ² = σ² (2d + 1)."""
    own = (drawn().values ** 2).sum(1)
    assert abs(own.mean() - 25 * 100 / 3) < 6 * own.std() / np.sqrt(N)
    positive = drawn(spectrum="positive").values
    np.testing.assert_allclose(np.sort(positive), np.sort(abs(drawn().values)), rtol=1e-9)
    found, sigma = drawn(spectrum="marchenko_pastur").values, 10 * np.sqrt(5 / 3)
    for power, expected in ((1, 5 * sigma), (2, 11 * sigma**2)):
        sums = (found**power).sum(1)
        assert abs(sums.mean() - expected) < 6 * sums.std() / np.sqrt(N)


def test_eigenvectors_are_those_of_a_random_matrix():
    """Any one of them, for a spectrum that has nothing to do with where they come from."""

    def one(a):
        vectors = np.linalg.eigh(a)[1]
        return np.abs(np.random.default_rng(0).permuted(vectors, axis=2)[:, :, 0])

    rotated, plain = one(drawn(spectrum="uniform").matrices), one(drawn(start=N).matrices)
    for i in range(5):
        assert stats.ks_2samp(rotated[:, i], plain[:, i]).pvalue > 1e-6


@pytest.mark.parametrize("spectrum", ["semicircle", "marchenko_pastur"])
def test_an_example_is_the_same_in_any_company(spectrum):
    law = Matrices(sizes=(2, 3, 5), spectrum=spectrum)
    many = law.draw(KEY, np.arange(50))
    for i in (0, 17, 49):
        alone = law.draw(KEY, np.array([i]))
        for a, b in zip(alone, many, strict=True):
            np.testing.assert_array_equal(a[0], b[i])
    other = law.draw(key(1, Stream.REAL, 0, 0), np.arange(50))
    assert (other.matrices[:, 0, 0] != many.matrices[:, 0, 0]).all()


def test_sizes_are_equally_often():
    sizes = drawn(sizes=(2, 4, 7)).sizes
    count = [(sizes == size).sum() for size in (2, 4, 7)]
    assert sum(count) == N and stats.chisquare(count).pvalue > 1e-6


@pytest.mark.parametrize("name", ENCODINGS)
def test_tokens(name):
    """Of mixed sizes: every number to three digits, and nothing past the end."""
    encoding = ENCODINGS[name]()
    found = drawn(100, sizes=(2, 5))
    source, target = source_ids(found, encoding), target_ids(found.values, found.sizes, encoding)
    assert (source.shape[1], target.shape[1]) == lengths(5, encoding)
    for row, answer, a, values, d in zip(source, target, *found, strict=True):
        words = [encoding.symbols[i] for i in row[row != PAD]]
        assert words[:2] == [f"V{d}"] * 2 and words[-1] == "</s>"
        np.testing.assert_allclose(
            decode(words[2:-1], name), a[:d, :d].ravel(), rtol=0.00501, atol=1e-9
        )
        words = [encoding.symbols[i] for i in answer[answer != PAD]]
        assert [words[0], *words[1:3], words[-1]] == ["<s>", f"V{d}", "V1", "</s>"]
        np.testing.assert_allclose(decode(words[3:-1], name), values[:d], **CLOSE)


def test_lengths_are_the_published_ones():
    """Without BOS and EOS, 5 × 5: eigen.md's table, from Charton's paper."""
    published = {"P10": (127, 27), "P1000": (77, 17), "B1999": (52, 12), "FP15": (27, 7)}
    for name, (source, target) in published.items():
        assert lengths(5, ENCODINGS[name]()) == (source + 1, target + 2)


@pytest.mark.parametrize("name", ENCODINGS)
def test_answers_are_read_on_host_and_device(name):
    encoding = ENCODINGS[name](*((-9, 4) if name == "FP15" else (-8, 4)))
    found = drawn(300, sizes=(3,))
    answers = target_ids(found.values, found.sizes, encoding)[:, 1:]
    end = answers.shape[1] - 1
    assert (answers[:, end] == EOS).all()
    wrong = answers.copy()
    wrong[0, 0], wrong[1, 1], wrong[2, 2], wrong[3, end] = BOS, BOS, BOS, PAD
    for ids in (wrong, jnp.asarray(wrong)):
        values, formed = read(ids, 3, encoding)
        assert not np.asarray(formed)[:4].any() and np.asarray(formed)[4:].all()
        np.testing.assert_allclose(
            np.asarray(values)[4:], found.values[4:], rtol=0.00502, atol=1e-7
        )
