"""The matrix-free engine: every kind by law, and the algebra that it rests on."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compared import BASE, FALSE_ALARM, compared, run
from scipy.stats import chi as chi_law
from scipy.stats import kstest

from synthjax import mixture
from synthjax.mixture import band, lazy, matrix_free, plan, theory
from synthjax.mixture.data import Sample
from synthjax.mixture.draws import chi
from synthjax.mixture.learn import LOGISTIC, SQUARED, descend
from synthjax.mixture.spec import Spec
from synthjax.mixture.sums import LONG, long_product
from synthjax.protocol.spec import SpecError

pytestmark = [pytest.mark.optimized, pytest.mark.usefixtures("no_theory")]

MANY = dict(n=150, d=40, generations=3, trajectories=1000)
RIDGE = {"learner": "ridge"}
OTHERS = {
    "none": RIDGE | dict(theta_gen=0.9),
    "oracle": dict(theta_gen=0.9, verifier="oracle"),
    "noisy": RIDGE | dict(theta_gen=0.9, verifier="noisy", phi=0.9, psi=0.3, generator="logistic"),
    "noisy by class": dict(verifier="noisy_by_class", generator="flip_by_class", p_plus=0.1),
    "margin": RIDGE | dict(theta_gen=0.9, verifier="margin", theta_ver=0.5, keep=0.4),
    "self": dict(theta_gen=0.9, verifier="self", keep=0.4, generator="logistic", temperature=0.5),
    "flip, linear": RIDGE | dict(verifier="linear", theta_ver=0.6, generator="flip", p=0.2),
    "best of 3": dict(
        theta_gen=0.9,
        verifier="linear",
        theta_ver=0.6,
        selection="best_of_k",
        k=3,
        generator="logistic",
        temperature=0.4,
    ),
    "mix": BASE | RIDGE | dict(regime="mix", real_fraction=0.3),
    "real, mix": dict(initial="real", n_real=100, regime="mix", verifier="oracle"),
    "accumulate": BASE | RIDGE | dict(regime="accumulate"),
    "accumulate, real": dict(initial="real", n_real=100, regime="accumulate", features="mixture"),
    "subsample": BASE | dict(regime="subsample"),
    "subsample, real": RIDGE
    | dict(initial="real", n_real=100, regime="subsample", verifier="oracle"),
}


# `make test-long` runs these.
REST = ("none", "oracle", "margin", "mix", "accumulate, real", "subsample")
REST += ("self", "accumulate", "noisy by class", "subsample, real", "noisy", "flip, linear")
REST += ("real, mix",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.long if name in REST else ())
        for name, case in OTHERS.items()
    ],
)
def test_every_kind_has_the_same_law(case):
    """Accuracy, norm, overlap with v, p, φ, ψ and what is kept; a family for each case."""
    settings = MANY | case
    ours, direct = run("matrix_free", **settings, seed=1), run("direct", **settings)
    names = ["accuracy", "norm", "p_hat", "phi_hat", "psi_hat", "kept"]
    if "theta_ver" in case:
        names.append("verifier_overlap")
    found = compared(ours, direct, names, (1, 3))
    assert len(found) >= 4
    assert min(found) > FALSE_ALARM / len(found), sorted(found)[:3]
    assert not (ours.status > 0).any()


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 50, 4000, 10**6])
def test_chi(degrees):
    """100,000 draws against scipy's law: one in 10⁴ would be refused."""
    with jax.threefry_partitionable(False):
        found = np.asarray(jax.jit(chi)(jax.random.key(degrees), jnp.full(100_000, float(degrees))))
    assert kstest(found, chi_law(degrees).cdf).pvalue > 1e-4
    assert kstest(found * 1.03, chi_law(degrees).cdf).pvalue < 1e-4


def test_chi_of_no_degrees_is_0_and_draws_do_not_depend_on_their_number():
    with jax.threefry_partitionable(False):
        few = chi(jax.random.key(0), jnp.array([3.0, 0.0, -2.0, 7.0]))
        more = chi(jax.random.key(0), jnp.array([3.0, 0.0, -2.0, 7.0] + 200 * [1.0]))
    assert few[1] == few[2] == 0
    np.testing.assert_array_equal(few, more[:4])


