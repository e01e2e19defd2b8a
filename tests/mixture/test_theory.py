"""The population limit against closed forms, scipy, and brute force over a dense sample of x.

The brute force follows the definitions literally: points x in R³, both values of y, y′ and the
verdict where they are random, each with its probability as a weight, and scikit-learn. Its points
are a scrambled Sobol sequence, so its error is some 1e-4 in accuracy instead of the 1e-3 of as
many independent draws. Seeds are fixed.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm, qmc
from sklearn.linear_model import LogisticRegression

from synthjax.mixture import theory

KINDS = dict(
    features="teacher",
    initial="angle",
    generator="linear",
    verifier="linear",
    learner="ridge",
    generations=2,
)
VALUES = dict(
    theta_gen=0.9,
    p=0.3,
    phi=0.8,
    psi=0.3,
    theta_ver=0.7,
    error_correlation=0.3,
    l2=0.05,
    signal=1.2,
)


@cache
def jitted(**kinds):
    return jax.jit(partial(theory.population, **kinds))


def population(**changes):
    """`theory.population` at KINDS and VALUES but for `changes`, stacked over the array values.

    Point by point, so that a combination of kinds compiles once for all tests.
    """
    kinds = {name: changes.pop(name, value) for name, value in KINDS.items()}
    names, values = zip(*(VALUES | changes).items(), strict=True)
    values = np.stack(np.broadcast_arrays(*values), axis=-1)
    results = [
        jitted(**kinds)(**dict(zip(names, point, strict=True)))
        for point in values.reshape(-1, len(names))
    ]
    accuracy, p_star = (np.reshape(x, (*values.shape[:-1], -1)) for x in np.swapaxes(results, 0, 1))
    return theory.Population(accuracy, p_star)


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


def exact_agreement(angle, features, signal):
    """P(sign(w·x) = sign(w*·x)) from scipy's bivariate normal orthants."""
    if features == "teacher":
        return 1 - angle / np.pi
    mean, cosine = signal * np.array([1, np.cos(angle)]), np.cos(angle)
    cov = [[1, cosine], [cosine, 1]]
    return sum(
        multivariate_normal.cdf(
            side * mean, np.zeros(2), cov, allow_singular=True, abseps=1e-9, releps=0
        )
        for side in (1, -1)
    )


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


@pytest.mark.parametrize("learner", ["ridge", "logistic"])
@pytest.mark.parametrize("features", ["teacher", "mixture"])
def test_population_follows_the_bisectors(features, learner):
    """At any l2. A mixture of signal 0 has the teacher's inputs, so it puts the same statement to
    the quadrature over a wedge."""
    l2 = np.array([1e-5, 1e-2, 10.0])
    accuracy = population(
        features=features, learner=learner, l2=l2, signal=0.0, generations=4
    ).accuracy
    truth, g, v = theory.place(0.9, 0.7, 0.3)
    w = [theory.population_direction(g, v, t) for t in range(5)]
    expected = [1 - float(theory.angle_between(x, truth)) / np.pi for x in w]
    np.testing.assert_allclose(accuracy, np.tile(expected, (3, 1)), atol=2e-5)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.7])
def test_the_first_boundary_is_a_plus_b_equals_pi(rho):
    a = np.linspace(0.05, 3.1, 30)
    np.testing.assert_allclose(theory.boundary(a, 1, rho), np.pi - a, atol=2e-5)


@pytest.mark.parametrize("generations", [1, 2, 3])
@pytest.mark.parametrize("rho", [0.0, -0.5])
def test_population_crosses_one_half_on_the_boundary_only(generations, rho):
    a, b = np.meshgrid(np.linspace(0.1, 3.0, 24), np.linspace(0.1, 3.0, 25))
    accuracy = (
        population(
            theta_gen=a.ravel(), theta_ver=b.ravel(), error_correlation=rho, generations=generations
        )
        .accuracy[:, -1]
        .reshape(a.shape)
    )
    edge = np.asarray(theory.boundary(a, generations, rho))
    clear = np.abs(b - edge) > 1e-4
    np.testing.assert_array_equal((np.asarray(accuracy) > 0.5)[clear], (b < edge)[clear])


