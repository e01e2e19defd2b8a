"""Verifiers of summaries: a score for each guess, the higher the better."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from synthjax.protocol.keys import uniform_rows
from synthjax.protocol.spec import Kind
from synthjax.summarize.pairs import Pair
from synthjax.summarize.rouge import METRICS

Host = np.ndarray
Scores = Float[Host, "n k"]


class Guessed(NamedTuple):
    """k summaries for each of n articles.

    Fields: `log_prob` by the generator, a sum over `tokens` tokens; `rouge` by `METRICS`, to the
    reference, at which an oracle alone looks, and `lead`, to the article's first sentence; `words`
    of each summary; where another model is asked, its `other` mean log-probability of a token. And
    what they are: `pairs`, each article with its reference, and the `texts` of its k summaries.
    """

    log_prob: Float[Host, "n k"]
    tokens: Int[Host, "n k"]
    rouge: Float[Host, "n k 3"]
    lead: Float[Host, "n k 3"]
    words: Int[Host, "n k"]
    other: Float[Host, "n k"] | None = None
    pairs: Sequence[Pair] = ()
    texts: Sequence[Sequence[str]] = ()


class Numbers(NamedTuple):
    """The fields of a spec that verifiers read."""

    verifier_metric: str = "rouge1"


class Verifier(Protocol):
    """Scores guesses; row i of the result depends on row i of `guesses` and on the key alone."""

    def __call__(self, key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
        """The higher the better."""


def random(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """By chance; all of them at rate 1."""
    n, k = guesses.words.shape
    with jax.threefry_partitionable(False):
        drawn = [uniform_rows(jax.random.fold_in(key, j), n) for j in range(k)]
    return np.stack([np.asarray(column) for column in drawn], 1)


def oracle(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """ROUGE against the reference."""
    return guesses.rouge[..., METRICS.index(numbers.verifier_metric)]


def lead(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """ROUGE against the article's first sentence; no reference."""
    return guesses.lead[..., METRICS.index(numbers.verifier_metric)]


def length(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """The more words the better; no reference."""
    return guesses.words.astype(np.float32)


def self_perplexity(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """The lower the generator's own perplexity the better: mean log-probability of a token."""
    return guesses.log_prob / np.maximum(guesses.tokens, 1)


def model(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """The lower another model's perplexity the better."""
    return guesses.other


VERIFIERS = {
    "random": Kind(random, (), "by chance; everything at rate=1"),
    "oracle": Kind(oracle, ("verifier_metric",), "ROUGE against the reference"),
    "self": Kind(self_perplexity, (), "the generator's own perplexity, the lower the better"),
    "model": Kind(model, ("verifier_model",), "another model's perplexity, the lower the better"),
    "lead": Kind(lead, ("verifier_metric",), "ROUGE against the article's first sentence"),
    "length": Kind(length, (), "the more words the better"),
}
