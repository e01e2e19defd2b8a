"""Figure and table of scaling laws: what is drawn is what was fitted."""

import io
import itertools

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from rich.console import Console

from synthjax.plot import scaling
from synthjax.scaling import laws
from synthjax.scaling.laws import Series

X = np.logspace(2, 4, 10)


def one(name="s", scatter=0.01):
    noise = scatter * np.random.default_rng(0).standard_normal((10, 8))
    repeats = (0.05 + 3 * X[:, None] ** -0.6) * np.exp(noise)
    return Series(name, {"n": X}, repeats.mean(1), repeats)


@pytest.fixture(scope="module")
def power():
    series = one()
    return series, laws.fit(series)


@pytest.fixture(scope="module")
def surface():
    grid = itertools.product([100, 300, 1000, 3000, 10_000], [1, 2, 3, 4], [0.1, 0.3, 0.5, 0.7])
    n, t, angle = np.array(list(grid), float).T
    error = np.sqrt(0.02**2 + 4 / n + (0.3 * angle * (1 - 0.5**t)) ** 2 + (0.3 * 0.5**t) ** 2)
    series = Series("ours", {"n": n, "generation": t, "theta_ver": angle}, error)
    return series, laws.fit(series, "surface")


def panels(figure):
    return [axis for axis in figure.axes if axis.get_title()]


def curves(axis, style):
    return [line for line in axis.lines if line.get_linestyle() == style and len(line.get_xdata())]


def points(axis):
    found = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    return [line for line in found if str(line.get_markerfacecolor()) != "white"], [
        line for line in found if str(line.get_markerfacecolor()) == "white"
    ]


def test_points_and_law(power):
    series, fit = power
    [axis] = panels(scaling.draw([power], "error"))
    [filled], [open_] = points(axis)
    judges = laws.held_out(X)
    assert 0 < judges.sum() < len(X) / 2
    np.testing.assert_array_equal(filled.get_xdata(), X[~judges])
    np.testing.assert_array_equal(open_.get_xdata(), X[judges])
    np.testing.assert_array_equal(open_.get_ydata(), series.error[judges])
    [law], [beyond] = curves(axis, "-"), curves(axis, "--")
    for line in (law, beyond):
        np.testing.assert_allclose(line.get_ydata(), fit.predict(n=line.get_xdata()))
    assert law.get_xdata()[[0, -1]] == pytest.approx(X[[0, -1]])
    assert beyond.get_xdata()[0] == pytest.approx(X[-1])
    assert beyond.get_xdata()[-1] > 2 * X[-1]


def test_the_band_holds_the_law_and_what_is_beyond_is_shaded(power):
    _, fit = power
    [axis] = panels(scaling.draw([power], "error"))
    bands = [artist for artist in axis.collections if isinstance(artist, PolyCollection)]
    assert len(bands) == 2
    low, high = fit.band(n=X)
    assert (low <= fit.predict(n=X)).all()
    assert (fit.predict(n=X) <= high).all()
    corners = bands[0].get_paths()[0].vertices
    at_the_end = corners[np.isclose(corners[:, 0], X[-1]), 1]
    assert [at_the_end.min(), at_the_end.max()] == pytest.approx([low[-1], high[-1]])
    [shade] = axis.patches
    assert shade.get_x() == pytest.approx(X[-1])
    assert (axis.get_xscale(), axis.get_yscale(), axis.get_ylabel()) == ("log", "log", "error")
    assert axis.get_xlabel() == "n"
    assert f"alpha = {fit.parameters['alpha']:.3g}" in axis.get_title()


def test_error_bars_are_two_standard_errors(power):
    series, _ = power
    [axis] = panels(scaling.draw([power], "error"))
    [bars] = (artist for artist in axis.collections if not isinstance(artist, PolyCollection))
    lengths = [np.ptp(path.vertices[:, 1]) for path in bars.get_paths()]
    assert lengths == pytest.approx(4 * series.repeats.std(1, ddof=1) / np.sqrt(8))


def test_a_panel_for_each_series_and_a_geometric_law_by_generation(power):
    t = np.arange(1.0, 11.0)
    series = Series("other", {"generation": t}, 0.1 + 0.3 * 0.5**t)
    pairs = [power, (series, laws.fit(series, "geometric"))]
    first, second = panels(scaling.draw(pairs, "error"))
    assert first.get_title().startswith("s\n")
    assert second.get_title().startswith("other\n")
    assert second.get_xscale() == "linear"


def test_errors_that_cannot_be_drawn_are_left_out():
    series = one()
    series.error[[1, 3]] = 0, np.nan
    [axis] = panels(scaling.draw([(series, laws.fit(series))], "error"))
    [filled], [open_] = points(axis)
    assert len(filled.get_xdata()) + len(open_.get_xdata()) == 8


def test_a_line_for_each_pair_of_a_surface_ten_at_most(surface):
    _, fit = surface
    [axis] = panels(scaling.draw([surface], "error"))
    assert len(curves(axis, "--")) == scaling.MOST_LINES
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels[0] == "generation=1, theta_ver=0.1"
    assert labels[-1] == "generation=4, theta_ver=0.7"
    last = curves(axis, "--")[-1]
    at = {"generation": np.full(80, 4.0), "theta_ver": np.full(80, 0.7)}
    np.testing.assert_allclose(last.get_ydata(), fit.predict(n=last.get_xdata(), **at))


def printed(*fits, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(scaling.table([[fit] for fit in fits]))
    return console.file.getvalue()


def test_a_table(power, surface):
    _, fit = power
    said = printed(fit, surface[1])
    low, high = fit.intervals["alpha"]
    for text in (f"{fit.parameters['alpha']:.3g}", f"{low:.3g}–{high:.3g}", "power", "surface"):
        assert text in said
    assert "ours" in said
    assert f"{fit.held_out:.3f}" in said
    assert "…" not in said
    assert "(off)" not in said


def test_a_law_that_is_off_says_so():
    x = np.logspace(2, 5, 25)
    series = Series("best n", {"n": x}, 0.03 + 0.5 * np.log10(x / 3000) ** 2)
    fit = laws.fit(series)
    assert "power (off)" in printed(fit)
    [axis] = panels(scaling.draw([(series, fit)], "error"))
    assert "the law is off" in axis.get_title()
