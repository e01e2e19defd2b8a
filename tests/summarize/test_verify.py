"""Every verifier in plain Python, what selections keep, and p, φ, ψ, p* by counting."""

import functools
import re
from collections import Counter

import jax
import numpy as np
import pytest
from scipy import stats
from summarize.plain import KEY, MESH, form_of, pairs_of, task_of, written_out

from synthjax.summarize import model
from synthjax.summarize.model import NONE, Language
from synthjax.summarize.rouge import METRICS
from synthjax.summarize.task import Base
from synthjax.summarize.verify import VERIFIERS, Numbers

# Words of three letters at most are their own stems.
ARTICLES = [
    "The dog saw the cat. It ran to the sea and hid.",
    "An old man sat by the sea! He saw the sun set.",
    "No end of it here\nbut one more row. Far off.",
]
SUMMARIES = ["the cat ran to sea", "old man and sun", "no more"]
GUESSES = [
    ["The dog saw the cat", "to the sea ran the cat"],
    ["", "sun sun sun and man"],
    ["no more", "far off"],
]
TEXTS = [text for texts in GUESSES for text in texts]


@pytest.fixture(scope="module")
def form():
    return form_of([*ARTICLES, *SUMMARIES, *TEXTS])


@pytest.fixture(scope="module")
def lm(form):
    """A model that knows nothing."""
    architecture = task_of(form).spec.architecture(len(form.tokenizer))
    language = Language(architecture, (form.eos,))
    params = jax.tree.map(lambda leaf: 2 * leaf, model.build(language).init(KEY))
    return Base(language, params, form)


@pytest.fixture(scope="module")
def given(form, lm):
    """What verifiers are shown of GUESSES, and the tokens and log-probabilities that it came of."""
    tokens = written_out(form, TEXTS).reshape(3, 2, -1)
    log_prob = np.float32([[-3.0, -1.5], [-2.0, -9.0], [-4.0, -4.0]])
    task = task_of(form, others={"it": lm}, verifier="model", verifier_model="it", decode_batch=4)
    return task._guessed(pairs_of(ARTICLES, SUMMARIES), tokens, log_prob), tokens, log_prob


def f_measure(hits, guess, reference):
    return 2 * hits / (len(guess) + len(reference)) if hits else 0


def plain_rouge(metric, guess, reference):
    a, b = (re.findall("[a-z]+", text.lower()) for text in (guess, reference))
    if metric == "rougeL":

        @functools.cache
        def common(i, j):
            if i == len(a) or j == len(b):
                return 0
            if a[i] == b[j]:
                return 1 + common(i + 1, j + 1)
            return max(common(i + 1, j), common(i, j + 1))

        return f_measure(common(0, 0), a, b)
    n = int(metric[-1])
    a, b = ([tuple(x[i : i + n]) for i in range(len(x) + 1 - n)] for x in (a, b))
    return f_measure((Counter(a) & Counter(b)).total(), a, b)


def each(function):
    """function(i, j) of every guess."""
    return [[function(i, j) for j in range(2)] for i in range(3)]


