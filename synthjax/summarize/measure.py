"""How good summaries are, and how much they differ from one another: collapse shows there first."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Host = np.ndarray
RESAMPLES = 1000
_WORD = re.compile(r"\w+")


def interval(
    scores: Float[Host, "n m"], seed: int
) -> tuple[Float[Host, " m"], Float[Host, " m"], Float[Host, " m"]]:
    """Means of the columns, and 95 % intervals by the percentile bootstrap over rows."""
    n = len(scores)
    rng = np.random.Generator(np.random.PCG64([seed, n]))
    means = np.stack([scores[rng.integers(0, n, n)].mean(0, np.float64) for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return scores.mean(0, dtype=np.float64), low, high


def diversity(texts: Sequence[str]) -> dict[str, Float[Host, ""]]:
    """Of a set of summaries, words in lower case.

    Returns `distinct_1` and `distinct_2`, different words and pairs of words as a share of all (Li
    et al., arXiv 1510.03055); `entropy` of the distribution of words, in bits; `words`, how many
    a summary has on average; `same`, the share of summaries that another one equals.
    """
    split = [_WORD.findall(text.lower()) for text in texts]
    ones = Counter(word for words in split for word in words)
    twos = Counter(pair for words in split for pair in itertools.pairwise(words))
    total, pairs = max(ones.total(), 1), max(twos.total(), 1)
    share = np.array([*ones.values()], np.float64) / total
    whole = Counter(map(tuple, split))
    found = {
        "distinct_1": len(ones) / total,
        "distinct_2": len(twos) / pairs,
        "entropy": np.sum(share * np.log2(1 / share)),
        "words": ones.total() / max(len(texts), 1),
        "same": sum(count for count in whole.values() if count > 1) / max(len(texts), 1),
    }
    return {name: np.asarray(value) for name, value in found.items()}


def first_sentence(article: str) -> str:
    """Of an article: to the first full stop before a space, or the first line."""
    return re.split(r"(?<=[.!?])\s|\n", article.strip(), maxsplit=1)[0]


def words(text: str) -> int:
    """How many."""
    return len(_WORD.findall(text))
