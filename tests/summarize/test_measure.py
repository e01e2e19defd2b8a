"""Diversity by hand and by definition, intervals by simulation, and perplexity of what fits."""

import collections
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from summarize.plain import form_of, pairs_of, task_of, written_out

from synthjax.io.watchdog import Watchdog
from synthjax.summarize import model
from synthjax.summarize.measure import diversity, first_sentence, interval, words
from synthjax.summarize.rouge import rouge

pytestmark = pytest.mark.slow

# Diversity

CATS = ["The cat sat", "the cat.", "a dog", "The cat"]


@pytest.mark.parametrize(
    "texts, distinct_1, distinct_2, entropy, length, same",
    [
        # Five words 3, 3, 1, 1, 1 times; the-cat three times, cat-sat, a-dog.
        (CATS, 5 / 9, 3 / 5, 4 / 3 * np.log2(3), 9 / 4, 1 / 2),
        (["one two three four", "five six seven eight"], 1, 1, 3, 4, 0),
        (["no no no no"], 1 / 4, 1 / 3, 0, 4, 0),
        (["Zoë’s café", "zoë’s CAFÉ!", "川 海"], 5 / 8, 3 / 5, 9 / 4, 8 / 3, 2 / 3),
        (["a", "b"], 1, 0, 1, 1, 0),  # no pairs of words, also across texts
        (["", " ", "?!"], 0, 0, 0, 0, 1),  # all are equally empty
        (["", "word"], 1, 0, 0, 0.5, 0),
        ([], 0, 0, 0, 0, 0),
    ],
)
def test_diversity_by_hand(texts, distinct_1, distinct_2, entropy, length, same):
    found = diversity(texts)
    assert all(value.shape == () for value in found.values())
    expected = dict(distinct_1=distinct_1, distinct_2=distinct_2, entropy=entropy)
    expected |= dict(words=length, same=same)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
        assert not np.signbit(found[name]), name  # −0 would be shown as -0.00


@pytest.mark.parametrize("symbols", [1, 3, 40])
def test_diversity_by_definition(symbols):
    """200 texts of 1 to 5 words: sets, scipy's entropy, and every text against every other one."""
    rng = np.random.default_rng(symbols)
    split = [rng.integers(0, symbols, rng.integers(1, 6)).tolist() for _ in range(200)]
    found = diversity([" ".join(f"w{i}" for i in text) for text in split])
    ones = [word for text in split for word in text]
    twos = [(text[i], text[i + 1]) for text in split for i in range(len(text) - 1)]
    assert found["distinct_1"] == len(set(ones)) / len(ones)
    assert found["distinct_2"] == len(set(twos)) / len(twos)
    counts = list(collections.Counter(ones).values())
    assert found["entropy"] == pytest.approx(stats.entropy(counts, base=2))
    assert found["words"] == len(ones) / 200
    assert found["same"] == np.mean([split.count(text) > 1 for text in split])


@pytest.mark.parametrize(
    "article, first",
    [
        ("One. Two.", "One."),
        ("  It was 3.5 km! Then", "It was 3.5 km!"),
        ("Who? He.", "Who?"),
        ("a title\nText. More.", "a title"),
        ("no end", "no end"),
        ("", ""),
    ],
)
def test_first_sentence(article, first):
    assert first_sentence(article) == first


@pytest.mark.parametrize(
    "text, count", [("a b-c, d's", 5), ("", 0), ("— …", 0), ("Łódź 川海 3", 3)]
)
def test_words(text, count):
    assert words(text) == count


# Intervals


def test_interval_agrees_with_scipy():
    """Skewed data, 200 sets of 40 at once: both ends, in standard errors, on average over the sets.

    Of 1,000 resamples an end is off by 0.085 standard errors, of the mean over sets by 0.007 with
    scipy's own; 0.035 is five times that, and less than a degree of freedom more or less makes.
    """
    scores = np.random.default_rng(0).exponential(size=(40, 200))
    mean, low, high = interval(scores, 7)
    np.testing.assert_allclose(mean, scores.mean(0))
    how = dict(axis=0, method="percentile", n_resamples=2000, rng=np.random.default_rng(1))
    theirs = stats.bootstrap((scores,), np.mean, **how)
    error = scores.std(0) / math.sqrt(40)
    for ours, reference in zip((low, high), theirs.confidence_interval, strict=True):
        assert abs(((ours - reference) / error).mean()) < 0.035


