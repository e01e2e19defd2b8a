"""Ridge regression on features of which all but a few are pure noise, without drawing the noise.

Minimise (1/2m) ‖1 − Uα − Zβ‖² + (l2/2)(‖α‖² + ‖β‖²) where U (m × b) is known and Z (m × k) iid
N(0, 1), independent of U. In an orthonormal basis of R^m that begins with the span of A = [U, 1]
(s = b + 1 vectors; A = QR) Z is as before, and reflections that leave the first s rows alone, on
the rows below and on the columns in turn, bring it to a band: column i has χ of k − i degrees in
row i, N(0, 1) in rows i + 1 … i + s − 1 and χ of m − s − i degrees in row i + s, all independent.

Then β is found backwards, one column at a time. Let rows ≥ i of a residual be zero past row
i + s − 1, as r ∈ R^s. The least of ‖r − Z_i β‖² + z‖β‖² over the coefficients of columns ≥ i is
rᵀN r and its minimiser's ‖β‖² is rᵀS r; column c takes the coefficient g·r, and leaves (F r) to the
columns after it. N and S are sums of squares throughout, so float32 loses nothing even where the
penalty z = m l2 is 10⁻⁵ of the rest, and no derivative in z is needed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from synthjax.mixture.draws import chi
from synthjax.mixture.sums import long_product

Scalar = Float[Array, ""]


class Corner(NamedTuple):
    """N and S for residuals r in the first s rows: the least objective is rᵀN r, its ‖β‖² rᵀS r."""

    least: Float[Array, "s s"]
    size: Float[Array, "s s"]


def corner(
    key: Key[Array, ""],
    m: Int[Array, ""],
    k: int,
    s: int,
    z: Float[Array, ""],
    any_of=jnp.any,
) -> Corner:
    """The corner of a random Z with m rows and k columns, at the penalty z > 0."""
    normal_key, chi_key = jax.random.split(key)
    i = jnp.arange(k)
    degrees = jnp.stack([jnp.where(i < m, k - i, 0), m - s - i], 1)
    head, tail = jnp.split(chi(chi_key, degrees.astype(jnp.float32), any_of), 2, axis=1)
    inner = jax.random.normal(normal_key, (k, s - 1))
    inner = jnp.where(i[:, None] + jnp.arange(1, s) < m, inner, 0)
    return eliminated(jnp.concatenate([head, inner, tail], 1), z)


def eliminated(columns: Float[Array, "k s+1"], z: Float[Array, ""]) -> Corner:
    """The corner of the band with these columns, each from its diagonal down."""
    s = columns.shape[1] - 1
    every = range(s)
    upper = [(i, j) for i in every for j in range(i, s)]

    def whole(a):
        return [[a[min(i, j), max(i, j)] for j in every] for i in every]

    def turned(f, a):
        """Entries of fᵀ a f, by their place in its upper half."""
        af = [[sum(a[i][j] * f[j][k] for j in every) for k in every] for i in every]
        return {(i, j): sum(f[k][i] * af[k][j] for k in every) for i, j in upper}

    def eliminate(after, c):
        """A column more, number by number: under vmap each is a long vector, 12 times as fast."""
        least, size = (whole(a) for a in after)
        first, rest = c[0], [c[1 + i] for i in every]
        pull = [sum(least[i][j] * rest[j] for j in every) for i in every]  # N c̃
        total = first**2 + sum(rest[i] * pull[i] for i in every) + z
        # Of r, row i is the first's own and rows i + 1 … i + s − 1 are the first s − 1 of the rest.
        gain = [first / total, *(x / total for x in pull[:-1])]
        f = [[float(j == i + 1) - rest[i] * gain[j] for j in every] for i in every]
        own = [float(i == 0) - first * gain[i] for i in every]
        least, size = turned(f, least), turned(f, size)
        for i, j in upper:
            least[i, j] += own[i] * own[j] + z * gain[i] * gain[j]
            size[i, j] += gain[i] * gain[j]
        return (least, size), None

    begin = tuple({(i, j): jnp.float32(a * (i == j)) for i, j in upper} for a in (1, 0))
    found, _ = jax.lax.scan(eliminate, begin, columns, reverse=True)
    return Corner(*(jnp.array(whole(a)) for a in found))


class Found(NamedTuple):
    """The minimiser: α, and the norm of β, whose direction is uniformly random."""

    alpha: Float[Array, " b"]
    beta: Float[Array, ""]


def ridge(
    key: Key[Array, ""],
    u: Float[Array, "n b"],
    weights: Float[Array, " n"],
    k: int,
    l2: Float[Array, ""],
    any_of=jnp.any,
) -> Found:
    """The minimiser for the rows of `u` of weight 1, each turned by its label, and k of noise.

    l2 > 0; NaN where no weight is 1.
    """
    m = jnp.sum(weights, dtype=jnp.int32)
    a = weights[:, None] * jnp.concatenate([u, jnp.ones((len(u), 1))], 1)
    b, s = u.shape[1], u.shape[1] + 1
    r = _root(long_product(a, a))
    r *= (jnp.arange(s) < m)[:, None]  # A has no more than m rows
    z = m * l2
    least, size = corner(key, m, k, s, z, any_of)
    within = r.T @ least @ r
    alpha = _solve(within[:b, :b] + z * jnp.eye(b), within[:b, b])
    beyond = r @ jnp.append(-alpha, 1)
    return Found(alpha, jnp.sqrt(beyond @ size @ beyond))


def _root(a: Float[Array, "s s"]) -> Float[Array, "s s"]:
    """Upper triangular R with RᵀR = a ≥ 0; 0 where nothing is left. No LAPACK: see `learn`."""
    s = len(a)
    rows = []
    for i in range(s):
        pivot = jnp.sqrt(jnp.maximum(a[i, i], 0))
        row = jnp.where(pivot > 0, a[i] / jnp.where(pivot > 0, pivot, 1), 0)
        row *= jnp.arange(s) >= i
        a = a - row[:, None] * row
        rows.append(row)
    return jnp.stack(rows)


def _solve(a: Float[Array, "b b"], h: Float[Array, " b"]) -> Float[Array, " b"]:
    """a⁻¹h for a positive definite a."""
    root = _root(a)
    b = len(h)
    x = [None] * b
    for i in range(b):  # Rᵀy = h
        x[i] = (h[i] - sum(root[j, i] * x[j] for j in range(i))) / root[i, i]
    for i in reversed(range(b)):  # R x = y
        x[i] = (x[i] - sum(root[i, j] * x[j] for j in range(i + 1, b))) / root[i, i]
    return jnp.stack(x)
