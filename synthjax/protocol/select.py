"""Selections: from the scores of guesses to the weights of a fixed-shape set.

Scores, `valid` and weights have the shape [k, n]: k guesses for each of n examples. A guess that is
not kept stays in memory with weight 0, so that shapes never depend on how many are kept. Guesses
that are not `valid` fill the array up and are never kept.

A verifier's score is its verdict, 1 keep and 0 drop, or ranks guesses: then it comes with the
fraction `keep` of them to be kept. Ties are broken at random, by rows of a key each.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from synthjax.protocol.keys import uniform_rows
from synthjax.protocol.spec import Kind, SpecError

Scores = Float[Array, "k n"]


def checked(verifier: str, scores: Any, valid: Bool[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """What a verifier made of n examples' k guesses, float32.

    Raises SpecError, naming it, where that are not as many scores, or a valid guess's is NaN, which
    is neither above nor below another.
    """
    scores = np.asarray(scores, np.float32)
    if scores.shape != valid.shape:
        rule = f"gave scores of the shape {list(scores.shape)}, where {list(valid.shape)} is asked"
        raise SpecError("verifier", verifier, rule)
    if nan := int((np.isnan(scores) & valid).sum()):
        raise SpecError("verifier", verifier, f"gave NaN for {nan} of {int(valid.sum())} guesses")
    return scores


def prune(
    key: Key[Array, ""], scores: Scores, valid: Bool[Array, "k n"], keep: Float[Array, ""] | None
) -> Float[Array, "k n"]:
    """Keep each guess on its own merits (the paper's q_i), or the top fraction `keep` of them all.

    The fraction is of the valid guesses, rounded to a whole number of at least 1. Expects k = 1.
    """
    if keep is None:
        return (valid & (scores > 0)).astype(jnp.float32)
    count = jnp.maximum(jnp.round(keep * valid.sum()), 1).astype(jnp.int32)
    chance = uniform_rows(key, scores.shape[1])
    return top(scores[0], chance, valid[0], count).astype(jnp.float32)[None]


def best_of_k(
    key: Key[Array, ""], scores: Scores, valid: Bool[Array, "k n"], keep: Float[Array, ""] | None
) -> Float[Array, "k n"]:
    """Of every example's valid guesses keep the one with the highest score, whatever it is."""
    k, n = scores.shape
    scores = jnp.where(valid, scores, -jnp.inf)
    tied = valid & (scores == scores.max(0))
    chance = jax.vmap(lambda j: uniform_rows(jax.random.fold_in(key, j), n))(jnp.arange(k))
    chosen = jnp.argmax(jnp.where(tied, chance, -1.0), 0)
    return ((jnp.arange(k)[:, None] == chosen) & valid).astype(jnp.float32)


def random(
    key: Key[Array, ""], scores: Scores, valid: Bool[Array, "k n"], keep: Float[Array, ""]
) -> Float[Array, "k n"]:
    """Keep the fraction `keep` of the guesses by chance, whatever their scores. Expects k = 1."""
    return prune(key, jnp.zeros_like(scores), valid, keep)


SELECTIONS = {
    "prune": Kind(prune, (), "keep every guess that the verifier keeps"),
    "best_of_k": Kind(best_of_k, ("k",), "of k guesses for each example keep the best-scored"),
}


def top(
    scores: Float[Array, " n"],
    chance: Float[Array, " n"],
    valid: Bool[Array, " n"],
    count: Int[Array, ""],
) -> Bool[Array, " n"]:
    """The `count` valid entries of highest score, ties by chance; all where there are fewer."""
    least = _kth_largest(scores, valid, count)
    above, tied = valid & (scores > least), valid & (scores == least)
    left = count - above.sum()
    lucky = tied & (chance >= _kth_largest(chance, tied, left))
    return above | (lucky & (jnp.cumsum(lucky) <= left))  # chances may be equal too


def _kth_largest(
    values: Float[Array, " n"], valid: Bool[Array, " n"], k: Int[Array, ""]
) -> Float[Array, ""]:
    """The k-th largest valid value, −∞ where there are fewer: bit by bit, cheaper than a sort.

    As unsigned integers, floats with the sign bit turned (negative ones: with all bits turned)
    keep their order; 0 stands for what is not valid.
    """
    values = values + 0.0  # −0 is 0
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    order = jnp.where(bits >= sign, ~bits, bits | sign)
    order = jnp.where(valid, order, 0)

    def one_bit(i, found):
        higher = found | (sign >> i)
        return jnp.where((order >= higher).sum() >= k, higher, found)

    found = jax.lax.fori_loop(jnp.uint32(0), jnp.uint32(32), one_bit, jnp.uint32(0))
    bits = jnp.where(found >= sign, found ^ sign, ~found)
    found_value = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(found > 0, found_value, -jnp.inf)
