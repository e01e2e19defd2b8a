"""State evolution: its integrals, its fixed point, and what simulation makes of its predictions."""

import dataclasses
import itertools
import json
from functools import cache, partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampled import KINDS, VALUES, limit
from scipy.integrate import dblquad

from synthjax import mixture
from synthjax.mixture import evolution, theory
from synthjax.mixture.data import Numbers
from synthjax.mixture.evolution import Evolution, _kept, _logistic, _residual, _ridge, _Source
from synthjax.mixture.spec import Spec
from synthjax.protocol.spec import SpecError

pytestmark = pytest.mark.evolution

BASE = KINDS | {"verifier": "linear"}


def numbers(dtype=float, **changes):
    return Numbers(
        **{
            name: jnp.asarray(value, int if name == "k" else dtype)
            for name, value in (VALUES | changes).items()
        }
    )


@cache
def jitted(generations, **kinds):
    return jax.jit(partial(evolution.evolution, generations=generations, **kinds))


def evolved(generations=2, d=100, **changes) -> Evolution:
    kinds = {name: changes.pop(name, value) for name, value in BASE.items()}
    return jitted(generations, **kinds)(d=jnp.float32(d), **numbers(**changes)._asdict())


def overlap(found):
    w = np.asarray(found.w)
    return w[:, 0] / np.linalg.norm(w, axis=1)


def measure(kinds, numbers, w, v):
    """A compiled `_kept`; by itself every operation would be compiled alone."""
    return jax.jit(lambda numbers, w, v: _kept(kinds, numbers, False, w, v))(
        numbers, jnp.asarray(w, float), jnp.asarray(v, float)
    )


SETTINGS = [
    (
        dict(n=1000, d=100, theta_gen=0.9, theta_ver=0.3, l2=0.01),
        (0.8535, 0.9205, 0.9201),
        (0.8546, 0.9187, 0.9203),
    ),
    (
        dict(n=500, d=200, theta_gen=1.2, theta_ver=0.6, l2=0.1),
        (0.6017, 0.6810, 0.6811),
        (0.6031, 0.6783, 0.6800),
    ),
]


