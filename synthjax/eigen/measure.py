"""How far a guessed spectrum is from the true one, and how often guesses are right.

A guess is right at tolerance τ if Σ|λ̂ − λ| < τ Σ|λ| (Charton, *Linear algebra with transformers*,
TMLR 2022). An answer that cannot be read is wrong. NumPy on the host.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Host = np.ndarray
TOLERANCES = (0.05, 0.02, 0.01, 0.005)
DECODINGS = ("greedy", "oracle_of_k", "logprob_of_k")


class Errors(NamedTuple):
    """Relative errors of guesses; ∞ where an answer could not be read.

    Fields: `l1` = Σ|λ̂ − λ| / Σ|λ|; `largest` = max|λ̂ − λ| / max|λ|; `each` |λ̂ᵢ − λᵢ| / |λᵢ|.
    """

    l1: Float[Host, "..."]
    largest: Float[Host, "..."]
    each: Float[Host, "... d"]


def errors(
    guessed: Float[Host, "... d"], formed: Bool[Host, "..."], true: Float[Host, "... d"]
) -> Errors:
    """Of guessed eigenvalues, in the order in which they were guessed; shapes broadcast."""
    off = np.where(formed[..., None], np.abs(guessed - true), np.inf)
    true = np.abs(true)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Errors(
            off.sum(-1) / true.sum(-1), off.max(-1) / true.max(-1), np.where(off > 0, off / true, 0)
        )


def right(
    greedy: Float[Host, " n"],
    error: Float[Host, "n k"],
    log_prob: Float[Host, "n k"],
    tolerance: float,
) -> dict[str, Bool[Host, " n"]]:
    """Which of n matrices are answered rightly, by how the answer is decoded.

    `greedy`: the greedy answer. `oracle_of_k`: any of k guesses. `logprob_of_k`: the most probable
    of them, by the log-probability of the whole answer. Errors are `Errors.l1`.
    """
    best = np.argmax(log_prob, 1)
    return {
        "greedy": greedy < tolerance,
        "oracle_of_k": (error < tolerance).any(1),
        "logprob_of_k": error[np.arange(len(error)), best] < tolerance,
    }
