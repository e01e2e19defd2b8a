"""The nodes against scipy's integrals, the minimisers against roots found by other means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, minimize
from scipy.special import expit
from scipy.stats import multivariate_normal, norm

from synthjax.mixture.quadrature import Source, beyond, edges, logistic, moments, ridge, sector

pytestmark = pytest.mark.slow

ANGLES = 32


def minimiser(points, weights, learner, l2):
    """Of one source whose frame is the whole space."""
    dimensions = len(points)
    source = Source(jnp.eye(dimensions)[None], points[None], weights[None])
    penalty = jnp.full(dimensions, l2)
    if learner == "ridge":
        return ridge(moments(source), penalty)
    return logistic([source], penalty, dimensions)


def between(low, high):
    return jnp.array([low, high])


def _wedge_probability(low, high, mean):
    """P(low < angle of x < high), width below π, as a bivariate orthant."""
    edges = np.array([[-np.sin(low), np.cos(low)], [np.sin(high), -np.cos(high)]])
    cov = edges @ edges.T
    return multivariate_normal.cdf(edges @ mean, np.zeros(2), cov, abseps=1e-9, releps=0)


@pytest.mark.parametrize("mean", [(0.0, 0.0), (1.0, 0.5), (-3.0, 1.0), (5.0, 0.0), (0.0, -10.0)])
@pytest.mark.parametrize("low, high", [(-1.5, 1.5), (0.3, 2.0), (-0.05, 0.02), (2.0, 4.9)])
def test_a_sector_weighs_its_probability(low, high, mean):
    mean = np.asarray(mean)
    _, weights = jax.jit(sector, static_argnums=2)(between(low, high), mean, ANGLES)
    tolerance = 2e-6 if np.linalg.norm(mean) <= 5 else 2e-4
    assert weights.sum() == pytest.approx(_wedge_probability(low, high, mean), abs=tolerance)


def test_a_half_plane_has_the_moments_of_a_truncated_normal():
    mean = np.array([0.7, -1.2])
    points, weights = sector(between(-np.pi / 2, np.pi / 2), mean, ANGLES)
    kept = norm.cdf(mean[0])
    first = mean[0] * kept + norm.pdf(mean[0])
    second = (1 + mean[0] ** 2) * kept + mean[0] * norm.pdf(mean[0])
    np.testing.assert_allclose(
        points @ weights, [first, kept * mean[1]], atol=2e-6, err_msg="first moments"
    )
    np.testing.assert_allclose(
        (points * weights) @ points.T,
        [[second, first * mean[1]], [first * mean[1], kept * (1 + mean[1] ** 2)]],
        atol=5e-6,
    )


@pytest.mark.parametrize("offset", [-1.0, 0.0, 0.8, 3.0])
def test_a_bend_splits_the_sector_at_a_line(offset):
    normal, mean = np.array([0.6, 0.8]), np.array([1.0, 0.3])
    low, high = np.arctan2(0.8, 0.6) + np.array([-1, 1]) * np.pi / 2
    split = jnp.concatenate([between(low, high), between(low, high)[1:] + np.pi])
    points, weights = sector(split, mean, ANGLES, (normal, offset))
    above = weights[normal @ points > offset].sum()
    assert above == pytest.approx(norm.sf(offset - normal @ mean), abs=3e-6)


def test_edges_split_a_half_plane_once_at_each_line():
    found = edges(1.0, [0.0, 2.0, 1.0 + np.pi])
    expected = [1 - np.pi / 2, 1 - np.pi / 2, 2 - np.pi / 2, np.pi / 2, 1 + np.pi / 2]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_beyond_has_the_moments_of_a_truncated_normal():
    start = np.array([-np.inf, -1e6, -2.5, 0.0, 1.7, 1e6, np.inf])
    points, weights = beyond(jnp.asarray(start))
    density = norm.pdf(start)
    edge = np.where(density > 0, start, 0) * density
    expected = [norm.sf(start), density, norm.sf(start) + edge]
    found = [(weights * points**power).sum(0) for power in range(3)]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_what_lies_outside_a_frame_is_normal():
    """The same with a normal coordinate integrated by the learner as with it among the points."""
    points, weights = sector(between(-1.2, 1.2), np.array([0.6, 0.2]), ANGLES)
    frame = jnp.linalg.qr(jnp.array(np.random.default_rng(1).standard_normal((3, 3))))[0]
    x, q = np.polynomial.hermite_e.hermegauss(9)
    wider = jnp.concatenate([jnp.tile(points, 9), jnp.repeat(x, weights.size)[None]])
    wider_weights = (q[:, None] / q.sum() * weights).ravel()
    flat = Source(frame[None, :, :2], points[None], weights[None])
    full = Source(frame[None], wider[None], wider_weights[None])
    penalty = jnp.array([0.01, 0.3, 2.0])
    np.testing.assert_allclose(
        logistic([flat], penalty, 3), logistic([full], penalty, 3), atol=1e-4
    )
    np.testing.assert_allclose(
        ridge(moments(flat), penalty), ridge(moments(full), penalty), atol=1e-5
    )


@pytest.mark.parametrize("l2", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
def test_the_logistic_norm_solves_its_one_dimensional_equation(l2):
    """Labels sign(x₀), so w = (ω, 0) with l2·ω = E[z σ(−ωz)], z half-normal: norms up to 90."""
    points, weights = sector(between(-np.pi / 2, np.pi / 2), np.zeros(2), 48)
    w = minimiser(points, weights, "logistic", l2)

    def slope(size):
        def pull(z):
            return 2 * norm.pdf(z) * z * expit(-size * z)

        ends = 0, min(20 / size, 6), 12
        pieces = (quad(pull, *ends[i : i + 2], epsabs=1e-13)[0] for i in (0, 1))
        return l2 * size - sum(pieces)

    assert w[0] == pytest.approx(brentq(slope, 1e-3, 1e3), rel=1e-3)
    assert abs(w[1]) < 1e-4 * w[0]


@pytest.mark.parametrize("l2", [1e-6, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("mean", [(0.0, 0.0), (2.0, -1.0), (-1.0, 4.0)])
def test_the_logistic_minimiser_is_the_one_scipy_finds(l2, mean):
    """Same nodes, float64 and L-BFGS: two centres, unequal weights."""
    centres = [sign * np.asarray(mean) for sign in (1, -1)]
    sides = [sector(between(-1.2, 1.2), centre, ANGLES) for centre in centres]
    points = jnp.concatenate([side[0] for side in sides], axis=1)
    weights = jnp.concatenate([sides[0][1], 0.4 * sides[1][1]])
    x, q = np.asarray(points, float), np.asarray(weights, float)
    q /= q.sum()

    def objective(w):
        z = w @ x
        value = q @ np.logaddexp(0, -z) + l2 / 2 * w @ w
        return value, l2 * w - x @ (q * expit(-z))

    exact = minimize(objective, np.zeros(2), jac=True, method="BFGS", options=dict(gtol=1e-11))
    w = minimiser(points, weights, "logistic", l2)
    np.testing.assert_allclose(w, exact.x, atol=2e-4 * np.linalg.norm(exact.x))


def test_ridge_is_its_linear_system_and_needs_no_penalty():
    points, weights = sector(between(-1.0, 1.3), np.array([1.0, 0.3]), ANGLES)
    x, q = np.asarray(points, float), np.asarray(weights, float) / float(weights.sum())
    for l2 in (0.0, 0.5):
        exact = np.linalg.solve((x * q) @ x.T + l2 * np.eye(2), x @ q)
        np.testing.assert_allclose(minimiser(points, weights, "ridge", l2), exact, rtol=1e-4)


@pytest.mark.parametrize("learner", ["ridge", "logistic"])
def test_nothing_kept_gives_nan(learner):
    points, weights = sector(between(-1.0, 1.3), np.zeros(2), ANGLES)
    assert jnp.isnan(minimiser(points, 0 * weights, learner, 0.1)).all()
