"""What a generation keeps, n → ∞: the measure of the signed examples u = y′z, whitened.

By the symmetry z → −z with the classes exchanged, all that is kept has the density

    Σ over right, wrong of D(u) · mean over classes of P(a guess makes the sign u) P(it is kept),

where D is what the true label makes of z: for the teacher 2N(u) on u₀ > 0 (right) and on u₀ < 0
(wrong); for the mixture N(u − μ) and N(u + μ). Coordinates are those of a frame: along w*, then
the generator w, then the verifier v, so that w* = (1, 0, 0), w = (w₀, w₁, 0), v = (v₀, v₁, v₂).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.numpy.linalg import norm
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from synthjax.mixture.data import Numbers
from synthjax.mixture.quadrature import Scalar, beyond, edges, sector
from synthjax.mixture.theory import breakdown_point

ANGLES = {1: 48, 2: 32, 3: 16, 4: 12}  # rays between two edges, by the parts of a half-plane
ROUNDING = 1e-6  # float32: angles and probabilities below this are taken for 0
_HALVINGS = 26  # of a threshold's bracket, down to 2e-7
FLIPS = ("flip", "flip_by_class")  # generators without a w₀
_WITH_CLASSIFIER = ("linear", "margin")  # verifiers with a direction v of their own
_ONE_SIDED = (*_WITH_CLASSIFIER, "self")  # those that prune on one side of a plane
Nodes = Float[Array, " nodes"]


class _Plane(NamedTuple):
    """All guesses before verification, in the plane of w* and w."""

    points: Float[Array, "2 nodes"]
    weights: Nodes
    right: Bool[Array, " nodes"]
    chance: Float[Array, "classes nodes"]  # that a draw is the label that makes this sign


def has_classifier(kinds: Mapping[str, str]) -> bool:
    """Whether the verifier has a direction of its own, so that a frame has three coordinates."""
    return kinds["verifier"] in _WITH_CLASSIFIER


def has_no_plane(kinds: Mapping[str, str]) -> bool:
    """Whether verdicts on flips do not depend on z."""
    return kinds["verifier"] not in _ONE_SIDED


def kept(
    kinds: Mapping[str, str],
    numbers: Numbers,
    flips: bool,
    w: Float[Array, " k"],
    v: Float[Array, " k"],
) -> tuple[Float[Array, "k nodes"], Nodes, Scalar]:
    """Points and weights of the kept, which sum to P(kept), and the breakdown point p*.

    k is 3 if the verifier `has_classifier` and else 2. `flips`: whether the guesses are those of a
    flip generator in generation 1, which reads no w. p* is NaN where no guess is right or none
    wrong, unless the verifier itself knows its rates.
    """
    pruned = kinds["selection"] == "prune"
    with_margin = kinds["verifier"] == "margin"
    unit = w / norm(w)
    ranks = pruned and kinds["verifier"] in ("margin", "self")

    def guesses(threshold):
        bend = ((v if with_margin else unit)[:2], threshold) if ranks else None
        return _guesses(kinds, numbers, flips, w, v, bend)

    def line_start(plane, threshold):
        """Where along the third coordinate v·u passes the threshold."""
        return (threshold - v[:2] @ plane.points) / jnp.maximum(v[2], ROUNDING)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        plane = guesses(middle)
        above = ndtr(-line_start(plane, middle)) if with_margin else unit @ plane.points > middle
        enough = (plane.weights * plane.chance.mean(0) * above).sum() > numbers.keep
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    threshold = jnp.zeros(())
    if ranks:
        far = 6 + numbers.signal * (kinds["features"] == "mixture")
        threshold = sum(lax.fori_loop(0, _HALVINGS, halve, (-far, far))) / 2

    plane = guesses(threshold)
    mass = (plane.weights * plane.chance.mean(0) * jnp.stack([plane.right, ~plane.right])).sum(1)
    points, weights, preferred = plane.points, plane.weights, None
    if has_classifier(kinds):
        start = line_start(plane, threshold)
        sides = [beyond(start)] if pruned else [beyond(start), beyond(-start)]
        third = jnp.concatenate([sign * h for sign, (h, _) in zip((1, -1), sides, strict=False)])
        line_weights = jnp.concatenate([q for _, q in sides])
        repeats = len(third)
        preferred = jnp.repeat(jnp.arange(repeats) < len(sides[0][0]), weights.size)
        points = jnp.concatenate([jnp.tile(points, repeats), third.reshape(1, -1)])
        weights = (line_weights * weights).ravel()
        plane = plane._replace(
            right=jnp.tile(plane.right, repeats), chance=jnp.tile(plane.chance, repeats)
        )
    elif kinds["verifier"] == "self":
        preferred = unit @ points > threshold
    weights = weights * selected(kinds, numbers, plane.right, plane.chance, preferred)
    return points, weights, _p_star(kinds, numbers, mass, weights, plane.right)


def anywhere(kinds: Mapping[str, str], numbers: Numbers) -> tuple[Float[Array, "2"], Scalar]:
    """P(kept and right), P(kept and wrong) and p* of flips, judged whatever z is."""
    right, wrong = jnp.array([True, False]), error_rates(kinds, numbers)[:, None]
    chance = jnp.where(right, 1 - wrong, wrong)
    weights = selected(kinds, numbers, right, chance, None)
    return weights, _p_star(kinds, numbers, chance.mean(0), weights, right)


def _guesses(kinds, numbers: Numbers, flips: bool, w, v, bend) -> _Plane:
    """Nodes for every guess of a generation, right or wrong, kept or not."""
    generator, teacher = kinds["generator"], kinds["features"] == "teacher"
    half = generator != "logistic" and not flips  # only w·u > 0: such guesses are sign(w·z)
    w_angle = jnp.arctan2(w[1], w[0])
    lines = [0.0] if teacher and half else []
    if generator == "logistic":
        lines.append(w_angle)
    if has_classifier(kinds):
        lines.append(jnp.arctan2(v[1], v[0]))
    rays = ANGLES[len(lines) + 1]

    means = jnp.asarray([0.0] if teacher else [1.0, -1.0])
    sides = jnp.stack([w_angle]) if half else jnp.asarray([0.0, jnp.pi])
    splits = jnp.stack([edges(side, lines) for side in sides])
    centres = means[:, None] * jnp.stack([numbers.signal, 0.0])

    def one(centre, split):
        return sector(split, centre, rays, bend)

    points, weights = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(centres, splits)
    points = jnp.moveaxis(points, 2, 0).reshape(2, -1)
    right = points[0] > 0 if teacher else jnp.repeat(means > 0, points.shape[1] // 2)
    weights = (2 if teacher else 1) * weights.ravel()

    if flips:
        wrong = error_rates(kinds, numbers)[:, None]
        chance = jnp.where(right, 1 - wrong, wrong)
    elif generator == "logistic":
        chance = 1 / (1 + jnp.exp(-(w[:2] @ points) / numbers.temperature))[None]
    else:
        chance = jnp.ones((1, weights.size))
    return _Plane(points, weights, right, chance)


def error_rates(kinds: Mapping[str, str], numbers: Numbers) -> Float[Array, " classes"]:
    """P(mislabelled) of a flip generator, by class or the same for both."""
    if kinds["generator"] == "flip":
        return jnp.stack([numbers.p])
    return jnp.stack([numbers.p_plus, numbers.p_minus])


def _rates(verifier: str, numbers: Numbers) -> tuple[Float[Array, " classes"], ...]:
    """φ and ψ, by class or the same for both, of the verdicts that do not depend on z."""
    if verifier == "noisy_by_class":
        plus, minus = (numbers.phi_plus, numbers.psi_plus), (numbers.phi_minus, numbers.psi_minus)
        return tuple(jnp.stack(pair) for pair in zip(plus, minus, strict=True))
    rates = {"oracle": (1.0, 0.0), "noisy": (numbers.phi, numbers.psi)}.get(verifier, (1.0, 1.0))
    return tuple(jnp.asarray(rate)[None] for rate in rates)


def selected(kinds, numbers: Numbers, right, chance, preferred) -> Nodes:
    """P(the example is kept with the label that makes this sign), mean over classes.

    `chance` r is that of a draw to be this label; `preferred` says where a verifier with a
    direction would have it. Of best_of_k's k draws the preferred label is kept if it is among them,
    the other if there is nothing else. A noisy verifier accepts a draw with this label with
    probability a, with the other b: the kept is any of the accepted, if there is one, else any.
    """
    verifier, r = kinds["verifier"], chance
    phi, psi = (rate[:, None] for rate in _rates(verifier, numbers))
    accepted = jnp.where(right, phi, psi)
    if kinds["selection"] == "prune":
        selected = r * accepted
        if preferred is not None:
            selected = selected * preferred
    elif verifier == "none":
        selected = r
    elif verifier in ("noisy", "noisy_by_class"):
        a, b = r * accepted, (1 - r) * jnp.where(right, psi, phi)
        some = jnp.maximum(a + b, ROUNDING**2)
        none = jnp.maximum(1 - a - b, 0)
        selected = (1 - none**numbers.k) * a / some + none ** (numbers.k - 1) * (r - a)
    else:
        preferred = right if preferred is None else preferred
        selected = jnp.where(preferred, 1 - (1 - r) ** numbers.k, r**numbers.k)
    return jnp.mean(selected, 0)


def _p_star(kinds, numbers: Numbers, mass, weights, right) -> Scalar:
    """From P(right), P(wrong) of the guesses, `mass`, and the weights of those that are kept."""
    verifier = kinds["verifier"]
    if verifier == "none" or (kinds["selection"] == "prune" and verifier in ("oracle", "noisy")):
        return breakdown_point(*(rate[0] for rate in _rates(verifier, numbers)))
    kept_mass = (weights * jnp.stack([right, ~right])).sum(1)
    rates = jnp.where(mass > ROUNDING, kept_mass / mass, jnp.nan)
    return breakdown_point(*jnp.clip(rates, 0, None))