def test_boundary_at_the_ends():
    # g = w*: w_T lies b(1 − 2⁻ᵀ) away from it.
    assert theory.boundary(0.0, 3) == pytest.approx(np.pi / 2 / (1 - 1 / 8), abs=1e-5)
    assert np.isnan(theory.boundary(np.array([0.0, np.pi]), 1)).all()
    assert np.isnan(theory.boundary(np.array([-0.1, 3.2]), 2)).all()


# Flip generator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("features", ["teacher", "mixture"])
@pytest.mark.parametrize("learner", ["ridge", "logistic"])
def test_the_theorem(features, learner):
    """Accuracy jumps from 1 to 0 at p* = 1/(1 + ψ/φ); exactly there the minimiser is 0."""
    kinds = dict(features=features, generator="flip", learner=learner, l2=0.1)
    for verifier, phi, psi, star in [
        ("noisy", 0.9, 0.3, 0.75),
        ("noisy", 0.2, 0.6, 0.25),
        ("none", 0.1, 0.9, 0.5),
    ]:
        p = np.array([0.0, star - 1e-3, star, star + 1e-3, 1.0])
        result = population(verifier=verifier, phi=phi, psi=psi, p=p, **kinds)
        np.testing.assert_allclose(result.accuracy[:, 0], 1 - p, atol=1e-6)
        np.testing.assert_allclose(result.accuracy[:, 1], [1, 1, 0.5, 0, 0], atol=1e-5)
        np.testing.assert_allclose(result.p_star[:, 1:], star, rtol=1e-6)
        assert np.isnan(result.p_star[:, 0]).all()
        # Generation 2 labels by w₁, perfectly right or perfectly wrong, and so it stays.
        np.testing.assert_allclose(result.accuracy[[0, 1, 3, 4], 2], [1, 1, 0, 0], atol=1e-4)
    oracle = population(verifier="oracle", p=np.array([0.3, 0.999, 1.0]), **kinds).accuracy
    np.testing.assert_allclose(oracle[:, 1:], [[1, 1], [1, 1], [np.nan, np.nan]], atol=1e-4)


def flip_and_linear_ridge(p, b, l2):
    """cos∠(w*, w₁) up to a positive factor: teacher, flips checked by a linear verifier.

    In the axes b₊ and b₋ of w* and v, E[q y′x] is (A cos b/2, B sin b/2)·√(2/π) and π·C diagonal,
    with A = 1−p and B = p.
    """
    right, wrong = 1 - p, p
    kept = right * (1 - b / np.pi) + wrong * b / np.pi
    split = (right - wrong) * np.sin(b) / np.pi
    along = right * np.cos(b / 2) / (kept * (1 + l2) + split)
    across = wrong * np.sin(b / 2) / (kept * (1 + l2) - split)
    return along * np.cos(b / 2) - across * np.sin(b / 2)


@pytest.mark.parametrize("b", [0.5, 1.2, 2.0])
@pytest.mark.parametrize("l2", [0.0, 0.1, 1e4])
def test_flips_checked_by_a_linear_verifier_break_the_theorem(b, l2):
    """The mean vector changes sign at (1 + cos b)/2, and the ridge minimiser with it as l2 → ∞; at
    a finite l2 it does elsewhere, and never at p* = 1 − b/π."""
    crossing = brentq(flip_and_linear_ridge, 0, 1, args=(b, l2))
    if l2 == 1e4:
        assert crossing == pytest.approx((1 + np.cos(b)) / 2, abs=1e-4)
    p = np.array([crossing - 1e-3, crossing, crossing + 1e-3])
    result = population(generator="flip", theta_ver=b, p=p, l2=l2)
    below, at, above = result.accuracy[:, 1]
    assert below > 0.5 > above and at == pytest.approx(0.5, abs=1e-5)
    np.testing.assert_allclose(result.p_star[:, 1], 1 - b / np.pi, rtol=1e-5)
    assert abs(crossing - (1 - b / np.pi)) > 5e-3


