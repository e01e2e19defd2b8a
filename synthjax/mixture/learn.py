"""Learners: minimise (1/m) Σ qᵢ ℓ(y′ᵢ xᵢ·w) + (λ/2)‖w‖², m = Σ qᵢ.

qᵢ is 1 for a kept guess and 0 for another, as in the paper (arXiv 2406.07515), ℓ the loss.

Both report whether the gradient norm fell to 1e-5 of its value at w = 0, in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

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
    return judged(w, product(w) - h, h)


def logistic(key: Key[Array, ""], numbers: Numbers, sample: Sample) -> Fit:
    """Logistic loss ℓ(z) = log(1 + e⁻ᶻ), by L-BFGS with the margins carried along.

    On isotropic features the Hessian is nearly a multiple of the identity, so a few curvature
    pairs are enough and an iteration costs two products with x; the line search along a direction
    needs none. benchmarks/logistic_solvers.py measures it against Newton and Newton–CG.
    """
    x, *_ = sample
    w, left, first, _, _ = descend(
        LOGISTIC,
        numbers.l2,
        sample,
        right=lambda w, _: x @ w,
        left=lambda v, state, live: (v @ x, state, True),
        state=(),
    )
    return judged(w, left, first)


class Loss(NamedTuple):
    """A smooth convex loss ℓ of the margin: `slope` is −ℓ′(z), `curvature` ℓ″ from z's slope."""

    slope: Callable[[Float[Array, " n"]], Float[Array, " n"]]
    curvature: Callable[[Float[Array, " n"]], Float[Array, " n"]]


LOGISTIC = Loss(lambda z: jax.nn.sigmoid(-z), lambda doubt: doubt * (1 - doubt))
SQUARED = Loss(lambda z: 1 - z, jnp.ones_like)


class Descent(NamedTuple):
    """Where L-BFGS came to: `gradient` there, `first` at w = 0, `products` vᵀx it asked for."""

    w: Float[Array, " d"]
    gradient: Float[Array, " d"]
    first: Float[Array, " d"]
    products: Int[Array, ""]
    state: Any


def descend(
    loss: Loss,
    l2: Float[Array, ""],
    sample: Sample,
    *,
    right: Callable,
    left: Callable,
    state: Any,
    any_of: Callable[[Bool[Array, ""]], Bool[Array, ""]] | None = None,
) -> Descent:
    """L-BFGS from w = 0, which meets the features in products only.

    `right(w, state)` is x w; `left(v, state, live)` is vᵀx, with the state after it and whether it
    could be had; `live` says whether it is wanted. `any_of` tells whether a flag is set anywhere in
    the batch: with it the loop runs for all of the batch, and who has finished keeps what it has,
    so that a large state is not copied for the sake of the others.
    """
    x, labels, weights = sample
    share = weights / jnp.maximum(weights.sum(), 1.0)

    def gradient(w, slope, state, live):
        pulled, state, had = left(labels * share * slope, state, live)
        return l2 * w - pulled, state, had

    def line_search(margin, along, slope, curvature, penalty_slope):
        """The Newton step on the loss along a direction, halved while it overshoots.

        Convex along the line, so a slope that has turned and grown past half of the first one
        means too long a step; a short enough step passes, but for rounding.
        """

        def at(a):
            doubt = loss.slope(margin + a * along)
            return doubt, penalty_slope(a) - (share * doubt) @ along

        def halve(state):
            a = state[0] / 2
            return a, *at(a), state[-1] + 1

        def too_long(state):
            return (state[2] > -slope / 2) & (state[-1] < MAX_HALVINGS)

        a = -slope / curvature
        return jax.lax.while_loop(too_long, halve, (a, *at(a), 0))[:2]

    def live(now):
        return now.had & (jnp.linalg.norm(now.g) > TARGET * start) & (now.k < MAX_ITERATIONS)

    def step(now):
        w, g = now.w, now.g
        direction = -_inverse_hessian(g, now.steps, now.changes)
        direction = jnp.where(g @ direction < 0, direction, -g)  # rounding can turn it uphill
        along = labels * right(direction, now.state)
        wd, dd = w @ direction, direction @ direction
        curvature = (share * loss.curvature(now.slope)) @ along**2 + l2 * dd
        a, slope = line_search(
            now.margin, along, g @ direction, curvature, lambda a: l2 * (wd + a * dd)
        )
        new_w = w + a * direction
        new_g, state, had = gradient(new_w, slope, now.state, live(now))
        steps = jnp.roll(now.steps, 1, axis=0).at[0].set(new_w - w)
        changes = jnp.roll(now.changes, 1, axis=0).at[0].set(new_g - g)
        new = _Now(new_w, new_g, slope, now.margin + a * along, steps, changes, now.k + 1, had)
        if any_of is not None:
            new = jax.tree.map(lambda a, b: jnp.where(live(now), a, b), new, now._replace(state=()))
        return new._replace(state=state)

    n, d = x.shape
    margin = jnp.zeros(n)
    slope = loss.slope(margin)
    w = jnp.zeros(d)
    first, state, had = gradient(w, slope, state, True)
    start = jnp.linalg.norm(first)
    memory = jnp.zeros((MEMORY, d))
    now = _Now(w, first, slope, margin, memory, memory, jnp.int32(0), jnp.asarray(had), state)
    now = jax.lax.while_loop(
        lambda now: live(now) if any_of is None else any_of(live(now)), step, now
    )
    slope = loss.slope(labels * right(now.w, now.state))  # the margins carried along have drifted
    last, state, _ = gradient(now.w, slope, now.state, True)
    return Descent(now.w, last, first, now.k + 2, state)


class _Now(NamedTuple):
    """L-BFGS under way."""

    w: Float[Array, " d"]
    g: Float[Array, " d"]
    slope: Float[Array, " n"]
    margin: Float[Array, " n"]
    steps: Float[Array, "k d"]
    changes: Float[Array, "k d"]
    k: Int[Array, ""]
    had: Bool[Array, ""]
    state: Any = ()


def judged(w: Float[Array, " d"], gradient: Float[Array, " d"], first: Float[Array, " d"]) -> Fit:
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
