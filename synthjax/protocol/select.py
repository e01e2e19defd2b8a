"""Selections: from the verifier's verdict on each guess to the weights of a fixed-shape set.

A selection takes verdicts (1 keep, 0 drop) and gives weights: a dropped guess stays in memory
with weight 0, so that shapes never depend on how many are kept.
"""

from jaxtyping import Array, Float

from synthjax.protocol.spec import Kind


def prune(verdict: Float[Array, " n"]) -> Float[Array, " n"]:
    """Keep each guess that the verifier keeps, on its own merits: the paper's q_i."""
    return verdict


SELECTIONS = {"prune": Kind(prune, (), "keep every guess that the verifier keeps")}
