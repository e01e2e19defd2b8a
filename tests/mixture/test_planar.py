"""What is kept, as nodes in a plane: against closed forms, scipy, a million points, more nodes."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evolved import BASE, measure, numbers
from sampled import VALUES
from scipy.integrate import dblquad
from scipy.special import expit

from synthjax.mixture import planar, theory

# Factors of the density of u by (u, right): the definitions once more, for scipy to integrate.
INTEGRANDS = {
    ("teacher", "linear", "none"): lambda u, w, v: u @ w > 0,
    ("teacher", "linear", "linear"): lambda u, w, v: (u @ w > 0) & (u @ v > 0),
    ("teacher", "logistic", "linear"): lambda u, w, v: (
        (u @ v > 0) * expit((u @ w) / VALUES["temperature"])
    ),
}


@pytest.mark.parametrize("size", [1, 40])  # 40: a generator that is nearly sure
@pytest.mark.parametrize("kinds", INTEGRANDS, ids=" ".join)
def test_moments_of_the_teacher(kinds, size):
    """P(kept) and E[u; kept] in float64 within 1e-6 of scipy's adaptive quadrature in the plane."""
    features, generator, verifier = kinds
    a, b = 0.9, 0.6
    w, v = size * np.array([np.cos(a), np.sin(a)]), np.array([np.cos(b), -np.sin(b)])
    with jax.enable_x64(True):
        x = numbers()
        chosen = BASE | dict(features=features, generator=generator, verifier=verifier)
        source, _ = measure(chosen, x, [*w, 0.0], [*v, 0.0])
        points = np.concatenate([source.points, source.offset[None]])
        mass = float(source.weights.sum())
        first = np.asarray(points * source.weights).sum(1) @ np.asarray(source.axes)

    def density(angle, r):
        u = r * np.array([np.cos(angle), np.sin(angle)])
        return INTEGRANDS[kinds](u, w, v) * r * np.exp(-(r**2) / 2) / np.pi

    edges = np.sort([angle + turn for angle in (a, -b) for turn in (-np.pi / 2, np.pi / 2)])
    edges = [*edges, edges[0] + 2 * np.pi]

    def integral(factor):
        return sum(
            dblquad(lambda t, r: factor(t, r) * density(t, r), 0, 12, low, high, epsabs=1e-9)[0]
            for low, high in itertools.pairwise(edges)
        )

    assert mass == pytest.approx(integral(lambda t, r: 1), abs=1e-6)
    assert first[0] == pytest.approx(integral(lambda t, r: r * np.cos(t)), abs=1e-6)
    assert first[1] == pytest.approx(integral(lambda t, r: r * np.sin(t)), abs=1e-6)