LEADS = ["The dog saw the cat.", "An old man sat by the sea!", "No end of it here"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["oracle", "lead"])
def test_rouge_verifiers(given, name, metric):
    found = VERIFIERS[name].call(KEY, Numbers(metric), given[0])
    against = SUMMARIES if name == "oracle" else LEADS
    expected = each(lambda i, j: plain_rouge(metric, GUESSES[i][j], against[i]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(np.unique(found)) > 2


def test_length(given):
    found = VERIFIERS["length"].call(KEY, Numbers(), given[0])
    np.testing.assert_array_equal(found, each(lambda i, j: len(GUESSES[i][j].split())))


def test_self_perplexity(given):
    """A mean over tokens, of which the end is one: long guesses lose nothing by their length."""
    guesses, tokens, log_prob = given
    found = VERIFIERS["self"].call(KEY, Numbers(), guesses)
    expected = each(lambda i, j: log_prob[i, j] / sum(token != NONE for token in tokens[i, j]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    none = guesses._replace(tokens=0 * guesses.tokens, log_prob=np.full((3, 2), -np.inf))
    assert np.isneginf(VERIFIERS["self"].call(KEY, Numbers(), none)).all()


def test_another_models_perplexity(given, lm, form):
    """From its logits, text after text, where the verifier takes them in batches of 4 and 2."""
    found = VERIFIERS["model"].call(KEY, Numbers(), given[0])
    rows, firsts = [], []
    for i, texts in enumerate(GUESSES):
        for target in form.targets(texts):
            prompt = form.prompts([ARTICLES[i]])[0]
            rows.append([*prompt, *target])
            firsts.append(len(prompt))
    tokens, lengths = model.padded(rows, 64)
    mask = np.arange(64) < lengths[:, None]
    logits = np.float64(model.logits(lm.language, lm.params, MESH, tokens, mask))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [
        np.mean([log_probs[row, at - 1, tokens[row, at]] for at in range(first, length)])
        for row, (first, length) in enumerate(zip(firsts, lengths, strict=True))
    ]
    np.testing.assert_allclose(found, np.reshape(expected, (3, 2)), rtol=1e-4)


def test_random(given):
    """Uniform, of 4,000 guesses; another distribution, 0.05 off, has less than 1e-6 to pass."""
    large = given[0]._replace(words=np.zeros((2000, 2), int))
    found, other = (
        VERIFIERS["random"].call(key, Numbers(), large) for key in (KEY, jax.random.fold_in(KEY, 1))
    )
    assert stats.kstest(found.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(found.T)[0, 1]) < 4 / np.sqrt(2000)
    assert not (found == other).all(1).any()


@pytest.mark.parametrize("name", VERIFIERS)
def test_contract(given, name):
    """Scores by rows; chance, the reference and the metric move those alone that read them."""
    guesses, kind = given[0], VERIFIERS[name]

    def scores(guesses=guesses, key=KEY, metric="rouge1"):
        return np.asarray(kind.call(key, Numbers(metric), guesses))

    def moved(**changes):
        return (scores(**changes) != scores()).any()

    assert scores().shape == (3, 2) and np.isfinite(scores()).all()
    some = type(guesses)(*(leaf[:2] for leaf in guesses))
    np.testing.assert_array_equal(scores(some), scores()[:2])
    assert moved(key=jax.random.fold_in(KEY, 1)) == (name == "random")
    assert moved(metric="rouge2") == ("verifier_metric" in kind.reads)
    assert moved(guesses=guesses._replace(rouge=1 - guesses.rouge)) == (name == "oracle")


# Selection


def made_up(n=60, k=3, ties=False):
    """Guesses with scores, a tenth of them none at all, for fewer sequences than beams."""
    rng = np.random.default_rng(0)
    score = rng.integers(0, 6, (n, k)) if ties else rng.normal(size=(n, k))
    there = rng.random((n, k)) > 0.1
    return {
        "tokens": rng.integers(3, 300, (n, k, 16)).astype(np.int32),
        "log_prob": np.where(there, -1, -np.inf).astype(np.float32),
        "score": score.astype(np.float32),
        "rouge": (there[..., None] * rng.random((n, k, 3))).astype(np.float32),
    }


SELECTIONS = {
    "top": dict(rate=0.25),
    "all": dict(rate=1.0),
    "threshold": dict(selection="threshold", threshold=0.2),
    "best_of_k": dict(selection="best_of_k"),
}


def wanted(name, guesses):
    """Which guesses are kept, in plain Python; where scores are tied, of all those tied."""
    score, there = guesses["score"], np.isfinite(guesses["log_prob"])
    every = [(i, j) for i, j in np.ndindex(score.shape) if there[i, j]]
    if name == "threshold":
        kept = [at for at in every if score[at] > 0.2]
    elif name == "best_of_k":
        best = {i: max(score[at] for at in every if at[0] == i) for i, _ in every}
        kept = [at for at in every if score[at] == best[at[0]]]
    else:
        count = round({"top": 0.25, "all": 1.0}[name] * len(every))
        least = sorted(score[at] for at in every)[-count]
        kept = [at for at in every if score[at] >= least]
    return kept, every


def plain_rates(guesses, kept, every, metric, least):
    """p, φ, ψ, p* one guess after another."""
    right = {at: guesses["rouge"][at][metric] > least for at in every}
    counts = Counter((right[at], at in kept) for at in every)
    of_right, of_wrong = (counts[which, True] + counts[which, False] for which in (True, False))
    phi, psi = counts[True, True] / of_right, counts[False, True] / of_wrong
    return of_wrong / len(every), phi, psi, 1 / (1 + psi / phi)


@pytest.mark.parametrize("right", [0.0, 0.3])
@pytest.mark.parametrize("name", SELECTIONS)
def test_select(form, name, right):
    """Which are kept, with their tokens, and the rates, right being above the median or `right`."""
    guesses = made_up()
    task = task_of(form, k=3, right=right, **SELECTIONS[name])
    kept, every = wanted(name, guesses)
    selected, record = task.select(1, guesses)
    assert selected["index"].tolist() == [i for i, _ in kept]
    expected = [guesses["tokens"][at] for at in kept]
    np.testing.assert_array_equal(selected["target"], expected)
    assert record["kept"] == len(kept) / len(every)
    for metric in range(3):
        scores = sorted(guesses["rouge"][at][metric] for at in every)
        half = len(scores) // 2
        median = (scores[half] + scores[~half]) / 2
        least = right or median
        assert record["right"][metric] == np.float32(least)
        rates = [record[f"{rate}_hat"][metric] for rate in ("p", "phi", "psi", "p_star")]
        np.testing.assert_allclose(rates, plain_rates(guesses, kept, every, metric, least))
        means = [np.mean([guesses["rouge"][at][metric] for at in of]) for of in (every, kept)]
        found = [record[f"rouge_{of}"][metric] for of in ("guessed", "kept")]
        np.testing.assert_allclose(found, means, rtol=1e-5)


@pytest.mark.parametrize("name", SELECTIONS)
def test_ties(form, name):
    """As many as asked for, of those tied at random: each generation has chances of its own."""
    guesses = made_up(ties=True)
    task = task_of(form, k=3, **SELECTIONS[name])
    tied, every = wanted(name, guesses)
    (one, _), (again, _), (two, _) = (task.select(t, guesses) for t in (1, 1, 2))
    np.testing.assert_array_equal(one["target"], again["target"])
    where = {guesses["tokens"][at].tobytes(): at for at in every}
    kept = [where[target.tobytes()] for target in one["target"]]
    assert [i for i, _ in kept] == one["index"].tolist() and set(kept) <= set(tied)
    assert len(set(kept)) == len(kept)
    if name == "best_of_k":
        assert sorted({i for i, _ in every}) == one["index"].tolist()
    elif name == "top":
        assert len(kept) == round(0.25 * len(every)) < len(tied)
        best = {at for at in every if guesses["score"][at] == 5}
        assert 0 < len(best) < len(kept) and best <= set(kept)
    else:
        assert set(kept) == set(tied)
    assert np.array_equal(one["target"], two["target"]) == (name in ("all", "threshold"))


def by_hand(rouges, scores):
    rouge = np.tile(np.float32(rouges)[:, None, None], (1, 1, 3))
    tokens = np.arange(len(scores), dtype=np.int32)[:, None, None]
    log_prob = np.zeros((len(scores), 1), np.float32)
    return dict(tokens=tokens, log_prob=log_prob, score=np.float32(scores)[:, None], rouge=rouge)


@pytest.mark.parametrize(
    "rouges, scores, right, p, phi, psi, p_star",
    [
        # The median is 0.4: the last two are right. One wrong guess is kept.
        ([0.1, 0.2, 0.6, 0.8], [0, 1, 1, 1], 0, 1 / 2, 1, 1 / 2, 2 / 3),
        # What equals the median is wrong.
        ([0.1, 0.2, 0.6], [1, 0, 1], 0, 2 / 3, 1, 1 / 2, 2 / 3),
        ([0.1, 0.2, 0.6, 0.8], [1, 0, 0, 1], 0.15, 1 / 4, 1 / 3, 1, 1 / 4),
        # Most are useless: right is what is better than nothing.
        ([0, 0, 0, 0.1], [0, 1, 0, 1], 0, 3 / 4, 1, 1 / 3, 3 / 4),
        # All are as good, so that none is above the median.
        ([0.5, 0.5], [1, 0], 0, 1, np.nan, 1 / 2, np.nan),
        ([0.1, 0.9], [0, 0], 0, 1 / 2, 0, 0, np.nan),
    ],
)
def test_rates_by_hand(form, rouges, scores, right, p, phi, psi, p_star):
    task = task_of(form, selection="threshold", threshold=0.5, right=right, generator="greedy", k=1)
    selected, record = task.select(1, by_hand(rouges, scores))
    found = [record[f"{name}_hat"] for name in ("p", "phi", "psi", "p_star")]
    np.testing.assert_allclose(found, np.tile([[p], [phi], [psi], [p_star]], 3))
    assert len(selected["index"]) == len(selected["target"]) == sum(scores)
    assert np.isnan(record["rouge_kept"]).all() == (not any(scores))
