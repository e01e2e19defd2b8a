"""Our ROUGE against the reference implementation on real pairs, in one process and in several."""

import os
import queue
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from synthjax.summarize import prepare
from synthjax.summarize import rouge as scoring
from synthjax.summarize.measure import first_sentence
from synthjax.summarize.rouge import FEW, rouge

pytestmark = pytest.mark.slow

COUNT = 1000


@pytest.fixture(scope="module")
def real():
    """Of real articles the summaries, and guesses: leads, summaries of others, beginnings."""
    pairs = prepare.prepare("news").splits["train"][:COUNT]
    references = [pair.summary for pair in pairs]
    guesses = [
        (first_sentence(pair.text), references[i - 1], pair.summary[: i % 90])[i % 3]
        for i, pair in enumerate(pairs)
    ]
    return guesses, references


def by_reference(guesses, references):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = [scorer.score(r, g) for g, r in zip(guesses, references, strict=True)]
    each = [[one[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")] for one in found]
    return np.array(each, np.float32).reshape(-1, 3)


def test_a_worker_that_is_killed_is_an_error_of_one_line(monkeypatch):
    """And the next call begins new ones: those of the tests below."""
    monkeypatch.setattr(scoring.synthjax, "cores", lambda: 1)
    many = ["a b"] * (FEW + 1)
    assert (rouge(many, many) == 1).all()
    (worker,) = scoring._workers()._processes
    assert worker != os.getpid()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="a process that scored ROUGE was killed"):
        rouge(many, many)


def test_real_pairs(real):
    """1,000 pairs by workers, in their order, and the same by this process, a few at a time."""
    expected = by_reference(*real)
    assert len(expected) == COUNT > FEW and (expected.std(0) > 0.1).all()
    found = rouge(*real)
    assert found.dtype == np.float32 and found.shape == (COUNT, 3)
    np.testing.assert_array_equal(found, expected)
    here = [rouge(*(texts[i : i + FEW] for texts in real)) for i in range(0, COUNT, FEW)]
    np.testing.assert_array_equal(np.concatenate(here), expected)


@pytest.mark.parametrize(
    "guess, reference, expected",
    [
        # Stems: sat, the, cat of the, cat, sat, on, mat.
        ("sat the cats", "The cat sat on mats.", (2 * 3 / 8, 2 * 1 / 6, 2 * 2 / 8)),
        ("cat cat cat", "cat", (2 * 1 / 4, 0, 2 * 1 / 4)),
        ("river", "River!", (1, 0, 1)),
        ("", "", (0, 0, 0)),
        ("", "the cat", (0, 0, 0)),
        ("the cat", "", (0, 0, 0)),
        ("?! …", "?! …", (0, 0, 0)),
        ("川と海", "川と海", (0, 0, 0)),  # letters a to z and digits alone are words
        ("Café in Łódź", "cafés IN łódź", (2 * 3 / 7, 2 * 1 / 5, 2 * 3 / 7)),  # caf, in, d, and s
        ("a\x00b\u2028c \U0001f600", "a b c", (1, 1, 1)),
    ],
)
def test_by_hand(guess, reference, expected):
    np.testing.assert_allclose(rouge([guess], [reference]), [expected], rtol=1e-6)


def test_a_text_of_100_000_words():
    """Scored like any other, on either side; the words of the other one are found once."""
    long, short = "a river " * 50_000, "the river and the sea"
    expected = [2 * 1 / 100_005, 0, 2 * 1 / 100_005]
    for guess, reference in ((long, short), (short, long)):
        np.testing.assert_allclose(rouge([guess], [reference]), [expected], rtol=1e-6)


def test_no_pairs_and_pairs_of_one():
    assert rouge([], []).shape == (0, 3)
    with pytest.raises(ValueError, match="shorter"):
        rouge(["a"], [])


def test_a_worker_ends_with_its_parent(monkeypatch):
    """Killed, that cannot tell them: they see that they were adopted."""
    ended, parents = queue.Queue(), iter([7, 7, 1])
    monkeypatch.setattr(
        scoring, "os", SimpleNamespace(getppid=lambda: next(parents), _exit=ended.put)
    )
    monkeypatch.setattr(scoring, "time", SimpleNamespace(sleep=lambda seconds: None))
    scoring._begin(7)
    assert ended.get(timeout=60) == 1
