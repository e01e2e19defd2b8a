"""Closed forms against frequencies over a dense sample of x, scipy, and each other."""

import jax.numpy as jnp
import numpy as np
import pytest
from sampled import exact_agreement
from scipy.stats import norm, qmc

from synthjax.mixture import theory

# Rates and angles ---------------------------------------------------------------------------------


def test_breakdown_point():
    np.testing.assert_allclose(
        theory.breakdown_point(np.array([1, 1, 0.8, 0]), np.array([1, 0, 0.2, 0.5])),
        [0.5, 1, 0.8, 0],
        rtol=1e-6,
    )
    assert theory.breakdown_point(1, 0.25) == pytest.approx(0.8)
    assert np.isnan(theory.breakdown_point(0.0, 0.0))


@pytest.mark.parametrize("rho", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_place_puts_unit_vectors_at_their_angles(rho):
    a, b = np.meshgrid(np.linspace(0, np.pi, 7), np.linspace(0, np.pi, 6))
    vectors = truth, g, v = [np.asarray(x) for x in theory.place(a, b, rho)]
    for x in vectors:
        assert x.shape == (6, 7, 3)
        np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose((g * truth).sum(-1), np.cos(a), atol=1e-6)
    np.testing.assert_allclose(theory.angle_between(v, truth), b, atol=1e-6)
    # Orthogonally to the truth, the two correlate by rho.
    np.testing.assert_allclose(
        (g[..., 1:] * v[..., 1:]).sum(-1), rho * np.sin(a) * np.sin(b), atol=1e-6
    )


def sobol_normals(log_points, seed=0):
    """2^log_points standard normal vectors in R³ and their negatives."""
    uniform = qmc.Sobol(3, seed=seed).random_base2(log_points)
    x = norm.ppf(np.clip(uniform, 1e-12, 1 - 1e-12))
    return np.concatenate([x, -x])


@pytest.mark.parametrize("a, b, rho", [(0.9, 0.7, 0.0), (2.2, 0.4, 0.5), (0.3, 2.0, -0.8)])
def test_linear_verifier_rates_are_frequencies(a, b, rho):
    x = sobol_normals(16)
    y, guess, verdict = (np.sign(x @ np.asarray(u)) for u in theory.place(a, b, rho))
    right, kept = guess == y, guess == verdict
    frequencies = [1 - right.mean(), kept[right].mean(), kept[~right].mean()]
    np.testing.assert_allclose(theory.linear_verifier_rates(a, b, rho), frequencies, atol=5e-4)


def test_linear_verifier_rates_at_the_ends():
    b = np.linspace(0.1, 3.0, 12)
    p, phi, psi = theory.linear_verifier_rates(0.0, b)  # no guess is wrong
    assert (p == 0).all() and np.isnan(psi).all()
    np.testing.assert_allclose(phi, 1 - b / np.pi, atol=1e-6)
    p, phi, psi = theory.linear_verifier_rates(np.pi, b)  # no guess is right
    assert (p == 1).all() and np.isnan(phi).all()
    np.testing.assert_allclose(psi, b / np.pi, atol=1e-6)
    p, phi, psi = theory.linear_verifier_rates(0.6, 0.0)  # an oracle
    assert phi == pytest.approx(1) and psi == pytest.approx(0, abs=1e-6)
    p, phi, psi = theory.linear_verifier_rates(0.6, 0.6, 1.0)  # the generator itself
    assert phi == pytest.approx(1) and psi == pytest.approx(1)


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.6])
def test_below_breakdown_means_angles_below_pi(rho):
    a, b = np.meshgrid(np.linspace(0.05, 3.1, 40), np.linspace(0.05, 3.1, 37))
    p, phi, psi = theory.linear_verifier_rates(a, b, rho)
    clear = np.abs(a + b - np.pi) > 1e-3
    below = np.asarray(p < theory.breakdown_point(phi, psi))
    np.testing.assert_array_equal(below[clear], (a + b < np.pi)[clear])


# Accuracy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", [0.0, 0.4, 1.0, 2.5, 5.0, 10.0])
def test_agreement_is_two_orthants(signal):
    angles = np.linspace(0, np.pi, 25)
    computed = theory.agreement(angles, "mixture", signal)
    exact = [exact_agreement(angle, "mixture", signal) for angle in angles[1:-1]]
    np.testing.assert_allclose(computed, [1, *exact, 0], atol=1e-6)
    if signal == 0:
        np.testing.assert_allclose(computed, 1 - angles / np.pi, atol=1e-6)
    np.testing.assert_allclose(
        theory.test_agreement(angles, "mixture", signal),
        norm.cdf(signal * np.cos(angles)),
        atol=1e-6,
    )


def test_agreement_of_the_teacher():
    angles = np.linspace(0, np.pi, 9)
    for measure in (theory.agreement, theory.test_agreement):
        np.testing.assert_allclose(measure(angles, "teacher", 7.0), np.linspace(1, 0, 9), atol=1e-6)


# Linear generator and verifier, teacher -----------------------------------------------------------


def unit(x):
    return x / np.linalg.norm(x)


def test_each_generation_halves_the_angle_to_the_verifier():
    _, g, v = (np.asarray(x, float) for x in theory.place(1.1, 0.4, 0.2))
    w = g
    for generation in range(6):
        np.testing.assert_allclose(
            theory.population_direction(g, v, generation), w, atol=1e-6, err_msg=str(generation)
        )
        w = unit(w + v)


def test_population_direction_at_the_ends():
    _, g, _ = theory.place(1.1, 0.4, 0.2)
    np.testing.assert_allclose(theory.population_direction(g, g, 3), g, atol=1e-6)
    assert jnp.isnan(theory.population_direction(g, -g, 3)).all()


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.7])
def test_the_first_boundary_is_a_plus_b_equals_pi(rho):
    a = np.linspace(0.05, 3.1, 30)
    np.testing.assert_allclose(theory.boundary(a, 1, rho), np.pi - a, atol=2e-5)


def test_boundary_at_the_ends():
    # g = w*: w_T lies b(1 − 2⁻ᵀ) away from it.
    assert theory.boundary(0.0, 3) == pytest.approx(np.pi / 2 / (1 - 1 / 8), abs=1e-5)
    assert np.isnan(theory.boundary(np.array([0.0, np.pi]), 1)).all()
    assert np.isnan(theory.boundary(np.array([-0.1, 3.2]), 2)).all()
