"""Errors and accuracies by hand."""

import numpy as np
import pytest

from synthjax.eigen.measure import DECODINGS, errors, right

TRUE = np.array([[4.0, 1.0, -5.0]])


def test_errors_of_one_guess():
    found = errors(np.array([[4.1, 1.0, -5.3]]), np.array([True]), TRUE)
    assert found.l1 == pytest.approx([0.4 / 10])
    assert found.largest == pytest.approx([0.3 / 5])
    np.testing.assert_allclose(found.each, [[0.025, 0, 0.06]])


def test_what_cannot_be_read_is_wrong():
    found = errors(np.full((1, 3), np.nan), np.array([False]), TRUE)
    assert np.isinf(found.l1).all() and np.isinf(found.largest).all() and np.isinf(found.each).all()


def test_an_eigenvalue_of_0_is_right_only_if_it_is_0():
    found = errors(np.array([[1.0, 0.0], [1.0, 0.1]]), np.ones(2, bool), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(found.each, [[0, 0], [0, np.inf]])


def test_guesses_of_one_matrix_share_its_spectrum():
    guessed = np.stack([TRUE * 1.01, TRUE * 0.98], 1)  # [1, 2, 3]
    found = errors(guessed, np.ones((1, 2), bool), TRUE[:, None])
    np.testing.assert_allclose(found.l1, [[0.01, 0.02]])


def test_right_answers():
    """Four matrices, two guesses: right first, right second, right and more probable, never."""
    greedy = np.array([0.5, 0.001, 0.5, 0.011])
    error = np.array([[0.001, 0.5], [0.5, 0.001], [0.5, 0.009], [0.011, np.inf]])
    log_prob = np.array([[-1.0, -2.0], [-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])
    found = right(greedy, error, log_prob, 0.01)
    assert tuple(found) == DECODINGS
    assert found["greedy"].tolist() == [False, True, False, False]
    assert found["oracle_of_k"].tolist() == [True, True, True, False]
    assert found["logprob_of_k"].tolist() == [True, False, True, False]
    assert right(greedy, error, log_prob, 0.02)["greedy"].sum() == 2