# Everything else ----------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.0, 1e-3, 0.3, 10.0])
def test_ridge_after_a_noisy_verifier_is_the_closed_form(l2):
    """The same wedges as above: A = φ, B = ψ, at the generator's angle a, teacher."""
    a, phi, psi = np.array([0.02, 0.8, 1.7, 3.1]), 0.9, 0.35
    kept = phi * (1 - a / np.pi) + psi * a / np.pi
    split = (phi - psi) * np.sin(a) / np.pi
    along = phi * np.cos(a / 2) / (kept * (1 + l2) + split)
    across = psi * np.sin(a / 2) / (kept * (1 + l2) - split)
    angle = a / 2 + np.arctan2(across, along)
    result = population(verifier="noisy", phi=phi, psi=psi, theta_gen=a, l2=l2)
    np.testing.assert_allclose(result.accuracy[:, 1], 1 - angle / np.pi, atol=2e-6)


@pytest.mark.parametrize("l2", [1e-6, 1e-4, 1e-2, 1.0, 10.0])
def test_an_oracle_bisects_and_no_verifier_keeps_the_generator(l2):
    """Teacher, logistic, by symmetry; at small l2 the minimiser's norm passes 100."""
    a = np.array([0.05, 0.9, 2.0, 3.0])
    settings = dict(learner="logistic", l2=l2, theta_gen=a, generations=1)
    oracle = population(verifier="oracle", **settings).accuracy[:, 1]
    np.testing.assert_allclose(oracle, 1 - a / 2 / np.pi, atol=2e-5)
    unverified = population(verifier="none", **settings).accuracy[:, 1]
    np.testing.assert_allclose(unverified, 1 - a / np.pi, atol=2e-5)


def brute_force(x, *, features, generator, verifier, learner, generations, **values):
    """Accuracy and p* by generation, from the definitions, over the points x (N(0, I) in R³)."""
    truth, g, v = (
        np.asarray(u, float)
        for u in theory.place(values["theta_gen"], values["theta_ver"], values["error_correlation"])
    )
    if features == "teacher":
        y = np.sign(x @ truth)
    else:
        y = np.repeat([1.0, -1.0], len(x))
        x = np.concatenate([x, x]) + values["signal"] * y[:, None] * truth

    records, w = [], g
    for generation in range(1, generations + 1):
        if generator == "flip" and generation == 1:
            guess = np.concatenate([y, -y])
            weight = np.repeat([1 - values["p"], values["p"]], len(x))
            inputs, labels = np.concatenate([x, x]), np.concatenate([y, y])
        else:
            inputs, labels, guess, weight = x, y, np.sign(x @ w), np.ones(len(x))
        right = guess == labels
        keep = {
            "none": np.ones(len(guess)),
            "oracle": 1.0 * right,
            "noisy": np.where(right, values["phi"], values["psi"]),
            "linear": 1.0 * (guess == np.sign(inputs @ v)),
        }[verifier]
        with np.errstate(invalid="ignore"):  # nothing wrong: ψ is unknown
            phi, psi = ((weight * keep * z).sum() / (weight * z).sum() for z in (right, ~right))
        weight = weight * keep
        weight, inputs, guess = (z[weight > 0] for z in (weight, inputs, guess))
        weight = weight / weight.sum()
        if learner == "ridge":
            second = (inputs * weight[:, None]).T @ inputs
            w = np.linalg.solve(second + values["l2"] * np.eye(3), (weight * guess) @ inputs)
        else:
            # scikit-learn minimises C·Σ weight·loss + ‖w‖²/2.
            fit = LogisticRegression(
                C=1 / values["l2"], fit_intercept=False, solver="newton-cholesky", tol=1e-9
            ).fit(inputs, guess, sample_weight=weight)
            w = fit.coef_[0]
        angle = np.arccos(np.clip(unit(w) @ truth, -1, 1))
        records.append((exact_agreement(angle, features, values["signal"]), phi / (phi + psi)))
    return np.transpose(records)


@pytest.fixture(scope="module")
def points():
    return sobol_normals(15)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["teacher", "mixture"])
