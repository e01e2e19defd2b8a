"""Integrals of Gaussians over cones, and the population minimisers under them.

A kept example turned by its guess, u = y′z, has a density that is a normal, centred at 0 or at ±μ,
times factors that jump on planes: where the truth, the generator or the verifier changes sign, or
where a score passes its threshold. In the plane that the first two span, polar coordinates leave a
smooth integrand once the angles are split at every jump, so that Gauss–Legendre converges fast;
along the third coordinate it runs from the verifier's plane on. What is normal and independent of
all factors takes no nodes, or Gauss–Hermite where a loss reads it.
The symmetry (z, y, y′) → (−z, −y, −y′) is used up by u: both classes are in it.

Everything on the device is float32; NumPy makes the nodes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.numpy.linalg import norm, solve
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float

_RADII = 18
_BENT_RADII = 12  # on each side of a bend
_LINE = 14
_WIDE = 2.0  # standard deviation, under which `beyond` spaces its nodes evenly
_NORMALS = 5
_REACH = 5.5  # standard deviations; what lies beyond weighs 1e-7
_STEPS = 40  # Newton; 19 were the most seen, at l2 = 1e-6
_TOLERANCE = 1e-5  # on the last Newton step, relative to the minimiser

Scalar = Float[Array, ""] | float


class Source(NamedTuple):
    """Measures on R^D of what a learner is trained on, s of them to be added.

    In the orthonormal `frame` each has `points` with `weights`, which sum to its mass; outside the
    frame it is N(0, I), independently.
    """

    frame: Float[Array, "s D k"]
    points: Float[Array, "s k nodes"]
    weights: Float[Array, "s nodes"]


class Moments(NamedTuple):
    """∫ uuᵀ, ∫ u and ∫ 1 under a measure; they add."""

    second: Float[Array, "D D"]
    first: Float[Array, " D"]
    mass: Float[Array, ""]


def legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on [0, 1], float64."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, weights / 2


def edges(centre: Scalar, normals: Sequence[Scalar]) -> Float[Array, " edges"]:
    """The half-plane within π/2 of the angle `centre`, split by lines with these normals' angles.

    Sorted angles, of which one is on each line.
    """
    low = centre - jnp.pi / 2
    return jnp.sort(
        jnp.stack([low, *(low + jnp.mod(line - centre, jnp.pi) for line in normals), low + jnp.pi])
    )


@jax.default_matmul_precision("highest")
def sector(
    edges: Float[Array, " edges"],
    mean: Float[Array, "2"],
    angles: int,
    bend: tuple[Float[Array, "2"], Scalar] | None = None,
    radii: int | None = None,
    reach: float = _REACH,
) -> tuple[Float[Array, "2 nodes"], Float[Array, " nodes"]]:
    """Points and weights of N(mean, I₂) on the sector between the first and the last edge.

    `edges` are increasing angles in radians, with `angles` rays between two of them. The weights
    sum to the sector's probability. Each ray carries `radii` (18) from 0 or 5.5 standard deviations
    (`reach`) before its densest point to 5.5 after it, closer together at the start: there a
    classifier of large norm turns from unsure to sure. With a `bend` (normal, offset) it carries
    `radii` (12) on each side of where it crosses the line normal·x = offset.
    """
    t, angle_weights = legendre(angles)
    s, radius_weights = legendre(radii or (_RADII if bend is None else _BENT_RADII))

    width = jnp.diff(edges)[:, None]
    angle = (edges[:-1, None] + width * t).ravel()
    ray = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    centre = (mean @ ray)[:, None]
    start = jnp.maximum(centre - reach, 0)
    stop = centre + jnp.sqrt(jnp.minimum(centre, 0) ** 2 + reach**2)
    if bend is not None:
        normal, offset = bend
        along = (normal @ ray)[:, None]
        crossing = jnp.clip(jnp.where(along == 0, 0, offset / along), start, stop)
        start = jnp.stack([start, crossing], 1)
        stop = jnp.stack([crossing, stop], 1)
        centre, ray = centre[:, None], ray[:, :, None]
    length = stop - start
    radius = start + length * s * (1 + s) / 2
    squared_distance = (radius - centre) ** 2 + mean @ mean - centre**2
    density = jnp.exp(-squared_distance / 2) / (2 * jnp.pi)
    area = length * ((1 + 2 * s) / 2 * radius_weights) * radius
    weights = (width * angle_weights).ravel()[:, None] * (area * density).reshape(angle.size, -1)
    return (ray[..., None] * radius).reshape(2, -1), weights.ravel()


def beyond(start: Float[Array, " n"]) -> tuple[Float[Array, "14 n"], Float[Array, "14 n"]]:
    """Points and weights of N(0, 1) above each `start`, ±∞ included.

    Gauss–Legendre in the distribution function of a wider normal: moments up to the second are
    right within 2e-5.
    """
    t, weights = legendre(_LINE)
    tail = ndtr(-jnp.minimum(start, 2 * _REACH) / _WIDE)  # not 0, which has no quantile
    wide = -ndtri(tail * t[:, None])
    points = _WIDE * wide
    return points, _WIDE * tail * weights[:, None] * jnp.exp((wide**2 - points**2) / 2)


@jax.default_matmul_precision("highest")
def moments(source: Source) -> Moments:
    """The sum of a source's moments; with them ridge knows all that it needs."""
    frame, points, weights = source
    mass = weights.sum(1)
    inside = jnp.einsum("skn,sln->skl", points * weights[:, None], points)
    inside -= mass[:, None, None] * jnp.eye(points.shape[1])
    total = mass.sum()
    return Moments(
        total * jnp.eye(frame.shape[1]) + jnp.einsum("sdk,skl,sel->de", frame, inside, frame),
        jnp.einsum("sdk,skn,sn->d", frame, points, weights),
        total,
    )