class TestPublished:
    """The predictions and the 60 direct trajectories that the project began with."""

    @pytest.mark.parametrize("settings, predicted, simulated", SETTINGS)
    def test_predictions(self, settings, predicted, simulated):
        """Within 1e-3: which of d, d − 1, … directions are noise was not written down."""
        found = evolved(generations=6, error_correlation=0.0, **settings)
        np.testing.assert_allclose(overlap(found)[[1, 3, 6]], predicted, atol=1e-3)
        np.testing.assert_allclose(overlap(found)[[1, 3, 6]], simulated, atol=4e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize("settings, predicted, simulated", SETTINGS)
    def test_direct_simulation(self, settings, predicted, simulated):
        """200 trajectories: within 3 standard errors plus 2/√(n·trajectories), see below."""
        spec = Spec(
            engine="direct",
            verifier="linear",
            learner="ridge",
            generations=6,
            trajectories=200,
            **settings,
        )
        agree(mixture.run(spec), mixture.run(dataclasses.replace(spec, engine="state_evolution")))

    def test_logistic(self):
        found = evolved(1, n=300, d=60, theta_gen=0.9, theta_ver=0.7, error_correlation=0.0,
                        l2=0.01, learner="logistic")  # fmt: skip
        assert overlap(found)[1] == pytest.approx(0.762, abs=1e-3)  # simulated 0.760 ± 0.001


def agree(simulated, predicted):
    """Mean accuracy within 3 standard errors + 2/√(n·trajectories) of state evolution."""
    n = simulated.n if "n" in simulated.dims else mixture_spec(simulated)["n"]
    repeats = simulated.sizes["trajectory"]
    error = simulated.accuracy.std("trajectory", ddof=1) / np.sqrt(repeats)
    away = abs(simulated.accuracy.mean("trajectory") - predicted.accuracy.isel(trajectory=0))
    score = (away / (3 * error + 2 / np.sqrt(n * repeats))).isel(generation=slice(1, None))
    assert float(score.max()) < 1, score.max()


def mixture_spec(results):
    return json.loads(results.attrs["spec"])


SIMULATED = {
    "linear": dict(verifier="linear", theta_gen=0.9, theta_ver=0.6),
    "linear, ridge": dict(verifier="linear", theta_gen=0.9, theta_ver=0.6, learner="ridge"),
    "none, more features": dict(theta_gen=0.9, d=30_000),
    "none, more features, ridge": dict(theta_gen=0.9, d=30_000, learner="ridge"),
    "oracle, mixture": dict(learner="ridge", theta_gen=1.0, verifier="oracle", features="mixture"),
    "noisy, logistic guesses": dict(
        theta_gen=0.9, verifier="noisy", phi=0.9, psi=0.3, generator="logistic", temperature=0.5
    ),
    "margin": dict(theta_gen=0.9, verifier="margin", theta_ver=0.5, keep=0.4),
    "self, mixture": dict(theta_gen=0.9, verifier="self", keep=0.5, features="mixture"),
    "flip, linear": dict(
        learner="ridge", generator="flip", verifier="linear", theta_ver=0.6, p=0.3
    ),
    "best of 4": dict(
        theta_gen=0.9,
        verifier="linear",
        theta_ver=0.5,
        selection="best_of_k",
        generator="logistic",
        temperature=0.5,
    ),
    "mix, real": dict(initial="real", n_real=20_000, regime="mix", real_fraction=0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SIMULATED.values(), ids=SIMULATED)
def test_the_mean_of_matrix_free(case):
    """n = 20,000, d = 2000 (30,000 in one), three generations, 40 trajectories.

    A prediction off by 1 % of accuracy would be refused everywhere: the margin is below 0.006.
    """
    spec = dict(n=20_000, d=2000, generations=3) | case
    simulated = mixture.run(Spec(engine="matrix_free", trajectories=40, **spec))
    predicted = mixture.run(Spec(engine="state_evolution", trajectories=1, **spec))
    agree(simulated, predicted)
    for name in ("norm", "p_hat", "phi_hat", "psi_hat", "kept"):
        got = simulated[name].isel(generation=slice(1, None))
        expected = predicted[name].isel(generation=slice(1, None), trajectory=0)
        np.testing.assert_allclose(got.mean("trajectory"), expected, rtol=0.02, atol=2e-3)
    np.testing.assert_allclose(
        simulated.evolution_accuracy, predicted.accuracy.isel(trajectory=0), atol=1e-5
    )
    error = 3 * simulated.accuracy.std("trajectory").max() / np.sqrt(40)
    assert error + 2 / np.sqrt(20_000 * 40) < 0.006


# Factors of the density of u by (u, right): the definitions once more, for scipy to integrate.
INTEGRANDS = {
    ("teacher", "linear", "none"): lambda u, w, v: u @ w > 0,
    ("teacher", "linear", "linear"): lambda u, w, v: (u @ w > 0) & (u @ v > 0),
    ("teacher", "logistic", "linear"): lambda u, w, v: (
        (u @ v > 0) / (1 + np.exp(-(u @ w) / VALUES["temperature"]))
    ),
}


@pytest.mark.parametrize("kinds", INTEGRANDS, ids=" ".join)
def test_moments_of_the_teacher(kinds):
    """P(kept) and E[u; kept] in float64 within 1e-6 of scipy's adaptive quadrature in the plane."""
    features, generator, verifier = kinds
    a, b = 0.9, 0.6
    w, v = np.array([np.cos(a), np.sin(a)]), np.array([np.cos(b), -np.sin(b)])
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
        with mock.patch.multiple(evolution, _ACROSS=88, _RADII=96, _RAYS={1: 160, 2: 96, 3: 64}):
            many = moments()
    np.testing.assert_allclose(own, many, atol=1e-6)


GAMMAS, PENALTIES = (0.01, 0.1, 0.5, 1.0, 3.0, 10.0), (1e-4, 1e-3, 1e-2, 0.1, 1.0)
MEASURES = {
    "linear": {},
    "none": dict(verifier="none"),
    "oracle, mixture": dict(verifier="oracle", features="mixture"),
    "margin, mixture": dict(verifier="margin", features="mixture"),
    "best of k": dict(selection="best_of_k", generator="logistic"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MEASURES.values(), ids=MEASURES)
def test_the_fixed_point_is_found(case):
    """γ from 0.01 to 10 and λ from 1e-4 to 1, two generations each."""
    kinds = BASE | {"learner": "logistic"} | case
    grid = np.array(list(itertools.product(GAMMAS, PENALTIES)), np.float32)
    own = numbers(jnp.float32, n=10_000.0)._asdict()

    def one(point):
        gamma, l2 = point
        return evolution.evolution(generations=2, d=10_000 * gamma, **kinds, **own | {"l2": l2})

    found = jax.jit(lambda grid: jax.lax.map(one, grid))(grid)
    assert found.converged.all(), grid[~np.asarray(found.converged).all(1)]
    assert np.isfinite(found.accuracy).all()


def slow_fixed_point(u, weights, gamma, l2, steps=20_000):
    """Damped iteration of the equations in float64, on plain nodes; (α, σ)."""
    g, g_weights = np.polynomial.hermite_e.hermegauss(40)
    g_weights = g_weights / g_weights.sum()
    weights = weights / weights.sum()
    alpha, sigma, chi = np.zeros(3), 0.5, 1.0
    for _ in range(steps):
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
        new = (
            alpha + (pull - l2 * alpha) / (l2 + zeta),
            np.sqrt(gamma * square) / (l2 + zeta),
            gamma / (l2 + zeta),
        )
        moved = max(np.abs(new[0] - alpha).max(), abs(new[1] - sigma), abs(new[2] - chi))
        alpha, sigma, chi = (
            old + 0.3 * (fresh - old) for old, fresh in zip((alpha, sigma, chi), new, strict=True)
        )
        if moved < 1e-9:
            return alpha, sigma
    raise AssertionError("no convergence")


@pytest.mark.slow
@pytest.mark.parametrize("gamma, l2", [(0.05, 0.01), (0.5, 0.1), (2.0, 0.05)])
def test_an_independent_solver_finds_the_same(gamma, l2):
    with jax.enable_x64(True):
        source, _ = measure(BASE, numbers(), [0.6, 0.1, 0.5], [1.0, 0.0, 0.0])
        mass = source.weights.sum()
        source = source._replace(weights=source.weights / mass)
        alpha, sigma, fine = jax.jit(_logistic)([source], jnp.asarray(l2), jnp.asarray(gamma))
        u = np.asarray(source.axes).T @ np.concatenate([source.points, source.offset[None]])
    # Across its plane the source is a normal that α has no part in.
    expected, spread = slow_fixed_point(u, np.asarray(source.weights), gamma, l2)
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
        folded = _Source(jnp.eye(3), jnp.array(points), jnp.array(offset), jnp.array(weights))
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
        flat = _Source(
            jnp.array([[*unit, 0.0], [0.0, 0.0, 1.0], [-unit[1], unit[0], 0.0]]),
            jnp.array(np.stack([together, along])),
            jnp.array(-unit[1] * first + unit[0] * second),
            jnp.array(spread),
        )
        for_folded = _residual(x, [folded], jnp.array(0.1), jnp.array(0.4))
        for_flat = _residual(x, [flat], jnp.array(0.1), jnp.array(0.4))
    np.testing.assert_allclose(for_folded, for_flat, atol=1e-6)


def test_ridge_is_the_fixed_point_of_the_squared_loss():
    """ζ = 1/(1+χ), ℓ′(x) = −(1−h)/(1+χ): the equations hold at what the closed forms give."""
    gamma, l2 = 0.7, 0.05
    with jax.enable_x64(True):
        source, _ = measure(BASE, numbers(), [0.6, 0.1, 0.5], [1.0, 0.0, 0.0])
        source = source._replace(weights=source.weights / source.weights.sum())
        alpha, sigma, _ = _ridge([source], jnp.asarray(l2), jnp.asarray(gamma))
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


@pytest.mark.slow
@pytest.mark.parametrize("case", MEASURES.values(), ids=MEASURES)
def test_many_examples_give_the_population_limit(case):
    """Logistic regression; ridge shares all but its closed form."""
    changes = case | {"learner": "logistic"}
    found = evolved(2, d=100, **changes | {"n": 1e9})
    assert found.converged.all()
    np.testing.assert_allclose(found.accuracy, limit(d=100, **changes).accuracy, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("verifier, learner", [("linear", "logistic"), ("margin", "ridge")])
def test_derivatives_are_those_of_the_fixed_point(verifier, learner):
    """Of accuracy in λ, the verifier's angle and n, against central differences in float64."""
    with jax.enable_x64(True):
        kinds = BASE | {"verifier": verifier, "learner": learner}
        own = numbers()._asdict()

        @jax.jit
        def last(l2, theta_ver, n):
            given = own | {"l2": l2, "theta_ver": theta_ver, "n": n}
            return evolution.evolution(generations=2, d=50.0, **kinds, **given).accuracy[-1]

        at = (0.02, 0.5, 500.0)
        found = jax.jit(jax.grad(last, (0, 1, 2)))(*at)
        for i, step in enumerate((1e-5, 1e-4, 0.1)):
            up, down = list(at), list(at)
            up[i] += step
            down[i] -= step
            expected = (last(*up) - last(*down)) / (2 * step)
            assert float(found[i]) == pytest.approx(float(expected), rel=1e-4, abs=1e-9)


def test_nothing_kept_and_coinciding_directions():
    """A verifier that is the truth, a generator that is it too, and one that is its opposite."""
    fine = evolved(2, theta_gen=0.0, theta_ver=0.0, error_correlation=0.0)
    assert np.isfinite(fine.accuracy).all() and (fine.accuracy > 0.9).all()
    gone = evolved(2, theta_gen=np.pi, theta_ver=0.0, error_correlation=0.0)
    assert np.isnan(gone.accuracy[1:]).all()
    assert not gone.converged[1:].any()


def test_no_noise_at_three_features():
    found = evolved(1, d=3, n=50)
    population = evolved(1, d=3, n=1e9)
    # One direction of the plane's complement is left: accuracy differs by its noise alone.
    assert abs(float(found.accuracy[1] - population.accuracy[1])) < 0.1


@pytest.mark.slow
class TestRequiredVerifier:
    SPEC = Spec(verifier="linear", learner="ridge", n=2000, d=100, generations=2)

    def accuracy(self, angle):
        kinds = {family: getattr(self.SPEC, family) for family in evolution.KNOWN}
        own = {name: getattr(self.SPEC, name) for name in Numbers._fields}
        own |= {"theta_ver": float(angle), "d": self.SPEC.d}
        return float(jitted(2, **kinds)(**own).accuracy[-1])

    def test_reaches_the_target_and_no_more(self):
        angle = theory.required_verifier(0.85, self.SPEC)
        assert 0 < float(angle) < np.pi / 2
        assert self.accuracy(angle) == pytest.approx(0.85, abs=1e-4)

    def test_out_of_reach_and_always_in_it(self):
        assert np.isnan(theory.required_verifier(0.9999, self.SPEC))
        assert float(theory.required_verifier(0.3, self.SPEC)) == pytest.approx(np.pi / 2)

    def test_more_examples_allow_a_worse_verifier(self):
        found = jax.vmap(lambda n: theory.required_verifier(0.85, self.SPEC, n=n))(
            jnp.array([1000.0, 4000.0, 16_000.0])
        )
        assert (np.diff(found) > 0).all()

    def test_its_derivative(self):
        """−1 over the slope of accuracy, by differences of the angle itself."""
        slope = jax.grad(lambda target: theory.required_verifier(target, self.SPEC))(0.85)
        angles = [float(theory.required_verifier(t, self.SPEC)) for t in (0.845, 0.855)]
        assert float(slope) == pytest.approx((angles[1] - angles[0]) / 0.01, rel=0.02)

    @pytest.mark.parametrize("changes", [dict(verifier="oracle"), dict(regime="accumulate")])
    def test_refused(self, changes):
        base = dict(verifier="linear", learner="ridge")
        with pytest.raises(ValueError, match=next(iter(changes.values()))):
            theory.required_verifier(0.8, Spec(**base | changes))


@pytest.mark.slow
def test_evolution_beside_other_engines_and_where_there_is_none():
    spec = dict(n=200, d=20, learner="ridge", generations=2, trajectories=2)
    found = mixture.run(Spec(**spec, sweep={"regime": ("replace", "accumulate")}))
    assert np.isfinite(found.evolution_accuracy.sel(regime="replace")).all()
    assert np.isnan(found.evolution_accuracy.sel(regime="accumulate")).all()
    assert found.evolution_accuracy.attrs["missing"] == "no state evolution for regime=accumulate"


@pytest.mark.slow
def test_the_engine_is_the_same_without_randomness(tmp_path):
    """All trajectories are one, seeds do not matter, and a run goes on."""
    spec = dict(
        engine="state_evolution", n=200, d=20, verifier="margin", learner="ridge", trajectories=3
    )
    at_once = mixture.run(Spec(**spec, generations=3, seed=1))
    mixture.run(Spec(**spec, generations=1), tmp_path)
    longer = mixture.run(Spec(**spec, generations=3), tmp_path)
    assert not np.ptp(at_once.accuracy.values, axis=0).any()
    np.testing.assert_allclose(longer.accuracy, at_once.accuracy, atol=1e-6)
    np.testing.assert_allclose(longer.accuracy[0], longer.evolution_accuracy, atol=1e-6)
    np.testing.assert_allclose(longer.kept[:, 1:], 0.5, atol=0.01)
    assert not (longer.status > 0).any()


def test_engine_refuses_what_it_does_not_know():
    for changes, which in (
        (dict(regime="accumulate"), "regime='accumulate'"),
        (dict(covariance="dense"), "covariance='dense'"),
    ):
        with pytest.raises(SpecError, match=which):
            Spec(engine="state_evolution", **changes)