@pytest.mark.parametrize("generator", ["flip", "linear"])
@pytest.mark.parametrize("verifier", ["none", "oracle", "noisy", "linear"])
@pytest.mark.parametrize("learner", ["ridge", "logistic"])
def test_population_is_what_brute_force_finds(points, features, generator, verifier, learner):
    """Two generations of every combination. Over three scramblings of the points the brute force
    scatters by up to 3.5e-4 in accuracy and 7.4e-4 in p*."""
    kinds = dict(features=features, generator=generator, verifier=verifier, learner=learner)
    result = population(**kinds)
    accuracy, p_star = brute_force(points, **(KINDS | kinds), **VALUES)
    np.testing.assert_allclose(result.accuracy[1:], accuracy, atol=6e-4)
    known = np.isfinite(p_star)
    assert known[0]
    np.testing.assert_allclose(result.p_star[1:][known], p_star[known], atol=1.2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "features, verifier", [("teacher", "noisy"), ("mixture", "noisy"), ("mixture", "linear")]
)
def test_small_penalties_against_brute_force(points, features, verifier):
    """Logistic norms of some 20, where the quadrature has to resolve a sharp turn of the loss."""
    changes = dict(learner="logistic", features=features, verifier=verifier, generations=1)
    values = VALUES | dict(l2=1e-4, psi=0.05)
    accuracy, _ = brute_force(points, **(KINDS | changes), **values)
    np.testing.assert_allclose(population(**changes, **values).accuracy[1:], accuracy, atol=6e-4)


@pytest.mark.parametrize(
    "changes",
    [
        dict(features="mixture", learner="logistic"),
        dict(generator="flip", learner="logistic"),
        dict(verifier="noisy"),
    ],
)
def test_the_same_alone_jitted_and_batched(changes):
    kinds = KINDS | changes
    swept = dict(l2=jnp.array([1e-4, 0.1, 3.0]), theta_ver=jnp.array([0.1, 0.8, 2.0]))

    def one(swept):
        return theory.population(**kinds, **(VALUES | swept))

    alone = [jax.jit(one)({name: x[i] for name, x in swept.items()}) for i in range(3)]
    for batched in (jax.jit(jax.vmap(one))(swept), jax.jit(partial(jax.lax.map, one))(swept)):
        assert batched.accuracy.shape == (3, 3) and batched.accuracy.dtype == jnp.float32
        np.testing.assert_allclose(np.swapaxes(batched, 0, 1), np.array(alone), atol=3e-6)


def test_a_linear_generator_trained_on_true_labels_starts_at_the_truth():
    for features in ("teacher", "mixture"):
        result = population(features=features, initial="real")
        assert result.accuracy[0] == 1
        placed = population(features=features, theta_gen=0.0, error_correlation=0.3)
        np.testing.assert_allclose(result.accuracy, placed.accuracy, atol=1e-5)
    assert np.isnan(population(initial="real").p_star[1])  # the teacher's w* makes no errors


def test_where_nothing_is_kept_the_rest_is_nan():
    nothing = population(verifier="noisy", phi=0.0, psi=0.0).accuracy
    np.testing.assert_allclose(nothing, [1 - 0.9 / np.pi, np.nan, np.nan], atol=1e-6)
    a = np.linspace(0.1, 3.0, 12)  # g = −v, up to float32
    opposite = population(theta_gen=a, theta_ver=np.pi - a, error_correlation=-1.0).accuracy
    np.testing.assert_allclose(opposite[:, 0], 1 - a / np.pi, atol=1e-6)
    assert np.isnan(opposite[:, 1:]).all()


@pytest.mark.parametrize("features", ["teacher", "mixture"])
def test_a_generator_that_verifies_itself_is_not_verified(features):
    settings = dict(features=features, theta_ver=0.9, error_correlation=1.0, generations=1)
    same, unverified = population(**settings), population(verifier="none", **settings)
    np.testing.assert_allclose(same.accuracy, unverified.accuracy, atol=1e-5)
    np.testing.assert_allclose(same.p_star, [np.nan, 0.5], atol=1e-5)


def test_flips_without_an_error_leave_a_linear_verifiers_p_star_unknown():
    p_star = population(generator="flip", p=np.array([0.0, 0.1, 1.0])).p_star[:, 1]
    np.testing.assert_allclose(p_star, [np.nan, 1 - 0.7 / np.pi, np.nan], rtol=1e-5)