@jax.default_matmul_precision("highest")
def ridge(total: Moments, penalty: Float[Array, " D"]) -> Float[Array, " D"]:
    """argmin over w of E[(1 − u·w)²/2] + Σ penalty w²/2 under the measure made a probability."""
    return solve(total.second / total.mass + jnp.diag(penalty), total.first / total.mass)


@jax.default_matmul_precision("highest")
def logistic(
    sources: Sequence[Source], penalty: Float[Array, " D"], dimensions: int
) -> Float[Array, " D"]:
    """argmin over w of E[log(1 + e^(−u·w))] + Σ penalty w²/2 under the sum of all sources.

    `dimensions`: of the space that w lies in. A frame of as many contains it, and what is normal
    outside such a frame does not count.
    Newton from 0 until the step is 1e-5 of w. It needs no damping: in one dimension the gradient is
    concave beyond 0, so Newton cannot overshoot, and in more no step was seen to. NaN where no
    weight is left.
    """
    mass = sum(source.weights.sum() for source in sources)
    sources = [source._replace(weights=source.weights / mass) for source in sources]

    def newton_step(w):
        parts = [
            (_outside if source.frame.shape[2] < dimensions else _inside)(source, w)
            for source in sources
        ]
        pull, curvature = (sum(part) for part in zip(*parts, strict=True))
        return solve(curvature + jnp.diag(penalty), pull - penalty * w)

    def unfinished(state):
        i, w, step = state
        return (i < _STEPS) & (norm(step) > _TOLERANCE * norm(w))

    def newton(state):
        i, w, step = state
        return i + 1, w + step, newton_step(w + step)

    origin = jnp.zeros(len(penalty))
    _, w, step = lax.while_loop(unfinished, newton, (0, origin, newton_step(origin)))
    return w + step


def _slopes(z: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """−ℓ′(z) and ℓ″(z) of ℓ(z) = log(1 + e⁻ᶻ)."""
    tail = jnp.exp(-jnp.abs(z))
    return jnp.where(z > 0, tail, 1) / (1 + tail), tail / (1 + tail) ** 2


def _inside(
    source: Source, w: Float[Array, " D"]
) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Negative gradient and Hessian of the loss at a w in the frame."""
    frame, points, weights = source
    doubt, curvature = _slopes(jnp.einsum("d,sdk,skn->sn", w, frame, points))
    curvature = weights * curvature
    flat = curvature.sum(1)  # the Hessian across the frame
    inside = jnp.einsum("skn,sln->skl", points * curvature[:, None], points)
    inside -= flat[:, None, None] * jnp.eye(points.shape[1])
    return (
        jnp.einsum("sdk,skn,sn->d", frame, points, weights * doubt),
        flat.sum() * jnp.eye(len(w)) + jnp.einsum("sdk,skl,sel->de", frame, inside, frame),
    )


def _outside(
    source: Source, w: Float[Array, " D"]
) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """The same at any w, of which what is outside a frame adds a normal to the margin.

    That normal, along w's direction there, becomes another coordinate by Gauss–Hermite.
    """
    frame, points, weights = source
    x, normal_weights = np.polynomial.hermite_e.hermegauss(_NORMALS)
    rest = jnp.broadcast_to(w, frame.shape[:2])
    for _ in range(2):  # once leaves a short rest askew in float32
        rest = rest - jnp.einsum("sdk,sek,se->sd", frame, frame, rest)
    size = norm(rest, axis=1, keepdims=True)
    there = size > _TOLERANCE * norm(w)
    along = jnp.where(there, rest / jnp.where(there, size, 1), 0)
    s, _, n = points.shape
    normal = jnp.broadcast_to(x[:, None], (s, 1, _NORMALS, n)).reshape(s, 1, -1)
    weights = (normal_weights / normal_weights.sum())[:, None] * weights[:, None]
    wider = Source(
        jnp.concatenate([frame, along[..., None]], 2),
        jnp.concatenate([jnp.tile(points, _NORMALS), normal], 1),
        weights.reshape(s, -1),
    )
    return _inside(wider, w)
