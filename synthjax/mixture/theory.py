"""Self-training with verification in the population limit: n → ∞ at fixed d, isotropic Σ.

The setting and the formulas are those of Feng, Dohmatob, Yang, Charton and Kempe, *Beyond Model
Collapse: Scaling Up with Synthesized Data Requires Verification* (arXiv 2406.07515), "the paper"
below. Everything that decides a trajectory lies in the span of three unit vectors: the truth w*
(the Bayes direction), the generator g and the verifier v; see `place`.

Angles are radians, results float32. Kinds (strings) and `generations` are static, everything else
may be traced, so that all of it can be jitted and vmapped. Over a grid on a CPU, `lax.map` of
`population` beats `vmap`: a point's nodes fit the cache, and it stops when it has converged.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.numpy.linalg import norm
from jax.scipy.special import erf, ndtr
from jaxtyping import Array, Float

from synthjax.mixture.quadrature import Scalar, legendre, minimiser, sector, with_normal

_AGREEMENT_NODES = 24
_HALF_SPACE_ANGLES = 48
_WEDGE_ANGLES = 32
_ROUNDING = 1e-6  # float32: angles and differences of probabilities below this are taken for 0

Vector = Float[Array, "*batch 3"]
Batch = Float[Array, "*batch"]


class Population(NamedTuple):
    """A trajectory without randomness; entry t belongs to generation t.

    `accuracy`: agreement of the classifier w_t with the Bayes classifier, in [0, 1].
    `p_star`: breakdown point of the verifier on the guesses that w_t is trained on; NaN at 0.
    """

    accuracy: Float[Array, " generations+1"]
    p_star: Float[Array, " generations+1"]


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
    return _cone_rates(a, b, angle_between(generator, verifier))


def _cone_rates(a: Batch, b: Batch, c: Batch) -> tuple[Batch, Batch, Batch]:
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


def _everywhere(right: Scalar, wrong: Scalar) -> Float[Array, "3"]:
    """Minimiser's direction where guesses are flips of the truth, kept whatever x is.

    `right` and `wrong` are the joint probabilities that an example is kept and its guess right or
    wrong: only the sign of their difference counts (the paper's theorem). Where they are equal
    the minimiser is 0 and w_t at finite n is noise of any direction, which in high dimension is
    orthogonal to the truth: e₁ stands for it.
    """
    kept, gain = right + wrong, right - wrong
    sign = jnp.where(jnp.abs(gain) > _ROUNDING * kept, jnp.sign(gain), 0.0)
    w = jnp.stack([sign, 1 - jnp.abs(sign), jnp.zeros_like(sign)])
    return jnp.where(kept > 0, w, jnp.nan)


def _half_space(
    h: Vector, right: Scalar, wrong: Scalar, *, features: str, learner: str, l2, signal
) -> Float[Array, "3"]:
    """Minimiser's direction where the label is sign(h·x), kept by its being right or wrong.

    `right` and `wrong` are P(kept | right) and P(kept | wrong): (φ, ψ) of a noisy verifier. A flip
    generator with a linear verifier is the same thing: what is kept has the verifier's label, in
    proportion 1−p where that is the truth and p where it is not.
    """
    a = angle_between(h, jnp.eye(3)[0])
    sideways = h.at[0].set(0)
    side = jnp.where(norm(sideways) > 0, _unit(sideways), jnp.eye(3)[1])
    low, high, quarter = a - jnp.pi / 2, a + jnp.pi / 2, jnp.pi / 2
    mean = jnp.stack([signal, 0.0])
    if features == "teacher":  # right where u₀ > 0
        right_points, right_weights = sector(low, quarter, 0 * mean, _HALF_SPACE_ANGLES)
        wrong_points, wrong_weights = sector(quarter, high, 0 * mean, _HALF_SPACE_ANGLES)
    else:  # yx is N(μ, I), and u = yx where right, −yx where wrong
        right_points, right_weights = sector(low, high, mean, _HALF_SPACE_ANGLES)
        wrong_points, wrong_weights = sector(low, high, -mean, _HALF_SPACE_ANGLES)
    points = jnp.concatenate([right_points, wrong_points], axis=1)
    weights = jnp.concatenate([right * right_weights, wrong * wrong_weights])
    w = minimiser(points, weights, learner, l2)
    return _unit(w[0] * jnp.eye(3)[0] + w[1] * side)


@jax.default_matmul_precision("highest")
def _wedge(
    g: Vector, v: Vector, *, features: str, learner: str, l2, signal
) -> tuple[Float[Array, "3"], Scalar]:
    """Minimiser's direction and p* where linear generator and linear verifier must agree."""
    first = _unit_sum(g, v)
    a, b, c = (angle_between(*pair) for pair in ((g, jnp.eye(3)[0]), (v, jnp.eye(3)[0]), (g, v)))
    if features == "teacher":  # reflecting g into v changes nothing, so w is the bisector
        _, phi, psi = _cone_rates(a, b, c)
        return first, breakdown_point(phi, psi)

    # Axes: the bisector, across it towards g (anything where g = v), and out of the plane.
    across = jnp.where(norm(g - v) > _ROUNDING, g - v, jnp.eye(3)[jnp.argmin(jnp.abs(first))])
    second = _unit(across - (across @ first) * first)
    frame = jnp.stack([first, second, jnp.cross(first, second)])
    mean = signal * frame[:, 0]
    half = (jnp.pi - c) / 2
    (right_points, right_weights), (wrong_points, wrong_weights) = (
        with_normal(*sector(-half, half, centre[:2], _WEDGE_ANGLES), centre[2])
        for centre in (mean, -mean)
    )
    points = jnp.concatenate([right_points, wrong_points], axis=1)
    w = minimiser(points, jnp.concatenate([right_weights, wrong_weights]), learner, l2)
    margin = signal * jnp.cos(a)
    phi, psi = right_weights.sum() / ndtr(margin), wrong_weights.sum() / ndtr(-margin)
    return _unit(w @ frame), breakdown_point(phi, psi)


def population(
    *,
    features: str,
    initial: str,
    generator: str,
    verifier: str,
    learner: str,
    generations: int,
    theta_gen: Scalar,
    p: Scalar,
    phi: Scalar,
    psi: Scalar,
    theta_ver: Scalar,
    error_correlation: Scalar,
    l2: Scalar,
    signal: Scalar,
) -> Population:
    """Follow T = `generations` ≥ 1 generations as n → ∞; regime replace, selection prune.

    Every w_t is the minimiser of E[ℓ(y′ x·w) | kept] + (l2/2)‖w‖² on the guesses of its
    predecessor. Kinds: `features` teacher|mixture, `initial` angle|real, `generator` flip|linear,
    `verifier` none|oracle|noisy|linear, `learner` ridge|logistic. Arguments that the kinds do not
    read may have any value.

    Generation 0: accuracy 1 − p for flip; w₀ at `theta_gen` for linear, and w* itself if it is
    trained on true labels. From generation 2 on flip too is sign(w_{t−1}·x). Accuracy is 1/2 where
    the minimiser is 0, and NaN from the generation on in which nothing is kept. p* of a linear
    verifier is NaN where no guess is wrong, or none right.

    l2 ≥ 0, and > 0 for logistic. Against quadrature with many more nodes, accuracy after one
    logistic generation is within 1e-4 for l2 ≥ 1e-5 and within 3e-4 for l2 = 1e-6, at signals up
    to 10; ridge is within 1e-5.
    """
    truth, g, v = place(theta_gen, theta_ver, error_correlation)
    settings = dict(features=features, learner=learner, l2=l2, signal=signal)
    half_space, wedge = partial(_half_space, **settings), partial(_wedge, **settings)
    rates = {"none": (1.0, 1.0), "oracle": (1.0, 0.0), "noisy": (phi, psi)}.get(verifier)

    def generation(w, _):
        if verifier == "linear":
            new = wedge(w, v)
        else:
            new = half_space(w, *rates), breakdown_point(*rates)
        return new[0], new

    def accuracy(w):
        return agreement(angle_between(w, truth), features, signal)

    if generator == "linear":
        w = g if initial == "angle" else truth
        start = accuracy(w)[None], jnp.full(1, jnp.nan)
    else:
        if verifier == "linear":
            w = half_space(v, 1 - p, p)
            keeps = test_agreement(theta_ver, features, signal)
            any_right_and_wrong = (p > 0) & (p < 1)
            p_star = jnp.where(any_right_and_wrong, breakdown_point(keeps, 1 - keeps), jnp.nan)
        else:
            w = _everywhere((1 - p) * rates[0], p * rates[1])
            p_star = breakdown_point(*rates)
        start = jnp.stack([1 - p, accuracy(w)]), jnp.stack([jnp.nan, p_star])

    _, (w, p_star) = lax.scan(generation, w, length=generations + 1 - len(start[0]))
    return Population(jnp.concatenate([start[0], accuracy(w)]), jnp.concatenate([start[1], p_star]))
