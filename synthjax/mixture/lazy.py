"""A Gaussian matrix of which only what a learner asks for is ever drawn.

Y. M. Lu, *Householder Dice: A matrix-free algorithm for simulating dynamics on Gaussian and random
orthogonal ensembles* (arXiv 2101.07464), with one half left out. Let Z be n × k, iid N(0, 1), and
P the orthonormal directions in R^k that its products vᵀZ have led to. A classifier is a combination
of them, so of Z it takes the columns ZP alone, and of P itself nothing: the law of Z is the same in
every basis. A new product vᵀZ, where v has a part outside the span of the earlier ones (the
orthonormal Q), of direction q, shows one new direction p. In law, given all that went before,

    qᵀZ = (qᵀZP) Pᵀ + χ pᵀ,    Zp = χ q + (I − QQᵀ − qqᵀ) g,

with χ² of k − |P| degrees of freedom and g ~ N(0, I_n) new, both independent of all else. That is
exact for any algorithm that meets Z in products alone, and costs n numbers a product, not n k.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from synthjax.mixture.sums import long_product

# A part of v outside the span of Q smaller than this is rounding, and shows nothing.
SMALL = 1e-6


class Lazy(NamedTuple):
    """Features of which some columns are known and the rest is drawn as products ask for it.

    Fields: `x` the features: known ones, then a column for each of P in order, then, where no
    product has asked yet, the g of the columns to come; `queries` Q, 0 where there is none yet;
    `count` = |P| = |Q|; `chi` the χ of each column and of one after the last (0 where all of R^k is
    known by then).
    """

    x: Float[Array, "n known+products"]
    queries: Float[Array, "n products"]
    count: Int[Array, ""]
    chi: Float[Array, " products+1"]


def begin(x: Float[Array, "n known+products"], chi: Float[Array, " products+1"]) -> Lazy:
    """Nothing has been asked yet; all entries of x beyond the known columns are iid N(0, 1)."""
    return Lazy(x, jnp.zeros((len(x), len(chi) - 1)), jnp.zeros((), jnp.int32), chi)


def right(w: Float[Array, " known+products"], lazy: Lazy) -> Float[Array, " n"]:
    """x w, where w is 0 beyond the columns that are there."""
    return lazy.x @ w


def left(
    v: Float[Array, " n"], lazy: Lazy, live: Bool[Array, ""]
) -> tuple[Float[Array, " known+products"], Lazy, Bool[Array, ""]]:
    """vᵀx, the features with the column that it shows, and whether there was room for that.

    Where not `live`, nothing is drawn.
    """
    x, queries, count, chi = lazy
    most = queries.shape[1]
    known = x.shape[1] - most
    i = jnp.minimum(count, most - 1)
    g = jax.lax.dynamic_index_in_dim(x, known + i, 1, keepdims=False)

    both = jnp.stack([v, g], 1)
    both -= queries @ long_product(both, queries).T
    q, g = both[:, 0], both[:, 1]
    q -= queries @ long_product(q, queries)  # once leaves a short rest askew in float32
    size = jnp.linalg.norm(q)
    more = live & (size > SMALL * jnp.linalg.norm(v))
    everything = chi[count] == 0  # R^k has no other direction
    room = count < most
    new = more & room & ~everything
    q = jnp.where(new, q / jnp.where(size > 0, size, 1), 0)
    g -= q * (q @ g)

    def put(columns, at, column):
        old = jax.lax.dynamic_index_in_dim(columns, at, 1, keepdims=False)
        column = jnp.where(new, column, old)
        return jax.lax.dynamic_update_index_in_dim(columns, column, at, 1)

    x = put(x, known + i, chi[i] * q + g)
    lazy = Lazy(x, put(queries, i, q), count + new, chi)
    there = jnp.arange(x.shape[1]) < known + lazy.count
    return long_product(v, x) * there, lazy, ~more | room | everything
