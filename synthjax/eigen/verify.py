"""Verifiers of guessed spectra: a score for each guess, 1 keep and 0 drop, or one to rank by.

`residual` is one that a user would have: it needs no labels. The eigenvalues of A sum to its trace
and their squares to its squared Frobenius norm, which cost nothing; most wrong guesses miss one.
"""

from typing import NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from synthjax.protocol.keys import uniform_rows
from synthjax.protocol.spec import Kind

Host = np.ndarray
Scores = Float[Host, "n k"]


class Guessed(NamedTuple):
    """k guesses for each of n matrices.

    Fields: `values`, 0 past a matrix's own size, and whether they are `formed`, that is could be
    read; `log_prob` by the generator; `error`, `Errors.l1` to the truth, at which an oracle alone
    looks; `sizes`, `trace` and `norm` (Frobenius) of the matrices; where another model is asked,
    its log-probability of each guess, −∞ of one that is not formed, or the error of the guess if
    the other model's own greedy answer were true.
    """

    values: Float[Host, "n k d"]
    formed: Bool[Host, "n k"]
    log_prob: Float[Host, "n k"]
    error: Float[Host, "n k"]
    sizes: Int[Host, " n"]
    trace: Float[Host, " n"]
    norm: Float[Host, " n"]
    other_log_prob: Float[Host, "n k"] | None = None
    other_error: Float[Host, "n k"] | None = None


class Numbers(NamedTuple):
    """The fields of a spec that verifiers read."""

    phi: float = 1.0
    psi: float = 0.5
    verifier_tolerance: float = 0.02
    residual_tolerance: float = 0.02


class Verifier(Protocol):
    """Scores guesses; row i of the result depends on row i of `guesses` and on the key alone."""

    def __call__(self, key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
        """1 keep or 0 drop; a number that ranks the guesses where `reads` names "keep"."""


def none(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """Keep everything, even what cannot be read."""
    return np.ones(guesses.formed.shape, np.float32)


def oracle(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """Keep what is right: φ = 1, ψ = 0."""
    return (guesses.error < numbers.verifier_tolerance).astype(np.float32)


def noisy(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """Keep a right guess with probability φ and a wrong one with ψ (the paper's p_noise)."""
    n, k = guesses.error.shape
    right = guesses.error < numbers.verifier_tolerance
    with jax.threefry_partitionable(False):
        drawn = np.stack([uniform_rows(jax.random.fold_in(key, j), n) for j in range(k)], 1)
    chance = np.where(right, numbers.phi, numbers.psi)
    return (drawn < chance).astype(np.float32)


def residual(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """Keep where trace and Frobenius norm are those of the matrix, to `residual_tolerance`."""
    return (residuals(guesses) < numbers.residual_tolerance).astype(np.float32)


def ranked_residual(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """The smaller the residual the better."""
    return -residuals(guesses)


def self_confidence(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """The generator's log-probability of its guess."""
    return guesses.log_prob


def model(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """Keep what another model's greedy answer agrees with, to `verifier_tolerance`."""
    return (guesses.other_error < numbers.verifier_tolerance).astype(np.float32)


def ranked_model(key: Key[Array, ""], numbers: Numbers, guesses: Guessed) -> Scores:
    """Another model's log-probability of the guess."""
    return guesses.other_log_prob


def residuals(guesses: Guessed) -> Float[Host, "n k"]:
    """The larger of two relative errors; ∞ where there are no values.

    |Σλ̂ − tr A| / √d ‖A‖, whose denominator is the most that Σ|λ| can be, and |‖λ̂‖ − ‖A‖| / ‖A‖.
    """
    values = np.where(guesses.formed[..., None], guesses.values, 0)
    norm = guesses.norm[:, None]
    trace = np.abs(values.sum(-1) - guesses.trace[:, None]) / (
        np.sqrt(guesses.sizes)[:, None] * norm
    )
    size = np.abs(np.linalg.norm(values, axis=-1) - norm) / norm
    return np.where(guesses.formed, np.maximum(trace, size), np.inf)


VERIFIERS = {
    "none": Kind(none, (), "keep everything"),
    "oracle": Kind(oracle, ("verifier_tolerance",), "keep what is right, to the tolerance"),
    "noisy": Kind(
        noisy,
        ("phi", "psi", "verifier_tolerance"),
        "keep right guesses with φ, wrong ones with ψ",
    ),
    "residual": Kind(
        residual, ("residual_tolerance",), "keep where trace and Frobenius norm agree; no labels"
    ),
    "ranked_residual": Kind(ranked_residual, ("keep",), "keep those that agree best; no labels"),
    "self": Kind(self_confidence, ("keep",), "keep what the generator holds most probable"),
    "model": Kind(
        model,
        ("verifier_model", "verifier_tolerance"),
        "keep what another model's greedy answer agrees with",
    ),
    "ranked_model": Kind(
        ranked_model, ("verifier_model", "keep"), "keep what another model holds most probable"
    ),
}
