"""A task around made-up pairs, with a real tokenizer and no model: what needs none is quick."""

import jax
import numpy as np
from summarize.tiny import tiny

from synthjax.nn import sharding
from synthjax.summarize import tokens
from synthjax.summarize.model import NONE
from synthjax.summarize.pairs import Pair
from synthjax.summarize.task import Base, Corpus, SummarizeTask
from synthjax.summarize.tokens import Format

MESH = sharding.mesh()
KEY = jax.random.key(5, impl="threefry2x32")


def pairs_of(articles, summaries):
    given = zip(articles, summaries, strict=True)
    return [Pair(f"{i}", "", "", summary, text) for i, (text, summary) in enumerate(given)]


def form_of(texts, block=64, summary=16) -> Format:
    tokenizer = tokens.train([*texts, tokens.SEPARATOR], 300)
    return Format(tokenizer, tokenizer.eos_token_id, block, summary)


def task_of(form, test=(), train=(), others=(), **changes) -> SummarizeTask:
    spec = tiny("nowhere", **changes)
    return SummarizeTask(spec, MESH, Corpus(train, test), Base(None, None, form), dict(others))


def written_out(form, texts, length=16):
    """The tokens of guesses, with the end and then nothing."""
    found = np.full((len(texts), length), NONE, np.int32)
    for row, ids in zip(found, form.targets(texts), strict=True):
        row[: len(ids)] = ids
    return found
