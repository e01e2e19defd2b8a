"""Fits of scaling laws: known parameters found again, with intervals that cover them."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import binom

from synthjax.scaling import laws
from synthjax.scaling.laws import FitError, Series

X = np.logspace(2, 5, 13)
TRUTH = {"E": 0.05, "A": 3.0, "alpha": 0.6}


def power(x, offset, size, alpha):
    return offset + size * x**-alpha


def series(error, **columns):
    return Series("s", columns or {"n": X}, error)


def noisy(seed, scatter=0.01, x=X):
    noise = np.random.default_rng(seed).standard_normal(len(x))
    return power(x, *TRUTH.values()) * np.exp(scatter * noise)


def test_exact_data_give_exact_parameters():
    found = laws.fit(series(power(X, *TRUTH.values())))
    for name, value in TRUTH.items():
        assert found.parameters[name] == pytest.approx(value, rel=1e-4)
    assert found.r2 > 1 - 1e-8
    assert found.held_out < 1e-6
    np.testing.assert_allclose(found.predict(n=[1e7]), power(1e7, *TRUTH.values()), rtol=1e-4)


def test_as_scipys_curve_fit():
    error = noisy(3)
    expected, _ = curve_fit(
        lambda x, *p: np.log(power(x, *p)), X, np.log(error), p0=list(TRUTH.values())
    )
    found = laws.fit(series(error))
    # The robust loss weighs the longest residuals less.
    np.testing.assert_allclose(list(found.parameters.values()), expected, rtol=0.05)


@pytest.mark.slow
def test_intervals_cover():
    """95 % intervals of alpha over 60 data sets: as often as a binomial of 0.88 might at least."""
    inside = 0
    for seed in range(60):
        found = laws.fit(series(noisy(seed)), seed=seed)
        low, high = found.intervals["alpha"]
        inside += low <= TRUTH["alpha"] <= high
    assert inside >= binom(60, 0.88).ppf(1e-3)
    assert inside < 60  # nor are they so wide that nothing could be learnt


def test_outliers_hardly_matter():
    error = noisy(1)
    spoiled = error.copy()
    spoiled[4] *= 3
    found = laws.fit(series(spoiled))
    assert found.parameters["alpha"] == pytest.approx(TRUTH["alpha"], abs=0.08)
    least_squares = np.polyfit(np.log(X), np.log(spoiled - TRUTH["E"]), 1)
    assert abs(least_squares[0] + TRUTH["alpha"]) > 0.01  # which it moves


def test_beyond_the_data():
    """Small where the law is true; large where the error turns up again within what is held out."""
    good = laws.fit(series(noisy(0)))
    assert good.held_out < 0.05
    bad = power(X, 0.001, 3.0, 0.6) + 0.3 * (X / X[-1]) ** 2
    assert laws.fit(series(bad)).held_out > 0.5


def test_order_and_units_do_not_matter():
    error = noisy(2)
    found, turned = laws.fit(series(error)), laws.fit(series(error[::-1], n=X[::-1]))
    assert found.parameters == pytest.approx(turned.parameters, rel=1e-6)
    thousands = laws.fit(series(error, n=X / 1000))
    assert thousands.parameters["E"] == pytest.approx(found.parameters["E"], rel=1e-3)
    assert thousands.parameters["alpha"] == pytest.approx(found.parameters["alpha"], rel=1e-3)
    scale = 1000 ** -found.parameters["alpha"]
    assert thousands.parameters["A"] == pytest.approx(found.parameters["A"] * scale, rel=1e-2)


def test_rising_with_the_ratio():
    """Error against d/n: a negative exponent."""
    ratio = np.logspace(-3, 0, 10)
    found = laws.fit(series(0.02 + 0.3 * ratio**0.5, **{"d/n": ratio}))
    assert found.parameters["alpha"] == pytest.approx(-0.5, rel=1e-3)


@pytest.mark.parametrize("size", [0.3, -0.4], ids=["falling", "rising"])
def test_geometric(size):
    """Errors that forget where they began, or collapse to 1/2; the law is chosen by itself."""
    t = np.arange(1.0, 17.0)
    found = laws.better(series(0.5 + size * 0.8**t, generation=t))
    assert found.law == "geometric"
    assert found.parameters == pytest.approx({"E": 0.5, "A": size, "r": 0.8}, rel=1e-4)


def test_a_power_of_the_generation_is_told_from_a_geometric_law():
    t = np.arange(1.0, 17.0)
    assert laws.better(series(0.1 + 0.4 * t**-0.7, generation=t)).law == "power"


def test_surface():
    n, t, angle = (
        a.ravel()
        for a in np.meshgrid(np.logspace(2.5, 5, 5), np.arange(1, 6.0), np.linspace(0.1, 0.8, 4))
    )
    error = 0.01 + 3 * n**-0.5 + 0.2 * angle**1.3 + 0.2 * 0.5**t
    error *= np.exp(0.003 * np.random.default_rng(0).standard_normal(len(error)))
    found = laws.fit(series(error, n=n, generation=t, theta_ver=angle), "surface")
    truth = dict(E=0.01, A=3, alpha=0.5, B=0.2, beta=1.3, D=0.2, r=0.5)
    for name, value in truth.items():
        assert found.parameters[name] == pytest.approx(value, rel=0.1), name
    assert found.r2 > 0.999


def test_trajectories_are_resampled_together():
    """Repeats that differ by a factor of their own make wide intervals of A, not of alpha."""
    factor = np.exp(0.2 * np.random.default_rng(0).standard_normal(30))
    repeats = 3 * X[:, None] ** -0.6 * factor
    found = laws.fit(Series("s", {"n": X}, repeats.mean(1), repeats))
    low, high = found.intervals["A"]
    assert (high - low) / found.parameters["A"] > 0.08
    low, high = found.intervals["alpha"]
    assert high - low < 0.02


def test_errors_of_zero_and_nan_are_dropped_and_counted():
    error = noisy(0)
    error[[2, 5]] = 0, np.nan
    found = laws.fit(series(error))
    assert (found.points, found.dropped) == (11, 2)
    assert found.parameters["alpha"] == pytest.approx(TRUTH["alpha"], abs=0.1)


def test_as_json():
    found = laws.fit(series(noisy(0)[:6], n=X[:6]))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["parameters"] == found.parameters
    assert not [name for name in told if name.startswith("_")]
    assert {*told} == {f.name for f in dataclasses.fields(found) if f.name[0] != "_"}


BAD = {
    "too few": (lambda: laws.fit(series(noisy(0)[:4], n=X[:4])), "too few.*needs 5"),
    "law": (lambda: laws.fit(series(noisy(0)), "line"), "no law 'line'; choices: power"),
    "columns": (lambda: laws.fit(series(noisy(0)), "surface"), "takes 3 columns"),
    "x": (lambda: laws.fit(series(noisy(0), n=X - X[0])), "n must be > 0"),
}


@pytest.mark.parametrize("call, said", BAD.values(), ids=BAD)
def test_bad_input(call, said):
    with pytest.raises(FitError, match=said):
        call()
