"""Learners: minimise (1/m) Σ qᵢ ℓ(y′ᵢ xᵢ·w) + (λ/2)‖w‖², m = Σ qᵢ.

qᵢ is 1 for a kept guess and 0 for another, as in the paper (arXiv 2406.07515), ℓ the loss.

Both report whether the gradient norm fell to 1e-5 of its value at w = 0, in float32.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from synthjax.mixture.data import Numbers, Sample
from synthjax.protocol.spec import Kind

TOLERANCE = 1e-5
# L-BFGS stops a little below the tolerance, so that rounding in the margins it carries along
# cannot lift the true gradient above it.
TARGET = 0.8 * TOLERANCE
MEMORY = 5
MAX_ITERATIONS = 1000
MAX_HALVINGS = 30


class Fit(NamedTuple):
    """A classifier, and whether the learner's tolerance was met."""

    w: Float[Array, " d"]
    converged: Bool[Array, ""]


class Learner(Protocol):
    """Trains a classifier on a weighted sample.

    A pure JAX function of one compilation. Rows of weight 0 count for nothing, whatever they hold,
    and there may be any number of them.
    """

    def __call__(self, key: Key[Array, ""], numbers: Numbers, sample: Sample) -> Fit:
        """The classifier w, which acts on x, and whether it is what the learner was after."""


def ridge(key: Key[Array, ""], numbers: Numbers, sample: Sample) -> Fit:
    """Squared loss ℓ(z) = (1 − z)²/2, by conjugate gradients.

    On isotropic features few iterations are needed, each of two products with x, which the grid
    points that share a draw do together. λ = 0 is least squares, of minimum norm where features
    outnumber examples. Where float32 is too short (λ near 0 with about as many features as kept
    examples) the fit is not converged. Not by Cholesky: with JAX 0.10 on a CPU with a device per
    core, LAPACK under vmap in a loop never returns.
    """
    x, labels, weights = sample
    l2 = numbers.l2
    share = weights / jnp.maximum(weights.sum(), 1.0)

    def product(v):
        return (share * (x @ v)) @ x + l2 * v

    h = (share * labels) @ x
    w, _ = jax.scipy.sparse.linalg.cg(product, h, tol=TOLERANCE / 10, maxiter=MAX_ITERATIONS)
    return _judged(w, product(w) - h, h)


def logistic(key: Key[Array, ""], numbers: Numbers, sample: Sample) -> Fit:
    """Logistic loss ℓ(z) = log(1 + e⁻ᶻ), by L-BFGS with the margins carried along.

    On isotropic features the Hessian is nearly a multiple of the identity, so a few curvature
    pairs are enough and an iteration costs two products with x; the line search along a direction
    needs none. benchmarks/logistic_solvers.py measures it against Newton and Newton–CG.
    """
    x, labels, weights = sample
    l2 = numbers.l2
    share = weights / jnp.maximum(weights.sum(), 1.0)

    def gradient(w, doubt):
        return l2 * w - (labels * share * doubt) @ x

    def line_search(margin, along, slope, curvature, penalty_slope):
        """The Newton step on the loss along a direction, halved while it overshoots.

        Convex along the line, so a slope that has turned and grown past half of the first one
        means too long a step; a short enough step passes, but for rounding.
        """

        def at(a):
            doubt = jax.nn.sigmoid(-(margin + a * along))
            return doubt, penalty_slope(a) - (share * doubt) @ along

        def halve(state):
            a = state[0] / 2
            return a, *at(a), state[-1] + 1

        def too_long(state):
            return (state[2] > -slope / 2) & (state[-1] < MAX_HALVINGS)

        a = -slope / curvature
        return jax.lax.while_loop(too_long, halve, (a, *at(a), 0))[:2]

    def step(state):
        w, g, doubt, margin, steps, changes, k = state
        direction = -_inverse_hessian(g, steps, changes)
        direction = jnp.where(g @ direction < 0, direction, -g)  # rounding can turn it uphill
        along = labels * (x @ direction)
        wd, dd = w @ direction, direction @ direction
        curvature = (share * doubt * (1 - doubt)) @ along**2 + l2 * dd
        a, doubt = line_search(
            margin, along, g @ direction, curvature, lambda a: l2 * (wd + a * dd)
        )
        new_w = w + a * direction
        new_g = gradient(new_w, doubt)
        steps = jnp.roll(steps, 1, axis=0).at[0].set(new_w - w)
        changes = jnp.roll(changes, 1, axis=0).at[0].set(new_g - g)
        return new_w, new_g, doubt, margin + a * along, steps, changes, k + 1

    n, d = x.shape
    w, margin, doubt = jnp.zeros(d), jnp.zeros(n), jnp.full(n, 0.5)
    first = gradient(w, doubt)
    start = jnp.linalg.norm(first)
    memory = jnp.zeros((MEMORY, d))
    w, *_ = jax.lax.while_loop(
        lambda s: (jnp.linalg.norm(s[1]) > TARGET * start) & (s[-1] < MAX_ITERATIONS),
        step,
        (w, first, doubt, margin, memory, memory, 0),
    )
    doubt = jax.nn.sigmoid(-labels * (x @ w))  # afresh: the margins carried along have drifted
    return _judged(w, gradient(w, doubt), first)


def _judged(w: Float[Array, " d"], gradient: Float[Array, " d"], first: Float[Array, " d"]) -> Fit:
    """The fit with these gradients at w and at 0; NaN where they are not finite."""
    left, start = jnp.linalg.norm(gradient), jnp.linalg.norm(first)
    finite = jnp.isfinite(left) & jnp.isfinite(start)
    return Fit(jnp.where(finite, w, jnp.nan), finite & (left <= TOLERANCE * start))


def _inverse_hessian(
    g: Float[Array, " d"], steps: Float[Array, "k d"], changes: Float[Array, "k d"]
) -> Float[Array, " d"]:
    """L-BFGS's two loops (Nocedal & Wright, algorithm 7.4), newest pair first, 0 where unused."""
    inner = (steps * changes).sum(1)
    rho = jnp.where(inner > 0, 1 / jnp.where(inner > 0, inner, 1.0), 0.0)
    alphas = []
    for s, y, inv in zip(steps, changes, rho, strict=True):
        alphas.append(inv * (s @ g))
        g = g - alphas[-1] * y
    # 4 is the inverse of the logistic loss's curvature at 0: the scale before any pair is known.
    square = (changes[0] ** 2).sum()
    g = g * jnp.where(square > 0, inner[0] / jnp.where(square > 0, square, 1.0), 4.0)
    for s, y, inv, alpha in reversed(list(zip(steps, changes, rho, alphas, strict=True))):
        g = g + (alpha - inv * (y @ g)) * s
    return g


LEARNERS = {
    "logistic": Kind(logistic, ("l2",), "logistic loss; needs l2 > 0"),
    "ridge": Kind(ridge, ("l2",), "squared loss"),
}