@pytest.mark.parametrize("l2", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("m, k", [(40, 12), (40, 90), (5, 3), (200, 199)])
def test_the_corner_of_a_band(m, k, l2):
    """N = z (ZZᵀ + z)⁻¹ and S = K Z Zᵀ K in its first rows, by float64 inversion of the band."""
    rng, s, z = np.random.default_rng(m), 4, m * l2
    i = np.arange(k)
    columns = rng.standard_normal((k, s + 1))
    columns[:, 0] = np.sqrt(rng.chisquare(np.maximum(k - i, 1))) * (i < m)
    columns[:, s] = np.sqrt(rng.chisquare(np.maximum(m - s - i, 1))) * (m - s - i > 0)
    columns[:, 1:s] *= i[:, None] + np.arange(1, s) < m
    whole = np.zeros((m + k + s + 1, k))
    for column in range(k):
        whole[column : column + s + 1, column] = columns[column]
    assert not whole[m:].any()
    inverse = np.linalg.inv(whole[:m] @ whole[:m].T + z * np.eye(m))
    squared = inverse @ whole[:m] @ whole[:m].T @ inverse
    found = jax.jit(band.eliminated)(jnp.asarray(columns, jnp.float32), jnp.float32(z))
    np.testing.assert_allclose(found.least, z * inverse[:s, :s], rtol=2e-4, atol=2e-6)
    scale = np.abs(squared[:s, :s]).max()
    np.testing.assert_allclose(found.size, squared[:s, :s], rtol=2e-4, atol=1e-5 * scale)


def revealed(k, room, loss, rows=60, l2=0.01, seed=0):
    """A learner's descent on 3 known columns and k lazy ones with that much room."""
    with jax.threefry_partitionable(False):
        draw, chi_key = jax.random.split(jax.random.key(seed))
        x = jax.random.normal(draw, (rows, 3 + room))
        drawn = chi(chi_key, (k - jnp.arange(room + 1)).astype(jnp.float32))
    labels = jnp.sign(x[:, 0] + 0.5)
    sample = Sample(x, labels, jnp.ones(rows))
    return sample, descend(
        loss,
        jnp.float32(l2),
        sample,
        right=lazy.right,
        left=lazy.left,
        state=lazy.begin(x, drawn),
    )


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED], ids=["logistic", "squared"])
def test_a_lazy_matrix_is_consistent(loss):
    """Queries are orthonormal, and qᵢᵀ of a later column is 0: all of qᵢᵀZ was in the first i."""
    _, found = revealed(500, 40, loss)
    features, count = found.state, int(found.state.count)
    assert 5 < count < 40
    queries = np.asarray(features.queries)[:, :count].astype(float)
    np.testing.assert_allclose(queries.T @ queries, np.eye(count), atol=1e-5)
    products = queries.T @ np.asarray(features.x)[:, 3 : 3 + count]
    np.testing.assert_allclose(np.triu(products, 1), 0, atol=1e-4)
    np.testing.assert_allclose(np.diag(products), features.chi[:count], rtol=1e-4)
    assert not np.asarray(found.w)[3 + count :].any()


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED], ids=["logistic", "squared"])
def test_the_minimiser_on_what_was_shown_is_the_minimiser(loss):
    """Against Newton in float64 on the columns that came to be known, which span the solution."""
    sample, found = revealed(200, 64, loss)
    count = 3 + int(found.state.count)
    x = np.asarray(found.state.x)[:, :count].astype(float)
    margins = np.asarray(sample.labels)[:, None] * x
    w = np.zeros(count)
    for _ in range(30):
        slope, curvature = (np.asarray(f) for f in _slopes(loss, margins @ w))
        hessian = (margins * curvature[:, None]).T @ margins / len(x) + 0.01 * np.eye(count)
        w -= np.linalg.solve(hessian, 0.01 * w - margins.T @ slope / len(x))
    np.testing.assert_allclose(found.w[:count], w, atol=2e-4 * np.linalg.norm(w))


def _slopes(loss, z):
    return (1 - z, np.ones_like(z)) if loss is SQUARED else (s := 1 / (1 + np.exp(z)), s * (1 - s))


def test_everything_may_be_shown():
    """With as many products as features the matrix is whole, and training goes on with it."""
    _, found = revealed(6, 6, LOGISTIC, l2=1e-5)
    assert int(found.state.count) == 6
    assert int(found.products) > 8
    assert np.linalg.norm(found.gradient) <= 1e-5 * np.linalg.norm(found.first)


@pytest.mark.slow
def test_too_few_products_are_reported():
    """Where the room is used up the fit is not converged, and says so in its status."""
    with mock.patch.object(matrix_free, "ROOM", ((0.0, 5),)):
        spec = Spec(engine="matrix_free", n=100, d=60, generations=2, trajectories=4)
        found = mixture.run(spec)
    later = found.isel(generation=slice(1, None))
    assert (later.status == 2).all()
    assert (later["products"] == 5).all()
    assert np.isfinite(later.accuracy).all()


