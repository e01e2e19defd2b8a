"""What training sets of the summarization task hold, from files on: texts, without a model."""

import json

import numpy as np
import pytest
from summarize.plain import form_of, pairs_of, task_of, written_out

from synthjax.protocol.spec import SpecError
from synthjax.summarize import sweep
from synthjax.summarize.pairs import split_of
from synthjax.summarize.tokens import SEPARATOR

ARTICLES = [f"article {i} of the river and the market in the city" for i in range(100)]
SUMMARIES = [f"river {i} and market" for i in range(100)]
BLOCK = 64


@pytest.fixture(scope="module")
def form():
    return form_of([*ARTICLES, *SUMMARIES])


def texts(form, source):
    """Article and summary of every row."""
    rows = source.rows(np.arange(len(source)))
    found = []
    for row, length in zip(rows.tokens, rows.length, strict=True):
        article, summary = form.read(row[:length]).split(SEPARATOR)
        found.append((article, summary.strip()))
    return found


def test_a_file_with_bad_lines_and_a_long_article(form, tmp_path):
    """What cannot be read is left out and said; 100,000 words are cut, and their summary is not."""
    train = [f"{i}" for i in range(2000) if split_of(f"{i}") == "train"][:1000]
    lines = [json.dumps(dict(id=id, text=f"river {id}", summary="the city")) for id in train]
    lines[500] = json.dumps(dict(id=train[500], text="market " * 100_000, summary="a market"))
    lines[600] = json.dumps(dict(id=train[600], text="river", summary=" "))
    lines = [line.encode() for line in lines]
    lines[700] = '{"text": "the café", "summary": "a café"}'.encode("latin-1")
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(lines))
    said = r"2 of 1000 lines malformed \(line 601: no summary; line 701: not UTF-8\)"
    with pytest.warns(UserWarning, match=said):
        corpus = sweep.read_corpus(tmp_path / "pairs.jsonl")
    assert len(corpus.train) == 998 and not corpus.test
    (long,) = (pair for pair in corpus.train if len(pair.text) > 1000)
    source = task_of(form, train=[long], n_real=1, n=1).pool(0, None, ())
    rows = source.rows(np.array([0]))
    assert rows.length[0] <= BLOCK == rows.tokens.shape[1]
    ((article, summary),) = texts(form, source)
    assert summary == "a market" and article == ("market " * article.count("market")).strip()
    assert rows.length[0] > BLOCK - form.summary


def test_the_first_generator_learns_real_pairs_that_fit(form):
    """A summary longer than a block is left out; where all are, there is nothing to learn from."""
    long = "river and market " * 40
    task = task_of(form, train=pairs_of(ARTICLES[:3], [long, *SUMMARIES[1:3]]), n_real=3, n=1)
    with pytest.warns(UserWarning, match="config.block = 64: 1 of 3 real summaries do not fit"):
        found = texts(form, task.pool(0, None, ()))
    assert set(found) == {(ARTICLES[i], SUMMARIES[i]) for i in (1, 2)}
    task = task_of(form, train=pairs_of(ARTICLES[:2], [long, long]), n_real=2, n=1)
    with pytest.raises(SpecError, match=r"config.block = 64: no real summary fits into a block"):
        task.pool(0, None, ())


REGIMES = {
    "replace": (dict(), 20, 0, 0),
    "mix": (dict(regime="mix", real_fraction=0.25), 15, 5, 0),
    "accumulate": (dict(regime="accumulate"), 20, 0, 40 + 2),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_a_training_set_is_of_articles_and_what_was_kept(form, regime):
    """Guesses stand with their own article; what is fresh and real is seen nowhere else."""
    changes, guessed, fresh, past = REGIMES[regime]
    task = task_of(form, train=pairs_of(ARTICLES, SUMMARIES), **changes)
    assert (task.n, task.n_fresh, len(task.real)) == (guessed, fresh, 40)
    articles = task._articles(1)
    assert len(articles) == 20 and not {pair.id for pair in articles} & {p.id for p in task.real}
    assert articles != task._articles(2)
    selected = {"index": np.array([4, 4, 2]), "target": written_out(form, ["a", "the", "city"])}
    kept = task.kept(1, selected)
    expected = [(articles[i].text, text) for i, text in ((4, "a"), (4, "the"), (2, "city"))]
    assert texts(form, kept) == expected
    before = task.kept(2, {"index": np.array([0, 1]), "target": written_out(form, ["of", "and"])})
    found = texts(form, task.pool(1, kept, [before]))
    real = {(pair.text, pair.summary) for pair in task.real}
    assert len(found) == past + 3 + fresh and set(expected) <= set(found)
    assert (real <= set(found)) == (regime == "accumulate")
    if fresh:
        assert found[-fresh:] == [(pair.text, pair.summary) for pair in articles[guessed:]]
        assert not set(found) & real
