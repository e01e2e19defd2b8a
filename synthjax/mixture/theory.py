"""Closed forms of self-training with verification: angles, rates, accuracies, boundaries.

The setting and the formulas are those of Feng, Dohmatob, Yang, Charton and Kempe, *Beyond Model
Collapse: Scaling Up with Synthesized Data Requires Verification* (arXiv 2406.07515), "the paper"
below. Everything that decides a trajectory lies in the span of three unit vectors: the truth w*
(the Bayes direction), the generator g and the verifier v; see `place`.

Angles are radians, results float32. Kinds (strings) are static, everything else may be traced, so
that all of it can be jitted and vmapped. The limit n → ∞ of whole trajectories is `population`'s.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.numpy.linalg import norm
from jax.scipy.special import erf, ndtr
from jaxtyping import Array, Float

from synthjax.mixture.quadrature import Scalar, legendre
from synthjax.protocol.spec import SpecError

_AGREEMENT_NODES = 24
_ANGLES, _SECANTS = 33, 8  # to look for the angle that a target needs
ANGLED = ("linear", "margin")  # the verifiers that have an angle
_ROUNDING = 1e-6  # float32: angles and differences of probabilities below this are taken for 0

Vector = Float[Array, "*batch 3"]
Batch = Float[Array, "*batch"]


def breakdown_point(phi: Batch | float, psi: Batch | float) -> Batch | float:
    """Error rate p* = 1/(1 + ψ/φ) of the generator above which training on the kept hurts.

    φ = P(kept | guess right) and ψ = P(kept | guess wrong), in [0, 1], broadcast together; NaN
    where both are 0. The paper, theorem on pruned synthetic data.
    """
    return jnp.divide(phi, jnp.add(phi, psi))


def place(
    theta_gen: Batch | float, theta_ver: Batch | float, error_correlation: Batch | float
) -> tuple[Vector, Vector, Vector]:
    """Place (w*, g, v): unit vectors in R³ with ∠(w*, g) = theta_gen, ∠(w*, v) = theta_ver.

    w* = e₀, g = cos a e₀ + sin a e₁, v = cos b e₀ + sin b (ρ e₁ + √(1−ρ²) e₂), where ρ =
    `error_correlation` in [−1, 1]: 0 where the verifier's errors have nothing to do with the
    generator's, 1 where it shares them. The arguments broadcast; the vectors lie along the last
    axis.
    """
    a, b, rho = jnp.broadcast_arrays(theta_gen, theta_ver, error_correlation)
    zero = jnp.zeros(a.shape)
    truth = jnp.stack([zero + 1, zero, zero], axis=-1)
    generator = jnp.stack([jnp.cos(a), jnp.sin(a), zero], axis=-1)
    aside = jnp.sqrt(1 - rho**2)
    verifier = jnp.stack([jnp.cos(b), jnp.sin(b) * rho, jnp.sin(b) * aside], axis=-1)
    return truth, generator, verifier


def angle_between(u: Vector, v: Vector) -> Batch:
    """Angle of two unit vectors along the last axis, in [0, π]; exact near 0 and π as well."""
    return 2 * jnp.atan2(norm(u - v, axis=-1), norm(u + v, axis=-1))


def linear_verifier_rates(
    theta_gen: Batch | float, theta_ver: Batch | float, error_correlation: Batch | float = 0.0
) -> tuple[Batch, Batch, Batch]:
    """(p, φ, ψ) of a linear generator checked by a linear verifier; isotropic teacher.

    p = a/π, φ = (1 − (a+b+c)/2π) / (1 − p), ψ = (a+b−c)/2π / p, c = ∠(g, v): the solid angles of
    the cones that three planes cut out. φ is NaN where no guess is right (a = π), ψ where none is
    wrong (a = 0). p < p* is the same as a + b < π.
    """
    _, generator, verifier = place(theta_gen, theta_ver, error_correlation)
    a, b = jnp.broadcast_arrays(theta_gen, theta_ver)
    return cone_rates(a, b, angle_between(generator, verifier))


def cone_rates(a: Batch, b: Batch, c: Batch) -> tuple[Batch, Batch, Batch]:
    """(p, φ, ψ) from the three angles of `linear_verifier_rates`."""
    p = a / jnp.pi
    right_and_kept = 1 - (a + b + c) / (2 * jnp.pi)
    wrong_and_kept = (a + b - c) / (2 * jnp.pi)
    phi = jnp.where(p < 1, jnp.clip(right_and_kept / (1 - p), 0, 1), jnp.nan)
    psi = jnp.where(p > 0, jnp.clip(wrong_and_kept / p, 0, 1), jnp.nan)
    return p, phi, psi


def agreement(angle: Batch | float, features: str, signal: Scalar) -> Batch:
    """The paper's accuracy: P(sign(w·x) = sign(w*·x)) for a classifier w at `angle` from w*.

    `features` "teacher": 1 − angle/π. "mixture", x | y ~ N(y·signal·w*, I): the two classify
    differently on a double wedge of that angle; its probability, by direction, is the integral
    over (0, angle) of e^(−σ²/2)/π + s/√(2π) e^(−σ²cos²t/2) erf(s/√2), σ = signal, s = σ sin t.
    Absolute error below 1e-6 for signals up to 10.
    """
    angle = jnp.asarray(angle)
    if features == "teacher":
        return 1 - angle / jnp.pi
    # The integrand is symmetric about π/2 and integrates to 1 over (0, π).
    acute = jnp.minimum(angle, jnp.pi - angle)
    t, weights = legendre(_AGREEMENT_NODES)
    s = signal * jnp.sin(acute[..., None] * t)
    slope = jnp.exp(-(signal**2) / 2) / jnp.pi + s / jnp.sqrt(2 * jnp.pi) * jnp.exp(
        (s**2 - signal**2) / 2
    ) * erf(s / jnp.sqrt(2.0))
    disagreement = acute * jnp.sum(weights * slope, axis=-1)
    return jnp.where(angle > jnp.pi / 2, disagreement, 1 - disagreement)


def test_agreement(angle: Batch | float, features: str, signal: Scalar) -> Batch:
    """P(sign(w·x) = y): agreement with the true label instead of with the Bayes classifier.

    The teacher's labels are the Bayes classifier's; in the mixture it is Φ(signal·cos angle).
    """
    if features == "teacher":
        return agreement(angle, features, signal)
    return ndtr(signal * jnp.cos(angle))


def _unit(w: Vector) -> Vector:
    return w / norm(w, axis=-1, keepdims=True)


def _unit_sum(g: Vector, v: Vector) -> Vector:
    """Direction of g + v; NaN where g = −v, that is, where nothing is kept."""
    w = g + v
    return jnp.where(norm(w, axis=-1, keepdims=True) > _ROUNDING, _unit(w), jnp.nan)


def _turn(g: Vector, v: Vector, generations: int) -> Vector:
    """Direction of `population_direction`, unnormalised and finite at every angle of g and v."""
    c = angle_between(g, v)[..., None]
    left = 0.5 ** jnp.asarray(generations, float)
    return (
        left * jnp.sinc(c * left / jnp.pi) * g + (1 - left) * jnp.sinc(c * (1 - left) / jnp.pi) * v
    )


def population_direction(g: Vector, v: Vector, generations: int) -> Vector:
    """Direction of w_T for the unit generator g and verifier v after T = `generations`.

    Linear generator and verifier, isotropic teacher, regime replace: every generation is the
    bisector of the last one and v, so w_T ∝ sin(c/2ᵀ) g + sin(c(1−2⁻ᵀ)) v with c = ∠(g, v). NaN
    where c = π: generator and verifier never agree, and nothing is kept.
    """
    return jnp.where(jnp.isnan(_unit_sum(g, v)), jnp.nan, _unit(_turn(g, v, generations)))


def boundary(
    theta_gen: Batch | float, generations: int, error_correlation: Batch | float = 0.0
) -> Batch:
    """The theta_ver in (0, π) at which w_T turns from better to worse than chance.

    The b that solves sin(c/2ᵀ) cos a + sin(c(1−2⁻ᵀ)) cos b = 0 (`population_direction`, a =
    `theta_gen`, c = ∠(g, v)): below it accuracy after T generations is above 1/2. It is π − a for
    T = 1, whatever the correlation. The left side is positive at b = 0 and negative at b = π, so
    there is one for every a in (0, π); NaN outside, and for T = 1 at a = 0 and a = π.
    """
    a, rho = jnp.broadcast_arrays(theta_gen, error_correlation)

    def height(b):
        _, g, v = place(a, b, rho)
        return _turn(g, v, generations)[..., 0]

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = height(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jnp.zeros(a.shape), jnp.full(a.shape, jnp.pi)
    exists = (height(low) > 0) & (height(high) < 0) & (a >= 0) & (a <= jnp.pi)
    low, high = lax.fori_loop(0, 30, halve, (low, high))
    return jnp.where(exists, (low + high) / 2, jnp.nan)


def required_verifier(
    target: Scalar, spec: Any, *, high: float = math.pi / 2, **numbers: Scalar
) -> Float[Array, ""]:
    """The largest theta_ver (radians, up to `high`) that reaches an accuracy: how good must it be?

    By state evolution of the accuracy after `spec.generations`, with the spec's kinds and numbers;
    `numbers`, n and d among them, may override them. Accuracy need not fall with the angle all the
    way: of a grid of angles the last one that reaches the target is taken, and the crossing after
    it found. NaN where none reaches it, a perfect verifier included; `high` where that does.
    May be vmapped, jitted and differentiated in the target and the numbers (but k).

    Raises ValueError for a target outside [0, 1], and SpecError for kinds without state evolution,
    a verifier without an angle and a spec that sweeps anything.
    """
    # State evolution is built on the closed forms of this module.
    from synthjax.mixture.data import Numbers
    from synthjax.mixture.evolution import KNOWN

    if not isinstance(target, jax.core.Tracer) and not 0 <= target <= 1:
        raise ValueError(f"target = {target}: must be an accuracy in [0, 1]")
    if spec.sweep:
        raise SpecError("sweep", dict(spec.sweep), "must be empty: n and the target are the axes")
    kinds = {family: getattr(spec, family) for family in KNOWN}
    if kinds["verifier"] not in ANGLED:
        raise SpecError("verifier", kinds["verifier"], "has no angle", ANGLED)
    for family, known in KNOWN.items():
        if kinds[family] not in known:
            raise SpecError(family, kinds[family], "has no state evolution", known)
    own = {name: getattr(spec, name) for name in Numbers._fields} | {"d": spec.d} | numbers
    own = {
        name: jnp.asarray(value, jnp.int32 if name == "k" else float) for name, value in own.items()
    }
    return _required(tuple(kinds.items()), spec.generations, high, jnp.asarray(target, float), own)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _required(
    kinds: tuple[tuple[str, str], ...],
    generations: int,
    high: float,
    target: Scalar,
    own: dict[str, Scalar],
) -> Float[Array, ""]:
    from synthjax.mixture.evolution import evolution

    def accuracy(angle, own):
        found = evolution(**dict(kinds) | own | {"theta_ver": angle}, generations=generations)
        return jnp.where(found.converged[-1], found.accuracy[-1], -jnp.inf)

    fixed, wanted = lax.stop_gradient((own, target))
    grid = jnp.linspace(0.0, high, _ANGLES)
    # None of it depends on the target: many of them, by vmap, share it.
    over = lax.map(lambda angle: accuracy(angle, fixed), grid)
    reached = over >= wanted
    last = _ANGLES - 1 - jnp.argmax(reached[::-1])
    first_over, last_over = over[last], over[jnp.minimum(last + 1, _ANGLES - 1)]

    def between(low, far, over, under):
        """Where a line between the two ends crosses; half way where one is unknown."""
        inside = over / jnp.where(over > under, over - under, 1)
        return low + jnp.where(jnp.isfinite(under), inside, 0.5) * (far - low)

    def illinois(height, _):
        """The crossing between two angles; an end that stays counts half from then on."""

        def narrow(_, bracket):
            low, far, over, under, side = bracket
            angle = between(low, far, over, under)
            now = height(angle)
            enough = now >= 0
            under = jnp.where(enough & (side > 0), under / 2, under)
            over = jnp.where(~enough & (side < 0), over / 2, over)
            return (
                jnp.where(enough, angle, low),
                jnp.where(enough, far, angle),
                jnp.where(enough, now, over),
                jnp.where(enough, under, now),
                jnp.where(enough, 1, -1),
            )

        begin = (*ends, first_over - wanted, last_over - wanted, 0)
        *bracket, _ = lax.fori_loop(0, _SECANTS, narrow, begin)
        return between(*bracket)

    ends = grid[last], grid[jnp.minimum(last + 1, _ANGLES - 1)]
    angle = lax.custom_root(
        lambda angle: accuracy(angle, own) - target,
        ends[0],
        illinois,
        lambda slope, height: height / slope(jnp.ones_like(height)),
    )
    return jnp.where(reached.any(), jnp.where(reached[-1], high, angle), jnp.nan)