def test_interval_covers():
    """Of 2,000 sets of 100 uniform numbers 94.6 % hold the mean 1/2, as t has it.

    Four standard errors are 0.020: a true coverage of 0.90 or of 0.98 would be found with a
    probability above 0.999.
    """
    scores = np.random.default_rng(2).random((100, 2000))
    _, low, high = interval(scores, 0)
    expected = 1 - 2 * stats.t(99).sf(stats.norm.ppf(0.975) * math.sqrt(0.99))
    assert expected == pytest.approx(0.946, abs=0.001)
    covered = ((low <= 0.5) & (high >= 0.5)).mean()
    assert abs(covered - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)


def test_interval_is_of_rows_and_of_the_seed():
    """The same rows for every column; a column alone, and run again, has the same interval."""
    scores = np.random.default_rng(3).random((30, 3)).astype(np.float32)
    whole = interval(scores, 5)
    for again, column in ((interval(scores, 5), slice(3)), (interval(scores[:, 1:2], 5), [1])):
        for one, other in zip(again, whole, strict=True):
            np.testing.assert_allclose(one, other[column], rtol=1e-12)
    assert (interval(scores, 6)[1] != whole[1]).any()


def test_scores_that_are_all_the_same_have_no_interval():
    """Not even one of rounding: the mean must not lie beside it."""
    scores = np.full((1000, 1), 0.1, np.float32)
    for found in interval(scores, 0):
        np.testing.assert_array_equal(found, scores[0])


# All that is measured, of a model that says what it is told to


ARTICLES = [f"The river rose {i} times. Then the city slept." for i in range(6)]
LONG = "river and city " * 40
SUMMARIES = ["river rose", "the city", "a river ran", "city of rivers", LONG, "slept"]
GUESSES = ["river rose", "the city", "the river", "the city", "", "slept"]


@pytest.fixture(scope="module")
def form():
    return form_of([*ARTICLES, *SUMMARIES])


def measured(form, monkeypatch, summaries, chances):
    """A model guesses GUESSES, and gives every token of summary i the probability chances[i]."""
    prompts, rows = form.prompts(ARTICLES), written_out(form, GUESSES)
    targets = form.targets(summaries)

    def generate(language, params, mesh, asked, k, length, columns):
        assert (len(asked), k, length, columns) == (4, 1, 16, 64 - 16)
        return SimpleNamespace(tokens=rows[[prompts.index(one) for one in asked]][:, None])

    def log_probs(language, params, mesh, before, told, columns):
        rows = [[*one, *other] for one, other in zip(before, told, strict=True)]
        assert len(rows) == 4 and max(map(len, rows)) <= columns == 64
        return np.array([len(one) * np.log(chances[targets.index(one)]) for one in told])

    monkeypatch.setattr(model, "generate", generate)
    monkeypatch.setattr(model, "log_probs", log_probs)
    task = task_of(form, pairs_of(ARTICLES, summaries), decode_batch=4, n_samples=3)
    with Watchdog() as watchdog:
        found = task.measure(0, None, watchdog)
    return found, [len(target) for target in targets], rows


def test_measure(form, monkeypatch):
    """6 articles in batches of 4 and 2, in programs for 4; a reference too long for a block counts
    for ROUGE and not for the perplexity, of which every token of the others is once a part."""
    chances = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.01])
    found, lengths, rows = measured(form, monkeypatch, SUMMARIES, chances)
    scores = rouge(GUESSES, SUMMARIES)
    np.testing.assert_allclose(found["rouge"], scores.mean(0), rtol=1e-6)
    for name, value in zip(("rouge", "rouge_low", "rouge_high"), interval(scores, 0), strict=True):
        np.testing.assert_array_equal(found[name], value)
    told = [i for i in range(6) if SUMMARIES[i] != LONG]
    total = sum(lengths[i] * np.log(chances[i]) for i in told)
    expected = np.exp(-total / sum(lengths[i] for i in told))
    assert found["perplexity"] == pytest.approx(expected)
    for name, value in diversity(GUESSES).items():
        assert found[name] == value
    np.testing.assert_array_equal(found["sample"], rows[:3])
    np.testing.assert_array_equal(found["sample_rouge"], scores[:3])


def test_a_perplexity_of_nothing_is_not_a_number(form, monkeypatch):
    found, _, _ = measured(form, monkeypatch, [LONG] * 6, np.ones(6))
    assert np.isnan(found["perplexity"]) and found["perplexity"].shape == ()