def test_closed_forms_of_a_wedge():
    """Linear guesses and verifier: P(kept), h and C of the teacher in closed form."""
    a, b = 0.8, 0.5
    w, v = np.array([np.cos(a), np.sin(a), 0]), np.array([np.cos(b), -np.sin(b), 0])
    c = a + b
    with jax.enable_x64(True):
        source, fractions = measure(BASE, numbers(), w, v)
        u = np.asarray(source.axes).T @ np.concatenate([source.points, source.offset[None]])
        weights = np.asarray(source.weights)
    np.testing.assert_allclose(weights.sum(), 1 - c / np.pi, atol=1e-6)
    np.testing.assert_allclose((weights * u).sum(1), (w + v) / np.sqrt(2 * np.pi), atol=1e-6)
    plus, minus = (s / np.linalg.norm(s) for s in (w + v, w - v))
    second = (weights * u) @ u.T
    expected = (1 - c / np.pi) * np.eye(3) + np.sin(c) / np.pi * (
        np.outer(plus, plus) - np.outer(minus, minus)
    )
    np.testing.assert_allclose(second[:2, :2], expected[:2, :2], atol=1e-6)
    p, phi, _ = theory.cone_rates(a, b, c)
    np.testing.assert_allclose(fractions[1], p, atol=1e-5)
    np.testing.assert_allclose(fractions[2], phi * (1 - p), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("verifier", ["none", "oracle", "linear", "margin", "self"])
@pytest.mark.parametrize("generator", ["linear", "logistic"])
def test_mixture_moments_against_a_million_points(generator, verifier):
    """P(kept), its parts and E[u; kept], within 4 standard errors of independent draws."""
    rng = np.random.default_rng(5)
    count, signal, keep = 10**6, 1.2, 0.4
    a, b = 0.9, 0.6
    w = 1.5 * np.array([np.cos(a), 0.3, np.sin(a)])
    v = np.array([np.cos(b), np.sin(b), 0.0])
    x = numbers(jnp.float32, signal=signal, keep=keep, temperature=0.7)
    chosen = BASE | dict(features="mixture", generator=generator, verifier=verifier)
    source, fractions = measure(chosen, x, w, v)
    u = np.asarray(source.axes).T @ np.concatenate([source.points, source.offset[None]])
    first = (np.asarray(source.weights) * u).sum(1)

    y = rng.choice([-1.0, 1.0], count)
    z = rng.standard_normal((count, 3)) + signal * y[:, None] * np.eye(3)[0]
    sure = rng.random(count) < 1 / (1 + np.exp(-(z @ w) / 0.7))
    guess = np.where(sure if generator == "logistic" else z @ w > 0, 1.0, -1.0)
    turned = guess[:, None] * z
    score = {"margin": turned @ v, "self": turned @ w}.get(verifier)
    kept = np.ones(count, bool)
    if score is not None:
        kept = score >= np.quantile(score, 1 - keep)
    elif verifier != "none":
        kept = (guess == y) if verifier == "oracle" else turned @ v > 0
    for got, expected in (
        (fractions[0], guess == y),
        (fractions[2], kept & (guess == y)),
        (fractions[3], kept & (guess != y)),
        *zip(first, (turned * kept[:, None]).T, strict=True),
    ):
        error = 4 * expected.std() / np.sqrt(count)
        assert abs(float(got) - expected.mean()) < error + 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("teacher", "linear"), ("mixture", "logistic")], ids=" ".join)
@pytest.mark.parametrize("verifier, keep", [("margin", 0.5), ("margin", 0.8), ("self", 0.8)])
def test_nodes_suffice_where_a_threshold_cuts(kinds, verifier, keep):
    """All moments in float64 within 1e-6 of those from four times the nodes in each direction."""
    chosen = (
        BASE | dict(zip(("features", "generator"), kinds, strict=True)) | {"verifier": verifier}
    )
    w = [0.8, 0.3 * (verifier == "margin"), 0.7]

    def moments():
        source, fractions = measure(chosen, numbers(keep=keep), w, [0.8, 0.6, 0.0])
        u = np.concatenate([source.points, source.offset[None]])
        weighted = u * np.asarray(source.weights)
        return np.concatenate([weighted.sum(1), (weighted @ u.T).ravel(), fractions])

    with jax.enable_x64(True):
        own = moments()
        with mock.patch.multiple(planar, ACROSS=88, RADII=96, RAYS={1: 160, 2: 96, 3: 64}):
            many = moments()
    np.testing.assert_allclose(own, many, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [pytest.param(5.0, marks=pytest.mark.long), 100.0])
@pytest.mark.parametrize("features", ["teacher", "mixture"])
@pytest.mark.parametrize(
    "verifier, selection",
    [("linear", "prune"), ("margin", "prune"), ("oracle", "best_of_k"), ("linear", "best_of_k")],
)
def test_nodes_suffice_for_a_generator_that_is_nearly_sure(
    features, verifier, selection, sharpness
):
    """Moments within 1e-6 of those from many times the nodes, whatever norm over temperature."""
    chosen = BASE | dict(generator="logistic", features=features)
    chosen |= dict(verifier=verifier, selection=selection)
    w = sharpness * np.array([np.cos(1.0), np.sin(1.0), 0.0])

    def moments():
        x = numbers(temperature=1.0, k=4)
        source, fractions = measure(chosen, x, w, [np.cos(0.5), np.sin(0.5), 0.0])
        weighted = source.points * source.weights
        return np.concatenate([weighted.sum(1), (weighted @ source.points.T).ravel(), fractions])

    with jax.enable_x64(True):
        own = moments()
        with mock.patch.multiple(planar, ACROSS=200, RADII=96, RAYS={1: 320, 2: 192, 3: 128}):
            many = moments()
    np.testing.assert_allclose(own, many, atol=1e-6)
