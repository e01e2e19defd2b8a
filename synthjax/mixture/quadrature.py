"""Integrals of Gaussians over cones, and the population minimisers under them.

A kept example turned by its guess, u = y′x, has a density that is a normal, centred at 0 or at ±μ,
cut off by a cone with its apex at the origin: the half-space {h·u > 0} of a generator, or the wedge
{g·u > 0, v·u > 0} where generator and verifier agree. In the plane across the cone, polar
coordinates leave a smooth integrand once the angles are split where a sign changes, so that
Gauss–Legendre converges fast; a coordinate outside that plane is normal and takes Gauss–Hermite.
The symmetry (x, y, y′) → (−x, −y, −y′) is used up by u: both classes are in it.

Everything on the device is float32; NumPy makes the nodes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.numpy.linalg import norm, solve
from jaxtyping import Array, Float

_RADII = 18
_NORMALS = 5
_REACH = 5.5  # standard deviations; what lies beyond weighs 1e-7
_STEPS = 40  # Newton; 19 were the most seen, at l2 = 1e-6
_TOLERANCE = 1e-5  # on the last Newton step, relative to the minimiser

Scalar = Float[Array, ""] | float


def legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on [0, 1], float64."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, weights / 2


@jax.default_matmul_precision("highest")
def sector(
    low: Scalar, high: Scalar, mean: Float[Array, "2"], angles: int
) -> tuple[Float[Array, "2 nodes"], Float[Array, " nodes"]]:
    """Points and weights of N(mean, I₂) on the sector low < angle < high (radians).

    The weights sum to the sector's probability. `angles` rays carry 18 radii each, from 0 or 5.5
    standard deviations before the densest point of the ray to 5.5 after it, closer together at the
    start: there a classifier of large norm turns from unsure to sure.
    """
    t, angle_weights = legendre(angles)
    s, radius_weights = legendre(_RADII)

    angle = low + (high - low) * t
    ray = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    centre = (mean @ ray)[:, None]
    start = jnp.maximum(centre - _REACH, 0)
    length = centre + jnp.sqrt(jnp.minimum(centre, 0) ** 2 + _REACH**2) - start
    radius = start + length * s * (1 + s) / 2
    squared_distance = (radius - centre) ** 2 + mean @ mean - centre**2
    density = jnp.exp(-squared_distance / 2) / (2 * jnp.pi)
    area = (
        (high - low) * angle_weights[:, None] * length * ((1 + 2 * s) / 2 * radius_weights) * radius
    )
    return (ray[:, :, None] * radius).reshape(2, -1), (area * density).ravel()


def with_normal(
    points: Float[Array, "2 nodes"], weights: Float[Array, " nodes"], mean: Scalar
) -> tuple[Float[Array, "3 more_nodes"], Float[Array, " more_nodes"]]:
    """Add an independent third coordinate, N(mean, 1), by Gauss–Hermite."""
    x, normal_weights = np.polynomial.hermite_e.hermegauss(_NORMALS)
    third = jnp.broadcast_to((mean + x)[:, None], (_NORMALS, weights.size)).reshape(1, -1)
    weights = (normal_weights / normal_weights.sum())[:, None] * weights
    return jnp.concatenate([jnp.tile(points, _NORMALS), third]), weights.ravel()


@jax.default_matmul_precision("highest")
def minimiser(
    points: Float[Array, "k nodes"], weights: Float[Array, " nodes"], learner: str, l2: Scalar
) -> Float[Array, " k"]:
    """argmin over w of E[ℓ(u·w)] + (l2/2)‖w‖², u at `points` with probabilities ∝ `weights`.

    `learner` "ridge": ℓ(z) = (1−z)²/2, one linear system. "logistic": ℓ(z) = log(1+e⁻ᶻ), Newton
    from 0 until the step is 1e-5 of w. It needs no damping: in one dimension the gradient is
    concave beyond 0, so Newton cannot overshoot, and in two and three no step was seen to. NaN
    where no weight is left.
    """
    weights = weights / weights.sum()
    ridge = l2 * jnp.eye(len(points))
    if learner == "ridge":
        return solve((points * weights) @ points.T + ridge, points @ weights)

    def newton_step(w):
        z = w @ points
        tail = jnp.exp(-jnp.abs(z))
        doubt = weights * jnp.where(z > 0, tail, 1) / (1 + tail)  # −ℓ′(z)
        curvature = weights * tail / (1 + tail) ** 2  # ℓ″(z)
        return solve((points * curvature) @ points.T + ridge, points @ doubt - l2 * w)

    def unfinished(state):
        i, w, step = state
        return (i < _STEPS) & (norm(step) > _TOLERANCE * norm(w))

    def newton(state):
        i, w, step = state
        return i + 1, w + step, newton_step(w + step)

    origin = jnp.zeros(len(points))
    _, w, step = lax.while_loop(unfinished, newton, (0, origin, newton_step(origin)))
    return w + step
