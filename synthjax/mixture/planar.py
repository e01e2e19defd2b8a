"""What a generation keeps, n → ∞, as nodes in a plane: the integrals of state evolution.

What is kept is a normal times factors that read two directions at most, so integrals over it need
nodes in one plane. Along the third axis of the frame (w*, v, w) it is a unit normal, around ± its
part of μ in the mixture. `signed` has the densities.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.numpy.linalg import norm
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from synthjax.mixture import signed
from synthjax.mixture.data import Numbers
from synthjax.mixture.quadrature import Scalar, edges, legendre, sector
from synthjax.mixture.signed import ROUNDING

RAYS = {1: 40, 2: 24, 3: 16}  # between two edges, by the parts of a half-plane
RADII, REACH = 24, 7.0
ACROSS = 22  # nodes along a coordinate, between two jumps
SURE = 36.0  # log-odds at which a guess is certain
_BRACKET = 30  # halvings of a threshold's bracket

Vector = Float[Array, "3"]


class Source(NamedTuple):
    """Examples u = y′z: nodes in the plane of two axes, a normal around `offset` along the third.

    `axes` are orthonormal rows in the frame; weights sum to the mass of the source.
    """

    axes: Float[Array, "3 3"]
    points: Float[Array, "2 nodes"]
    offset: Float[Array, " nodes"]
    weights: Float[Array, " nodes"]


def _axes(first: Vector, second: Vector) -> Float[Array, "3 3"]:
    """Orthonormal rows: `first`, the rest of `second` (any other if it has none), a third."""
    rest = jnp.stack([second, *jnp.eye(3)[1:], jnp.eye(3)[0]])
    for _ in range(2):  # once leaves a short rest askew in float32
        rest = rest - (rest @ first)[:, None] * first
    size = jnp.sqrt(jnp.maximum((rest**2).sum(1), ROUNDING**4))
    chosen = jnp.where(size[0] > 10 * ROUNDING, 0, 1 + jnp.argmax(size[1:]))
    other = rest[chosen] / size[chosen]
    return jnp.stack([first, other, jnp.cross(first, other)])


@jax.default_matmul_precision("highest")
def kept(
    kinds: Mapping[str, str], numbers: Numbers, flips: bool, w: Vector, v: Vector
) -> tuple[Source, Float[Array, "4"]]:
    """What is kept of the guesses of w, and of all guesses the fractions right, wrong, kept too.

    `flips`: whether they are those of a flip generator in generation 1, which reads no w.
    """
    teacher, pruned = kinds["features"] == "teacher", kinds["selection"] == "prune"
    classifier, verifier = signed.has_classifier(kinds), kinds["verifier"]
    logistic = kinds["generator"] == "logistic"
    truth = jnp.eye(3)[0]
    size = norm(w)
    axes = _axes(truth if flips else w / size, v if classifier else truth)
    along_truth, along_v = axes @ truth, axes @ v
    ranks = pruned and verifier in ("margin", "self")
    along_w = jnp.array([1.0, 0.0])
    scored = along_v[:2] if verifier == "margin" else along_w
    levels = [0.0]
    if logistic:  # guesses are certain where x·w is further from 0
        layer = SURE * numbers.temperature / size
        levels = [-layer, 0.0, layer]
    normals = []  # of the lines on which a factor jumps, besides the first axis
    if classifier and not ranks:
        normals.append(along_v[:2])
    if teacher and not flips:
        normals.append(along_truth[:2])
    lines = [jnp.arctan2(normal[1], normal[0]) for normal in normals]
    means = jnp.asarray([0.0] if teacher else [1.0, -1.0])
    centres = means[:, None] * numbers.signal * along_truth[:2]
    sides = [0.0, np.pi] if flips else [0.0]
    splits = jnp.stack([edges(side, lines) for side in sides])

    def about(points):
        """Whether guesses at these points are right, and the chance that a draw is this label."""
        if teacher:
            right = along_truth[:2] @ points > 0
        else:
            right = jnp.repeat(means > 0, points.shape[1] // 2)
        chance = jnp.ones((1, points.shape[1]))
        if flips:
            wrong = signed.error_rates(kinds, numbers)[:, None]
            chance = jnp.where(right, 1 - wrong, wrong)
        elif logistic:
            chance = jax.nn.sigmoid(size * points[0] / numbers.temperature)[None]
        elif ranks:
            chance = (points > 0).astype(points.dtype)[:1]
        return right, chance

    def certain(points, right):
        """P(right) there; with a classifier and no flips the teacher's truth lies across."""
        if teacher and classifier and not flips:
            across = jnp.maximum(jnp.abs(along_truth[2]), ROUNDING)
            return ndtr(along_truth[:2] @ points / across)
        return right.astype(points.dtype)

    def flat(points, weights):
        points = jnp.moveaxis(points, -2, 0).reshape(2, -1)
        return points, (2 if teacher else 1) * weights.ravel()

    def one(centre, split):
        return sector(split, centre, RAYS[len(lines) + 1], radii=RADII, reach=REACH)

    def above(threshold):
        """All guesses of a higher score."""
        cuts = [(along_w, level) for level in levels] + [(normal, 0.0) for normal in normals]
        return flat(
            *jax.vmap(lambda centre: _strip(threshold, scored, levels, cuts, centre))(centres)
        )

    def share(threshold):
        points, weights = above(threshold)
        return (weights * about(points)[1].mean(0)).sum()

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        enough = share(middle) > numbers.keep
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    if logistic:  # by the lines on which all guesses are as certain
        everywhere, cuts = -REACH - numbers.signal, [(normal, 0.0) for normal in normals]
        nodes = jax.vmap(lambda centre: _strip(everywhere, along_w, levels, cuts, centre))(centres)
    else:
        nodes = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(centres, splits)
    points, weights = flat(*nodes)
    right, chance = about(points)
    every = weights * chance.mean(0)
    every = [(every * side).sum() for side in _sides(certain(points, right))]
    if ranks:
        far = REACH + numbers.signal * (not teacher)
        found = sum(lax.stop_gradient(lax.fori_loop(0, _BRACKET, halve, (-far, far)))) / 2
        # A step that derivatives alone see: they become those of the crossing.
        slope = jax.jvp(share, (found,), (jnp.ones_like(found),))[1]
        now = share(found) - numbers.keep
        slope = lax.stop_gradient(jnp.minimum(slope, -(ROUNDING**2)))
        threshold = found - (now - lax.stop_gradient(now)) / slope
        points, weights = above(threshold)
        right, chance = about(points)
        weights = weights * chance.mean(0)
    else:
        preferred = None
        if classifier or verifier == "self":
            preferred = (along_v[:2] if classifier else scored) @ points > 0
        weights = weights * signed.selected(kinds, numbers, right, chance, preferred)
    offset = jnp.zeros_like(weights)
    if not teacher:
        offset = jnp.where(right, 1, -1) * numbers.signal * along_truth[2]
    of_all = weights if pruned else weights / numbers.k
    fractions = [*every, *((of_all * side).sum() for side in _sides(certain(points, right)))]
    return Source(axes, points, offset, weights), jnp.stack(fractions)


