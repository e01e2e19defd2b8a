"""The fixed point: found everywhere, and the one that other ways find."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evolved import BASE, evolved, measure, numbers
from sampled import limit
from scipy import optimize

from synthjax.mixture import fixed_point
from synthjax.mixture.planar import Source

GAMMAS, PENALTIES = (0.01, 0.1, 0.5, 1.0, 3.0, 10.0), (1e-4, 1e-3, 1e-2, 0.1, 1.0)
MEASURES = {
    "linear": {},
    "none": dict(verifier="none"),
    "oracle, mixture": dict(verifier="oracle", features="mixture"),
    "margin, mixture": dict(verifier="margin", features="mixture"),
    "best of k": dict(selection="best_of_k", generator="logistic"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.long if i % 4 else ())
        for i, (name, case) in enumerate(MEASURES.items())
    ],
)
def test_the_fixed_point_is_found(case):
    """γ from 0.01 to 10 and λ from 1e-4 to 1, two generations each."""
    for gamma, l2 in itertools.product(GAMMAS, PENALTIES):
        found = evolved(2, n=1e4, d=1e4 * gamma, l2=l2, **{"learner": "logistic"} | case)
        assert found.converged.all(), (gamma, l2)
        assert np.isfinite(found.accuracy).all()


@pytest.mark.slow
@pytest.mark.parametrize("case", MEASURES.values(), ids=MEASURES)
def test_many_examples_give_the_population_limit(case):
    """Logistic regression; ridge shares all but its closed form."""
    changes = case | {"learner": "logistic"}
    found = evolved(2, d=100, **changes | {"n": 1e9})
    assert found.converged.all()
    np.testing.assert_allclose(found.accuracy, limit(d=100, **changes).accuracy, atol=5e-4)


def root_by_scipy(u, weights, gamma, l2):
    """(α, σ) from the equations in NumPy, on plain nodes, by MINPACK's hybrid method."""
    g, g_weights = np.polynomial.hermite_e.hermegauss(40)
    g_weights = g_weights / g_weights.sum()
    weights = weights / weights.sum()

    def equations(unknown):
        alpha, (sigma, chi) = unknown[:3], np.exp(unknown[3:])
        h = (alpha @ u)[:, None] + sigma * g
        x = np.where(h > 0, h, np.minimum(h + chi, 0))
        for _ in range(12):
            s = 1 / (1 + np.exp(x))
            x = x - (x - chi * s - h) / (1 + chi * s * (1 - s))
        s = 1 / (1 + np.exp(x))
        curvature = s * (1 - s)
        zeta = weights @ (curvature / (1 + chi * curvature)) @ g_weights
        pull = (u * weights) @ (s @ g_weights)
        square = weights @ (s**2 @ g_weights)
        return [
            *(l2 * alpha - pull),
            sigma - np.sqrt(gamma * square) / (l2 + zeta),
            chi - gamma / (l2 + zeta),
        ]

    start = np.array([1.0, 0.0, 0.0, 0.0, np.log(gamma / (l2 + 0.1))])
    found = optimize.root(equations, start, tol=1e-10)
    assert found.success, found.message
    return found.x[:3], np.exp(found.x[3])


@pytest.mark.slow
@pytest.mark.parametrize("gamma, l2", [(0.05, 0.01), (0.5, 0.1), (2.0, 0.05)])
def test_an_independent_solver_finds_the_same(gamma, l2):
    with jax.enable_x64(True):
        source, _ = measure(BASE, numbers(), [0.6, 0.1, 0.5], [1.0, 0.0, 0.0])
        mass = source.weights.sum()
        source = source._replace(weights=source.weights / mass)
        alpha, sigma, fine = jax.jit(fixed_point.logistic)(
            [source], jnp.asarray(l2), jnp.asarray(gamma)
        )
        u = np.asarray(source.axes).T @ np.concatenate([source.points, source.offset[None]])
    # Across its plane the source is a normal that α has no part in.
    expected, spread = root_by_scipy(u, np.asarray(source.weights), gamma, l2)
    assert fine
    np.testing.assert_allclose(alpha, expected, atol=1e-5)
    assert float(sigma) == pytest.approx(spread, abs=1e-5)


def test_a_normal_across_the_plane_by_nodes_along_it():
    """Its part in the equations by Stein's identity against Gauss–Hermite along the third axis."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        points, weights = rng.standard_normal((2, 5)), np.full(5, 0.2)
        offset = np.array([0.7, 0.7, -0.7, 0.7, -0.7])
        x = jnp.array([0.5, -0.3, 0.8, np.log(0.6), np.log(1.3)])
        folded = Source(jnp.eye(3), jnp.array(points), jnp.array(offset), jnp.array(weights))
        g, g_weights = np.polynomial.hermite_e.hermegauss(30)
        g_weights = g_weights / g_weights.sum()
        # The third axis into the plane: rotate it there for nodes, two of three axes at a time.
        along = (offset[:, None] + g).ravel()
        spread = (weights[:, None] * g_weights).ravel()
        first, second = (np.repeat(p, 30) for p in points)
        # u·α by nodes alone: put α's parts along the first two axes into one of them.
        size = np.hypot(0.5, -0.3)
        unit = np.array([0.5, -0.3]) / size
        together = unit[0] * first + unit[1] * second
        flat = Source(
            jnp.array([[*unit, 0.0], [0.0, 0.0, 1.0], [-unit[1], unit[0], 0.0]]),
            jnp.array(np.stack([together, along])),
            jnp.array(-unit[1] * first + unit[0] * second),
            jnp.array(spread),
        )
        residual = jax.jit(fixed_point._residual)
        for_folded = residual(x, [folded], jnp.array(0.1), jnp.array(0.4))
        for_flat = residual(x, [flat], jnp.array(0.1), jnp.array(0.4))
    np.testing.assert_allclose(for_folded, for_flat, atol=1e-6)


def test_ridge_is_the_fixed_point_of_the_squared_loss():
    """ζ = 1/(1+χ), ℓ′(x) = −(1−h)/(1+χ): the equations hold at what the closed forms give."""
    gamma, l2 = 0.7, 0.05
    with jax.enable_x64(True):
        source, _ = measure(BASE, numbers(), [0.6, 0.1, 0.5], [1.0, 0.0, 0.0])
        source = source._replace(weights=source.weights / source.weights.sum())
        given = [source], jnp.asarray(l2), jnp.asarray(gamma)
        alpha, sigma, _ = jax.jit(fixed_point.ridge)(*given)
        u = np.asarray(source.axes).T @ np.concatenate([source.points, source.offset[None]])
    alpha, sigma, weights = np.asarray(alpha), float(sigma), np.asarray(source.weights)
    slope = l2 + 1 - gamma
    chi = (-slope + np.sqrt(slope**2 + 4 * l2 * gamma)) / (2 * l2)
    zeta = 1 / (1 + chi)
    assert chi == pytest.approx(gamma / (l2 + zeta))
    left = 1 - alpha @ u
    square = (weights @ left**2 + sigma**2) / (1 + chi) ** 2
    pull = (weights * left * u).sum(1) / (1 + chi)
    np.testing.assert_allclose(l2 * alpha, pull, atol=1e-6)
    assert sigma**2 == pytest.approx(gamma * square / (l2 + zeta) ** 2, rel=1e-6)
