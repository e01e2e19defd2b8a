"""What a learner makes of a measure in high dimension: α, its overlaps, and the norm σ of the rest.

Ridge has closed forms; the fixed point of any convex loss is that of Salehi, Abbasi and Hassibi,
*The impact of regularization on high-dimensional logistic regression* (2019), and Mignacco,
Krzakala, Lu, Urbani and Zdeborová, *The role of regularization in classification of
high-dimensional noisy Gaussian mixture* (2020). With γ = k/m for m examples, k directions of noise,
u = y′z of what is kept, and margins x = prox_{χℓ}(u·α + σG), G ~ N(0, 1):

    λα = −E[u ℓ′(x)],  ζ = E[ℓ″(x)/(1 + χℓ″(x))],  χ = γ/(λ + ζ),  σ² = γ E[ℓ′(x)²]/(λ + ζ)².

A source is a unit normal along its third axis: its mean adds to that of the margin, and its spread
to G's. Sources sum to a probability.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.numpy.linalg import norm
from jaxtyping import Array, Bool, Float, Int

from synthjax.mixture.planar import Source, Vector
from synthjax.mixture.quadrature import Scalar
from synthjax.mixture.signed import ROUNDING

_NORMALS = 20
_PROX = 9  # Newton steps, each towards the solution, from a start on its side of the inflection
_STEPS, _SHORTEST = 120, 2.0**-12


class Fit(NamedTuple):
    """α in the frame, the norm of the part outside it, and whether the fixed point was found."""

    alpha: Vector
    sigma: Float[Array, ""]
    converged: Bool[Array, ""]


@jax.default_matmul_precision("highest")
def ridge(sources: Sequence[Source], l2: Scalar, gamma: Scalar) -> Fit:
    """(α, σ): with 1/m̃ = l2 + γ/(1+m̃) and s = l2 m̃, α = (sC + l2)⁻¹ s h and
    σ² = E[(1 − u·α)²] γ s / ((l2 + s) √((l2+γ−1)² + 4 l2)), C = E[uuᵀ], h = E[u].
    """
    first, second = jnp.zeros(3), jnp.zeros((3, 3))
    for axes, points, offset, weights in sources:
        u = jnp.concatenate([points, offset[None]])
        first += (weights * u).sum(1) @ axes
        inside = (weights * u) @ u.T + jnp.diag(jnp.array([0.0, 0.0, 1.0])) * weights.sum()
        second += axes.T @ inside @ axes
    root = jnp.sqrt((l2 + gamma - 1) ** 2 + 4 * l2)
    tilt = l2 + gamma - 1
    s = jnp.where(tilt < 0, (root - tilt) / 2, 2 * l2 / jnp.maximum(root + tilt, ROUNDING**2))
    # Divided by s, which is 0 with l2 where γ ≥ 1: then α is that of l2/s → γ − 1.
    ratio = jnp.where(tilt < 0, l2 / jnp.where(s > 0, s, 1), (root + tilt) / 2)
    alpha = solve(second + ratio * jnp.eye(3), first)
    left = 1 - 2 * alpha @ first + alpha @ second @ alpha
    sigma = jnp.sqrt(jnp.maximum(left, 0) * gamma / ((ratio + 1) * root))
    return Fit(alpha, sigma, jnp.array(True))


class _Search(NamedTuple):
    """Newton under way: where it is, and the next step to try."""

    x: Float[Array, "5"]
    residual: Float[Array, "5"]
    slope: Float[Array, "5 5"]
    step: Float[Array, "5"]
    t: Float[Array, ""]
    trials: Int[Array, ""]


@jax.default_matmul_precision("highest")
def logistic(sources: Sequence[Source], l2: Scalar, gamma: Scalar) -> Fit:
    """The fixed point for ℓ(z) = log(1 + e⁻ᶻ), by damped Newton in (α, log σ, log χ).

    From the squared loss that agrees with ℓ at 0 to second order. A last step that alone is seen by
    derivatives makes them those of the fixed point.
    """
    gamma = jnp.maximum(gamma, ROUNDING**2)  # no noise: σ → 0
    given = sources, l2, gamma
    fixed_sources, fixed_l2, fixed_gamma = fixed = lax.stop_gradient(given)
    alpha, sigma, _ = ridge(fixed_sources, 4 * fixed_l2, fixed_gamma)
    tilt = 4 * fixed_l2 + 1 - fixed_gamma
    root = jnp.sqrt(tilt**2 + 16 * fixed_l2 * fixed_gamma)
    chi = jnp.where(tilt > 0, 8 * fixed_gamma / (root + tilt), (root - tilt) / (2 * fixed_l2))
    begin = jnp.concatenate(
        [2 * alpha, jnp.log(jnp.stack([jnp.maximum(2 * sigma, ROUNDING), chi]))]
    )
    tolerance = 1e-5 if begin.dtype == jnp.float32 else 1e-11

    def residual(x):
        value = _residual(x, *fixed)
        return value, value

    def attempt(search):
        """Take the step if it helps enough, and else half of it next time.

        So the program holds one copy of the residual and its derivative.
        """
        trial = search.x + search.t * search.step
        slope, new = jax.jacfwd(residual, has_aux=True)(trial)
        better = norm(new) < (1 - 1e-3 * search.t) * norm(search.residual)
        x, r, slope = (
            jnp.where(better, after, before)
            for after, before in zip((trial, new, slope), search, strict=False)
        )
        step = -solve(slope, r)
        step *= jnp.minimum(1, 2 / jnp.maximum(jnp.abs(step[3:]).max(), ROUNDING))
        t = jnp.where(better, 1, search.t / 2)
        return _Search(x, r, slope, step, t, search.trials + 1)

    def unfinished(search):
        far = norm(search.residual) > tolerance
        return far & (search.t > _SHORTEST) & (search.trials < _STEPS)

    unknown = jnp.full_like(begin, jnp.inf)  # the first attempt is at the start itself
    origin = _Search(
        begin,
        unknown,
        jnp.eye(5, dtype=begin.dtype),
        jnp.zeros_like(begin),
        jnp.ones_like(chi),
        jnp.zeros((), int),
    )
    found = lax.stop_gradient(lax.while_loop(unfinished, attempt, origin))
    fine = norm(found.residual) <= 10 * tolerance
    x = found.x - jnp.where(fine, solve(found.slope, _residual(found.x, *given)), 0)
    return Fit(x[:3], jnp.exp(x[3]), fine & jnp.isfinite(x).all())


def _residual(
    x: Float[Array, "5"], sources: Sequence[Source], l2: Scalar, gamma: Scalar
) -> Float[Array, "5"]:
    """The equations of the fixed point at (α, log σ, log χ), scaled to be about 1 far from it."""
    alpha, sigma, chi = x[:3], jnp.exp(x[3]), jnp.exp(x[4])
    normal, normal_weights = np.polynomial.hermite_e.hermegauss(_NORMALS)
    normal = jnp.asarray(normal, x.dtype)
    normal_weights = jnp.asarray(normal_weights / normal_weights.sum(), x.dtype)
    pull, start, zeta, square = jnp.zeros(3), jnp.zeros(3), 0.0, 0.0
    for axes, points, offset, weights in sources:
        a = axes @ alpha
        spread = jnp.sqrt(sigma**2 + a[2] ** 2)
        mean = a[:2] @ points + a[2] * offset
        doubt = jax.nn.sigmoid(-_prox(mean[:, None] + spread * normal, chi))
        curvature = doubt * (1 - doubt)
        doubted = doubt @ normal_weights
        turned = weights @ ((curvature / (1 + chi * curvature)) @ normal_weights)
        u = jnp.concatenate([points, offset[None]])
        pull += ((weights * doubted * u).sum(1) - jnp.array([0.0, 0.0, 1.0]) * a[2] * turned) @ axes
        start += (weights * u).sum(1) @ axes / 2
        zeta += turned
        square += weights @ (doubt**2 @ normal_weights)
    scale = norm(lax.stop_gradient(start)) + jnp.sqrt(lax.stop_gradient(gamma)) / 4 + ROUNDING
    return jnp.concatenate(
        [
            (l2 * alpha - pull) / scale,
            jnp.stack(
                [
                    x[3] + jnp.log(l2 + zeta) - jnp.log(gamma * square) / 2,
                    x[4] + jnp.log(l2 + zeta) - jnp.log(gamma),
                ]
            ),
        ]
    )


def _prox(h: Float[Array, "..."], chi: Scalar) -> Float[Array, "..."]:
    """The x with x − χ σ(−x) = h.

    The left side is convex below 0 and concave above, so Newton from a start on the solution's side
    never passes it.
    """
    fixed_h, fixed_chi = lax.stop_gradient((h, chi))

    def step(x, h, chi):
        doubt = jax.nn.sigmoid(-x)
        return x - (x - chi * doubt - h) / (1 + chi * doubt * (1 - doubt))

    x = jnp.where(fixed_h > 0, fixed_h, jnp.minimum(fixed_h + fixed_chi, 0))
    x = lax.fori_loop(0, _PROX, lambda _, x: step(x, fixed_h, fixed_chi), x)
    doubt = lax.stop_gradient(jax.nn.sigmoid(-x))
    x = lax.stop_gradient(x)
    # Newton once more, for its derivatives.
    return x - (x - chi * doubt - h) / (1 + fixed_chi * doubt * (1 - doubt))


def solve(a: Float[Array, "n n"], b: Float[Array, " n"]) -> Float[Array, " n"]:
    """a⁻¹b by elimination with pivots; no LAPACK, which may hang in a loop (see `learn.ridge`)."""
    n = len(b)
    rows = jnp.concatenate([a, b[:, None]], 1)
    for i in range(n):
        pivot = i + jnp.argmax(jnp.abs(rows[i:, i]))
        swap = jnp.arange(n)
        swap = jnp.where(swap == i, pivot, jnp.where(swap == pivot, i, swap))
        rows = rows[swap]
        row = rows[i] / rows[i, i]
        rows = (rows - rows[:, i : i + 1] * row).at[i].set(row)
    return rows[:, n]
