"""The exact law of a trajectory on isotropic features, without its features.

What is kept depends on an example's coordinates along a few directions: w*, v and the last
classifier. They are drawn, for all n examples; along everything else the features are N(0, I)
whatever the labels, and what a learner makes of them has a law that can be drawn by itself:

- ridge on nothing but new examples: `band`, at O(n + d) for a generation;
- any other: L-BFGS on a matrix of which a column is drawn when a product asks for one (`lazy`), at
  O(n) for each of some 10 to 40 products, whatever d.

A generation that trains on new examples alone starts afresh: of w_t only its overlaps with w* and v
and its norm matter, and the part outside both becomes a coordinate. Where the past is kept its
columns are too, and later products extend them.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from synthjax.mixture import band, lazy
from synthjax.mixture.covariance import Covariance
from synthjax.mixture.data import Numbers
from synthjax.mixture.draws import chi
from synthjax.mixture.learn import LOGISTIC, SQUARED, descend, judged, logistic, ridge
from synthjax.mixture.theory import place
from synthjax.mixture.trajectory import Before, Learnt, Record, Static, Steps, follow
from synthjax.mixture.verify import VERIFIERS
from synthjax.protocol.keys import Stream, key
from synthjax.protocol.regime import REGIMES

KNOWN = {
    "features": ("teacher", "mixture"),
    "covariance": ("isotropic",),
    "generator": ("linear", "logistic", "flip", "flip_by_class"),
    "verifier": ("none", "oracle", "noisy", "noisy_by_class", "linear", "margin", "self"),
    "learner": ("ridge", "logistic"),
}
LOSSES = {ridge: SQUARED, logistic: LOGISTIC}
# Products for which logistic regression has room, by the least l2. 40 were the most seen, at 1e-6.
ROOM = ((1e-2, 32), (1e-3, 48), (0.0, 64))


def frame(kinds: Mapping[str, str]) -> int:
    """How many columns are known from the start: along w*, v if there is one, and a classifier."""
    past = REGIMES[kinds["regime"]].call.past
    return 3 if past or "theta_ver" in VERIFIERS[kinds["verifier"]].reads else 2


def room(kinds: Mapping[str, str], l2: float, d: int, fits: int) -> int:
    """For how many columns more there is room, where the learner is penalised by l2 at least.

    `fits`: how often it trains on the same past, each time asking for more.
    """
    regime, most = REGIMES[kinds["regime"]].call, d - frame(kinds)
    if kinds["learner"] == "logistic":
        products = next(products for least, products in ROOM if l2 >= least)
    elif regime.past:  # conjugate gradients: the root of the condition number, (1+√(d/n))² + l2
        products = math.ceil(8 + 12 / math.sqrt(l2 + 0.01))
    else:
        products = 0
    return min(products * (fits if regime.past else 1), most)


def trajectory(
    static: Static,
    numbers: Numbers,
    axes: None,
    seed: Int[Array, ""],
    index: Int[Array, ""],
    before: Before | None = None,
    any_of: Callable = jnp.any,
) -> Record:
    """As `trajectory.trajectory`, and equal to it in law; the random numbers are others."""
    known, most = static.frame, static.columns - static.frame
    past = bool(static.parts)
    g = place(numbers.theta_gen, 0.0, 0.0)[1]
    if not past and static.has_classifier:
        # Along w*, along the rest of v, along the rest of g.
        rho = numbers.error_correlation
        g = jnp.stack([g[0], g[1] * rho, g[1] * jnp.sqrt(1 - rho**2)])
        numbers = numbers._replace(error_correlation=jnp.ones_like(rho))

    def chis(draw):
        degrees = static.d - known - jnp.arange(most + 1)
        return chi(draw, degrees.astype(jnp.float32), any_of)

    def learn_by_band(draw, sample, memory):
        u = sample.labels[:, None] * sample.x
        alpha, beta = band.ridge(draw, u, sample.weights, static.d - known, numbers.l2, any_of)
        w = _afresh(alpha, beta, static.columns)
        return Learnt(w, jnp.isfinite(w).all(), jnp.zeros((), jnp.int32), sample.x, memory)

    def learn_all(draw, sample, memory):
        w, converged = static.learner.call(draw, numbers, sample)
        w = w if past else _afresh(w, jnp.zeros(()), static.columns)
        return Learnt(w, converged, jnp.zeros((), jnp.int32), sample.x, memory)

    def learn_lazily(draw, sample, memory):
        features = memory._replace(x=sample.x) if past else lazy.begin(sample.x, chis(draw))
        found = descend(
            LOSSES[static.learner.call],
            numbers.l2,
            sample,
            right=lazy.right,
            left=lazy.left,
            state=features,
            any_of=any_of,
        )
        w, converged = judged(found.w, found.gradient, found.first)
        features = found.state
        if not past:
            w = _afresh(w[:known], jnp.linalg.norm(w[known:]), static.columns)
            return Learnt(w, converged, features.count, sample.x, ())
        products = features.count - memory.count
        return Learnt(w, converged, products, features.x, features._replace(x=()))

    memory, learn = (), learn_lazily
    if static.learner.call is ridge and not past:
        learn = learn_by_band
    elif not most:
        learn = learn_all
    elif past:
        with jax.threefry_partitionable(False):  # as in `follow`
            drawn = chis(key(seed, Stream.LEARN, index, 0))
        nothing = jnp.zeros((sum(static.parts), static.columns))
        memory = lazy.begin(nothing, drawn)._replace(x=())
    placed = jnp.zeros(static.columns).at[:known].set(g[:known])
    steps = Steps(placed, memory, learn)
    return follow(static, numbers, Covariance(None, None), seed, index, before, steps)


def _afresh(
    alpha: Float[Array, " frame"], beta: Float[Array, ""], columns: int
) -> Float[Array, " columns"]:
    """A classifier in the frame of the next generation, whose last column lies along its rest."""
    rest = jnp.sqrt(alpha[-1] ** 2 + beta**2)
    return jnp.zeros(columns).at[: len(alpha)].set(alpha.at[-1].set(rest))
