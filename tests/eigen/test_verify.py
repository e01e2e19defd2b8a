"""One contract for every verifier, and what each of them keeps."""

import jax
import numpy as np
import pytest

from synthjax.eigen.data import Matrices
from synthjax.eigen.measure import errors
from synthjax.eigen.verify import VERIFIERS, Guessed, Numbers, residuals
from synthjax.protocol.keys import Stream, key

KEY = key(0, Stream.VERIFY, 0, 1)
NUMBERS = Numbers(phi=0.8, psi=0.3, verifier_tolerance=0.01, residual_tolerance=0.01)


def guesses(n=4000, k=3, seed=0, scale=0.02):
    """True spectra with errors of several sizes, a few of them unreadable."""
    rng = np.random.default_rng(seed)
    examples = Matrices().draw(key(0, Stream.REAL, 0, 0), np.arange(n))
    sizes = scale * 10 ** rng.uniform(-2, 1, (n, k, 1))
    values = examples.values[:, None] * (1 + sizes * rng.normal(size=(n, k, 5)))
    formed = rng.random((n, k)) > 0.1
    values[~formed] = np.nan
    error = errors(values, formed, examples.values[:, None]).l1
    other_error = np.where(formed, rng.exponential(0.01, (n, k)), np.inf)
    trace = np.trace(examples.matrices, axis1=1, axis2=2)
    norm = np.linalg.norm(examples.matrices, axis=(1, 2))
    log_prob, other_log_prob = rng.normal(size=(2, n, k))
    return Guessed(
        values, formed, log_prob, error, examples.sizes, trace, norm, other_log_prob, other_error
    )


def right(given):
    return given.error < NUMBERS.verifier_tolerance


@pytest.mark.parametrize("name", VERIFIERS)
def test_contract(name):
    """Scores of every guess; by rows; random or not as it should be; verdicts unless it ranks."""
    kind, given = VERIFIERS[name], guesses(200)
    scores = kind.call(KEY, NUMBERS, given)
    assert scores.shape == given.formed.shape and not np.isnan(scores).any()
    if "keep" not in kind.reads:
        assert set(np.unique(scores)) <= {0, 1}
    some = Guessed(*(leaf[:50] for leaf in given))
    np.testing.assert_array_equal(kind.call(KEY, NUMBERS, some), scores[:50])
    other = kind.call(jax.random.fold_in(KEY, 1), NUMBERS, given)
    assert (other != scores).any() == (name == "noisy")
    for field in Numbers._fields:
        changed = NUMBERS._replace(**{field: getattr(NUMBERS, field) / 2})
        moved = (kind.call(KEY, changed, given) != scores).any()
        assert moved == (field in kind.reads), field
    blind = given._replace(error=0.03 - given.error)
    looks = (kind.call(KEY, NUMBERS, blind) != scores).any()
    assert looks == (name in ("oracle", "noisy"))


def test_noisy_keeps_at_its_rates():
    given = guesses()
    kept = VERIFIERS["noisy"].call(KEY, NUMBERS, given)
    for truth, rate in ((True, 0.8), (False, 0.3)):
        of = right(given) == truth
        count = of.sum()
        assert abs(kept[of].mean() - rate) < 5 * 0.5 / np.sqrt(count)
    sure = VERIFIERS["noisy"].call(KEY, NUMBERS._replace(phi=1.0, psi=0.0), given)
    np.testing.assert_array_equal(sure, right(given))


def test_residual_of_the_truth_is_0_and_of_another_spectrum_is_not():
    given = guesses(500, 1)
    examples = Matrices().draw(key(0, Stream.REAL, 0, 0), np.arange(500))
    true = given._replace(values=examples.values[:, None], formed=np.ones((500, 1), bool))
    assert residuals(true).max() < 1e-12
    others = true._replace(values=np.roll(examples.values, 1, 0)[:, None])
    assert np.median(residuals(others)) > 0.1
    assert np.isinf(residuals(given)[~given.formed]).all()


def test_residual_is_a_verifier_worth_having():
    """Without labels, of guesses half of which or fewer are right: most of what it keeps is right.

    It may drop what is right: its tolerance is on other errors than the oracle's.
    """
    given = guesses(scale=0.06)
    kept = VERIFIERS["residual"].call(KEY, NUMBERS._replace(residual_tolerance=0.003), given) > 0
    assert right(given).mean() < 0.5
    assert right(given)[kept].mean() > 0.8 and kept[right(given)].mean() > 0.6


def test_ranking_verifiers_rank():
    given = guesses(scale=0.06)
    ranked = VERIFIERS["ranked_residual"].call(KEY, NUMBERS, given)
    top = ranked >= np.quantile(ranked, 0.8)
    assert right(given)[top].mean() > 2 * right(given).mean()
    assert np.isneginf(ranked[~given.formed]).all()
    np.testing.assert_array_equal(VERIFIERS["self"].call(KEY, NUMBERS, given), given.log_prob)
