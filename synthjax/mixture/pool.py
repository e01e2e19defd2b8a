"""A regime's training set in memory of fixed shape: what is kept of the past."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from synthjax.mixture.data import Sample
from synthjax.protocol.keys import uniform_rows
from synthjax.protocol.select import top


def empty(rows: int, d: int) -> Sample:
    """A past of `rows` rows in which nothing is kept yet."""
    return Sample(jnp.zeros((rows, d)), jnp.ones(rows), jnp.zeros(rows))


def put(past: Sample, part: Sample, row: Int[Array, ""] | int) -> Sample:
    """The past with `part` in it from `row` on."""
    return jax.tree.map(
        lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, row, 0), past, part
    )


def chosen(
    key: Key[Array, ""], weights: Float[Array, " rows"], parts: tuple[int, ...], n: Int[Array, ""]
) -> Bool[Array, " rows"]:
    """Of all that was kept so far n examples at random, or all where they are fewer.

    The past consists of `parts`, that many rows each, with a key each: an example's chance does not
    depend on how long the arrays are.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(parts)))
    # All but the first are of one length; one by one they would take a minute to compile.
    rest = jax.vmap(lambda key: uniform_rows(key, parts[1]))(keys[1:])
    chance = jnp.concatenate([uniform_rows(keys[0], parts[0]), rest.ravel()])
    return top(jnp.zeros_like(weights), chance, weights > 0, n)


def taken(past: Sample, chosen: Bool[Array, " rows"], rows: int) -> Sample:
    """The chosen examples in an array of `rows` rows, the first of which hold them."""
    (where,) = jnp.nonzero(chosen, size=rows, fill_value=0)
    x, labels, weights = (leaf[where] for leaf in past)
    return Sample(x, labels, weights * (jnp.arange(rows) < chosen.sum()))