@pytest.mark.slow
def test_long_products_are_accurate():
    """n = 10⁷ in float32 against float64, where XLA's own product loses 2 %."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10**7, 2), dtype=np.float32) ** 2
    v = x[:, 0].copy()
    exact = v.astype(float) @ x.astype(float)
    np.testing.assert_allclose(jax.jit(long_product)(v, x), exact, rtol=2e-6)
    exact = x.T.astype(float) @ x.astype(float)
    np.testing.assert_allclose(jax.jit(long_product)(x, x), exact, rtol=2e-6)


@pytest.mark.slow
def test_ten_million_examples():
    """Ridge at n = 10⁷ in float32: the bisector at d = 60, to a few 1e-4, which is 1/√n."""
    found = run(
        "matrix_free",
        **BASE | {"error_correlation": 0.0},
        n=10**7,
        d=60,
        generations=1,
        trajectories=2,
        learner="ridge",
        memory_gb=4.0,
    )
    truth, g, v = theory.place(BASE["theta_gen"], BASE["theta_ver"], 0.0)
    angle = theory.angle_between(theory.population_direction(g, v, 1), truth)
    np.testing.assert_allclose(found.accuracy.isel(generation=1), 1 - angle / np.pi, atol=5e-4)


@pytest.mark.parametrize("rows", [10, LONG, LONG + 1, 3 * LONG + 17])
def test_products_of_any_length(rows):
    rng = np.random.default_rng(rows)
    v, x = rng.standard_normal((rows, 2), dtype=np.float32), rng.standard_normal((rows, 3))
    x = x.astype(np.float32)
    np.testing.assert_allclose(long_product(v, x), v.T @ x, atol=1e-3)
    np.testing.assert_allclose(long_product(v[:, 0], x), v[:, 0] @ x, atol=1e-3)


REFUSED = {
    "covariance": (dict(covariance="diagonal"), "covariance='diagonal'", "not isotropic"),
    "one of several": (
        dict(sweep={"covariance": ("isotropic", "dense")}),
        "covariance='dense'",
        "not isotropic",
    ),
    "no penalty": (dict(learner="ridge", l2=0.0), "l2=0.0", "penalty"),
    "classifiers": (dict(keep_classifiers=True), "keep_classifiers=True", "never made"),
}


@pytest.mark.parametrize("settings, which, why", REFUSED.values(), ids=REFUSED)
def test_refused_with_the_reason(settings, which, why):
    with pytest.raises(SpecError) as caught:
        Spec(engine="matrix_free", **settings)
    assert caught.value.path == "engine"
    assert which in str(caught.value)
    assert why in str(caught.value)
    assert not any(group.static.frame for group in plan.groups(Spec(engine="auto", **settings)))


def test_a_verifier_of_the_users_own_is_refused_and_auto_takes_direct():
    def odd(key, numbers, examples, guesses):
        return (examples.z[:, 1] > 0).astype(guesses.dtype)

    kinds = Spec.__dataclass_fields__["verifier"].metadata["kinds"]
    with mock.patch.dict(kinds):
        mixture.register("verifier", odd)
        with pytest.raises(SpecError, match="verifier='odd'"):
            Spec(engine="matrix_free", verifier="odd")
        assert not plan.groups(Spec(verifier="odd", learner="ridge"))[0].static.frame


AUTO = {
    "ridge": (dict(learner="ridge"), True),
    "ridge, past": (dict(learner="ridge", regime="accumulate", d=10_000), False),
    "logistic, few features": (dict(d=50), False),
    "logistic, many": (dict(d=500), True),
}


@pytest.mark.parametrize("settings, taken", AUTO.values(), ids=AUTO)
def test_auto(settings, taken):
    group = plan.groups(Spec(**settings))[0]
    assert bool(group.static.frame) == taken


@pytest.mark.long
def test_auto_by_grid_point():
    """An l2 that matrix_free cannot take is taken by direct, and the rest are as without it."""
    spec = dict(n=60, d=20, learner="ridge", generations=2, trajectories=3)
    found = mixture.run(Spec(**spec, sweep={"l2": (0.0, 0.1)}))
    alone = mixture.run(Spec(**spec, l2=0.1))
    np.testing.assert_allclose(found.accuracy.sel(l2=0.1), alone.accuracy, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["ridge", pytest.param("logistic", marks=pytest.mark.long)])
def test_a_trajectory_is_the_same_in_any_company(learner, tmp_path):
    """Alone, among others, beside larger n and other λ, and when a run goes on."""
    spec = dict(BASE, engine="matrix_free", n=70, d=30, trajectories=4, learner=learner)
    together = mixture.run(Spec(**spec, generations=3, sweep={"n": (70, 120), "l2": (0.01, 0.1)}))
    mixture.run(Spec(**spec, generations=1), tmp_path)
    longer = mixture.run(Spec(**spec, generations=3), tmp_path)
    one = together.sel(n=70, l2=0.01)
    np.testing.assert_allclose(longer.accuracy, one.accuracy, atol=2e-5)
    np.testing.assert_allclose(longer.norm, one.norm, rtol=1e-4)
    np.testing.assert_array_equal(longer.kept, one.kept)


@pytest.mark.long
def test_a_run_that_keeps_the_past_goes_on(tmp_path):
    """It begins anew, as what a learner met of the past is not saved, and ends as at once.

    Only here do digits depend on company: a late query is short, its direction rounding in part,
    and features that are shown later depend on it. The same program gives the same bits.
    """
    spec = dict(BASE, engine="matrix_free", n=70, d=30, regime="accumulate", trajectories=4)
    mixture.run(Spec(**spec, generations=1), tmp_path)
    longer = mixture.run(Spec(**spec, generations=3), tmp_path)
    at_once = mixture.run(Spec(**spec, generations=3))
    np.testing.assert_array_equal(longer.accuracy, at_once.accuracy)
