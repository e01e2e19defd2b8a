"""Fits of scaling laws: known parameters found again, with intervals that cover them."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import binom
from scipy.stats import t as t_distribution

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
    """95 % intervals over 80 data sets: as often as a binomial of 0.95 does in all but 1 of 1000.

    And the band of what is held out, of which one data set's four points stand or fall together.
    """
    inside, covered, off = dict.fromkeys(TRUTH, 0), 0.0, 0
    for seed in range(80):
        found = laws.fit(series(noisy(seed)), seed=seed)
        for name, (low, high) in found.intervals.items():
            inside[name] += low <= TRUTH[name] <= high
        covered += found.covered
        off += found.runs < laws.CHANCE
    least = binom(80, 0.95).ppf(1e-3)
    assert all(least <= count for count in inside.values()), inside
    assert least / 80 <= covered / 80 < 1
    assert off <= binom(80, laws.CHANCE).ppf(0.999)


def test_intervals_are_no_wider_than_they_must_be():
    """Against those of linear least squares around the truth, with as many degrees of freedom."""
    widths, wanted = [], []
    for seed in range(8):
        low, high = laws.fit(series(noisy(seed))).intervals["alpha"]
        widths.append(high - low)
        _, spread = curve_fit(
            lambda x, *p: np.log(power(x, *p)), X, np.log(noisy(seed)), p0=list(TRUTH.values())
        )
        wanted.append(2 * t_distribution(len(X) - 3).ppf(0.975) * np.sqrt(spread[2, 2]))
    assert np.mean(widths) == pytest.approx(np.mean(wanted), rel=0.25)


def test_outliers_hardly_matter():
    """Of 60 points 5 % are three times too large; plain least squares is led astray by them."""
    x = np.logspace(2, 5, 60)
    error = noisy(1, x=x)
    error[[7, 31, 55]] *= 3
    found = laws.fit(series(error, n=x))
    plain, _ = curve_fit(
        lambda x, *p: np.log(power(x, *p)), x, np.log(error), p0=list(TRUTH.values())
    )
    assert found.parameters["alpha"] == pytest.approx(TRUTH["alpha"], abs=0.02)
    assert found.parameters["E"] == pytest.approx(TRUTH["E"], rel=0.02)
    assert abs(plain[2] - TRUTH["alpha"]) > 3 * abs(found.parameters["alpha"] - TRUTH["alpha"])


def test_beyond_the_data():
    """Small where the law is true; large where the error turns up again within what is held out."""
    good = laws.fit(series(noisy(0)))
    assert good.held_out < 0.05
    assert not good.off
    bad = laws.fit(series(power(X, 0.001, 3.0, 0.6) + 0.3 * (X / X[-1]) ** 2))
    assert bad.held_out > 0.5
    assert bad.covered < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_law_that_is_off_is_called_so(seed):
    """A best n: the error falls and rises again, which no power law does."""
    x = np.logspace(2, 5, 25)
    noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(25))
    found = laws.fit(series((0.03 + 0.5 * np.abs(np.log10(x / 3000)) ** 2) * noise, n=x))
    assert found.off
    assert found.runs < laws.CHANCE
    assert found.scatter > 0.1
    assert not laws.fit(series(power(x, *TRUTH.values()) * noise, n=x)).off


def test_the_chance_of_so_few_runs():
    """Against every order of 4 signs of one sort and 3 of the other."""
    orders = [np.isin(np.arange(7), chosen) for chosen in itertools.combinations(range(7), 4)]
    runs = np.array([1 + (order[1:] != order[:-1]).sum() for order in orders])
    for order, seen in zip(orders, runs, strict=True):
        assert laws._chance_of_runs(order) == pytest.approx((runs <= seen).mean())
    assert laws._chance_of_runs(np.ones(6, bool)) == 1


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
    found, other = laws.ranked(series(0.5 + size * 0.8**t, generation=t))
    assert (found.law, other.law) == ("geometric", "power")
    assert found.held_out < other.held_out
    assert found.parameters == pytest.approx({"E": 0.5, "A": size, "r": 0.8}, rel=1e-4)


def test_a_power_of_the_generation_is_told_from_a_geometric_law():
    t = np.arange(1.0, 17.0)
    assert laws.ranked(series(0.1 + 0.4 * t**-0.7, generation=t))[0].law == "power"


def test_surface():
    n, t, angle = (
        a.ravel()
        for a in np.meshgrid(np.logspace(2.5, 5, 5), np.arange(1, 6.0), np.linspace(0.1, 0.8, 4))
    )
    parts = 0.03, 3 * n**-0.5, 0.3 * angle**1.2 * (1 - 0.4**t), 0.4 * 0.4**t
    error = np.sqrt(sum(np.square(part) for part in parts))
    error *= np.exp(0.003 * np.random.default_rng(0).standard_normal(len(error)))
    found = laws.fit(series(error, n=n, generation=t, theta_ver=angle), "surface")
    truth = dict(E=0.03, A=3, alpha=0.5, B=0.3, beta=1.2, D=0.4, r=0.4)
    for name, value in truth.items():
        assert found.parameters[name] == pytest.approx(value, rel=0.1), name
        low, high = found.intervals[name]
        assert high - low < 0.4 * value
    assert found.r2 > 0.999
    assert found.held_out < 0.02


def test_the_surface_of_small_angles():
    """The limit n → ∞ of the direction after T generations: r = 1/2, β = 1, B = 1/π, D = a/π."""
    a, n = 0.3, np.logspace(2, 5, 6)
    n, t, b = (x.ravel() for x in np.meshgrid(n, np.arange(1.0, 7), np.linspace(0.05, 0.3, 5)))
    c = np.arccos(np.cos(a) * np.cos(b))
    g, v = np.sin(c / 2**t), np.sin(c * (1 - 0.5**t))
    along = g * np.cos(a) + v * np.cos(b)
    across = np.hypot(g * np.sin(a), v * np.sin(b))
    error = np.hypot(np.arctan2(across, along), n**-0.5) / np.pi
    found = laws.fit(series(error, n=n, generation=t, theta_ver=b), "surface")
    for name, value in dict(alpha=0.5, B=1 / np.pi, beta=1, D=a / np.pi, r=0.5).items():
        assert found.parameters[name] == pytest.approx(value, rel=0.05), name


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


def test_what_is_not_finite_is_null_in_json():
    """At x in the thousands A of a geometric law is past the largest number."""
    x = np.arange(5000.0, 5010.0)
    found = laws.fit(series(0.1 + 0.5 * 0.5 ** (x - 5000), generation=x), "geometric")
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["parameters"]["A"] is None
    assert told["parameters"]["r"] == pytest.approx(0.5, rel=1e-3)


def test_the_same_every_time():
    first, again = laws.fit(series(noisy(0))), laws.fit(series(noisy(0)))
    assert first.to_dict() == again.to_dict()
    assert laws.fit(series(noisy(0)), seed=1).intervals != first.intervals


BAD = {
    "infinite": (lambda: laws.fit(series(noisy(0), n=X * np.inf)), "n must be finite"),
    "too few": (lambda: laws.fit(series(noisy(0)[:4], n=X[:4])), "too few.*needs 5"),
    "law": (lambda: laws.fit(series(noisy(0)), "line"), "no law 'line'; choices: power"),
    "columns": (lambda: laws.fit(series(noisy(0)), "surface"), "takes 3 columns"),
    "x": (lambda: laws.fit(series(noisy(0), n=X - X[0])), "n must be > 0"),
}


@pytest.mark.parametrize("call, said", BAD.values(), ids=BAD)
def test_bad_input(call, said):
    with pytest.raises(FitError, match=said):
        call()