def _sides(chance: Float[Array, " nodes"]) -> tuple[Float[Array, " nodes"], ...]:
    return chance, 1 - chance


def _strip(
    threshold: Scalar,
    scored: Float[Array, "2"],
    levels: list[Scalar],
    cuts: list[tuple[Float[Array, "2"], Scalar]],
    mean: Float[Array, "2"],
) -> tuple[Float[Array, "2 nodes"], Float[Array, " nodes"]]:
    """Points and weights of N(mean, I₂) where the score, a coordinate, passes a threshold.

    Scores are split at `levels`, and each line of one score where it meets the lines
    {x: normal·x = offset} of `cuts`, pairs of both.
    """
    turned = jnp.stack([-scored[1], scored[0]])
    along, across = mean @ scored, mean @ turned
    low = jnp.maximum(threshold, along - REACH)
    high = jnp.maximum(low, along) + REACH
    t, t_weights = legendre(ACROSS)
    parts = jnp.sort(jnp.clip(jnp.stack([low, *map(jnp.asarray, levels), high]), low, high))
    width = jnp.diff(parts)[:, None]
    score, score_weights = (parts[:-1, None] + width * t).ravel(), (width * t_weights).ravel()
    crossed = []
    for normal, offset in cuts:
        slope = normal @ turned
        slope = jnp.where(jnp.abs(slope) > ROUNDING, slope, ROUNDING)
        crossed.append((offset - (normal @ scored) * score) / slope)
    ends = [jnp.full_like(score, across - REACH), *crossed, jnp.full_like(score, across + REACH)]
    ends = jnp.sort(jnp.clip(jnp.stack(ends), across - REACH, across + REACH), 0)
    width = jnp.diff(ends, axis=0)[..., None]
    other = ends[:-1, :, None] + width * t
    score = jnp.broadcast_to(score[:, None], other.shape)
    density = jnp.exp(-((score - along) ** 2 + (other - across) ** 2) / 2) / (2 * jnp.pi)
    weights = score_weights[:, None] * width * t_weights * density
    points = scored[:, None] * score.ravel() + turned[:, None] * other.ravel()
    return points, weights.ravel()


def real(kinds: Mapping[str, str], numbers: Numbers, mass: Scalar) -> Source:
    """Truly labelled examples: flips of which none is wrong."""
    honest = dict(kinds) | dict(generator="flip", verifier="none", selection="prune")
    source, _ = kept(honest, numbers._replace(p=jnp.zeros(())), True, jnp.eye(3)[0], jnp.eye(3)[1])
    return source._replace(weights=mass * source.weights)
