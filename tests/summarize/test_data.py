"""Tokens of pairs, and the pipeline from them to batches."""

import jax
import numpy as np
import pytest

from synthjax.summarize import data, tokens
from synthjax.summarize.tokens import SEPARATOR, Format

KEY = jax.random.key(3, impl="threefry2x32")
TEXTS = [f"article {i} about the river and the city, " * (1 + i % 4) for i in range(30)]
SUMMARIES = [f"river {i} and city" for i in range(30)]
BLOCK, SUMMARY = 48, 16


@pytest.fixture(scope="module")
def form():
    tokenizer = tokens.train([*TEXTS, *SUMMARIES, SEPARATOR], 400)
    return Format(tokenizer, tokenizer.eos_token_id, BLOCK, SUMMARY)


@pytest.fixture(scope="module")
def source(form):
    targets = form.targets(SUMMARIES)
    return data.examples(form.prompts(TEXTS, [len(one) for one in targets]), targets, BLOCK)


def every(source, first=0, count=12, size=4, here=None, **how):
    here = np.arange(size) if here is None else here
    return list(data.batches(source, KEY, size, BLOCK, range(first, count), here, **how))


def same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def test_the_article_is_cut_and_the_summary_never(form):
    long = "word " * 100_000
    prompt = form.prompts([long])[0]
    assert len(prompt) == BLOCK - SUMMARY
    assert form.tokenizer.decode(prompt[1:]).endswith(SEPARATOR)
    assert prompt[0] == form.tokenizer.bos_token_id
    summary = "a summary longer than guesses may be"
    target = form.targets([summary])[0]
    assert target[-1] == form.eos and len(target) > SUMMARY
    assert len(form.prompts([long], [len(target)])[0]) + len(target) == BLOCK
    assert form.read(target) == summary


def test_what_does_not_fit_is_left_out(form):
    targets = form.targets(["short", "much too long " * 40])
    found = data.examples(form.prompts(["one", "two"], [1, 1]), targets, BLOCK)
    assert len(found) == 1


@pytest.mark.parametrize("pack", [False, True])
def test_a_batch_depends_on_its_number_alone(source, pack):
    """Resumed after any number of batches, whatever the epoch: 30 texts, 48 rows."""
    whole = every(source, pack=pack)
    for first in (1, 5, 11):
        rest = every(source, first, pack=pack)
        assert len(rest) == 12 - first
        assert all(map(same, rest, whole[first:]))


@pytest.mark.parametrize("pack", [False, True])
def test_every_text_comes_once_in_an_epoch(source, form, pack):
    seen = []
    for batch in every(source, pack=pack):
        segments = batch.segments if pack else (batch.tokens > 0).astype(int)
        for row, numbers in zip(batch.tokens, segments, strict=True):
            seen += [row[numbers == s].tobytes() for s in range(1, numbers.max() + 1)]
    whole = source.rows(np.arange(30))
    own = {row[:length].tobytes() for row, length in zip(whole.tokens, whole.length, strict=True)}
    assert set(seen[:30]) == own


def test_packed_rows_hold_more_and_tell_the_summaries(source):
    packed, alone = every(source, pack=True), every(source)
    filled = [sum((batch.tokens > 0).sum() for batch in found) for found in (packed, alone)]
    assert filled[0] > filled[1]
    batch = packed[0]
    for row in range(4):
        for s in range(1, batch.segments[row].max() + 1):
            here = batch.segments[row] == s
            np.testing.assert_array_equal(batch.positions[row][here], np.arange(here.sum()))
            told = batch.told[row][here]
            first = int(np.argmax(told))
            assert told[:first].sum() == 0 and told[first:].all() and told[0] == 0


def test_the_articles_loss_has_its_weight(source):
    found, none = every(source, article_loss=0.25)[0], every(source)[0]
    assert set(np.unique(found.told)) == {0, 0.25, 1}
    np.testing.assert_array_equal(found.told == 1, none.told == 1)
    assert (found.told[:, 0] == 0).all()


def test_hosts_share_a_batch(source):
    whole = every(source, pack=True)
    parts = [every(source, 2, pack=True, here=np.arange(2) + at) for at in (0, 2)]
    for i, batch in enumerate(whole[2:]):
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), parts[0][i], parts[1][i])
        assert same(joined, batch)
