"""Figures and tables of made-up records, read back from matplotlib's own objects."""

import io
import itertools
import math

import matplotlib.colors
import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection, QuadMesh
from rich.console import Console

from synthjax.io import results
from synthjax.mixture import Spec, dataset
from synthjax.plot import figures, table

pytestmark = pytest.mark.slow

SIZE = {"n": 200, "d": 5, "trajectories": 4, "learner": "ridge"}
NOISY = SIZE | {"generator": "flip", "verifier": "noisy"}
P = tuple(np.linspace(0.05, 0.95, 10).round(3).tolist())
ANGLES = tuple(np.linspace(0.1, 3.0, 9).round(3).tolist())
PSI = (0.0, 0.25, 1.0)

SPECS = {
    "no axis": Spec(**SIZE, generations=3, verifier="linear"),
    "p": Spec(**SIZE, generator="flip", generations=1, sweep={"p": P}),
    "p, psi": Spec(**NOISY, generations=2, sweep={"p": P, "psi": PSI}),
    "angles": Spec(
        **SIZE, generations=2, verifier="linear", sweep={"theta_gen": ANGLES, "theta_ver": ANGLES}
    ),
    "p, long psi": Spec(**NOISY, generations=1, sweep={"p": P, "psi": P[:9]}),
    "kinds": Spec(**SIZE, generations=2, sweep={"verifier": ("none", "oracle", "linear")}),
    "kinds, angle": Spec(
        **SIZE, generations=2, sweep={"verifier": ("none", "oracle"), "theta_gen": ANGLES}
    ),
    "two kinds": Spec(
        **SIZE,
        generations=1,
        sweep={"features": ("teacher", "mixture"), "verifier": ("none", "oracle")},
    ),
    "three": Spec(**NOISY, generations=1, sweep={"p": P, "psi": PSI, "phi": (0.5, 1.0)}),
    "four": Spec(
        **NOISY, generations=1, sweep={"p": P, "psi": PSI, "phi": (0.5, 1.0), "l2": (0.1, 1.0)}
    ),
    "angles, kinds": Spec(
        **SIZE,
        generations=1,
        sweep={"verifier": ("none", "linear"), "theta_gen": ANGLES, "theta_ver": ANGLES},
    ),
    "n": Spec(**SIZE, generations=1, sweep={"n": (100, 10_000, 1_000_000)}),
    "one value": Spec(**SIZE, generations=1, sweep={"theta_gen": (0.5,)}),
}


def made(spec: Spec, seed: int = 0, accuracy: float | None = None):
    """Results of `spec` with made-up accuracies (or the one that is given) and real theory."""
    records = dataset.empty(spec, goes_on=False)
    rng = np.random.default_rng(seed)
    records.accuracy[:] = rng.uniform(0.1, 0.9, records.accuracy.shape)
    if accuracy is not None:
        records.accuracy[:] = accuracy
    for count, low in ((records.right, 60), (records.wrong, 30)):
        count[..., 1:] = rng.integers(low, 100, count[..., 1:].shape)
    records.kept_right[..., 1:] = 50
    records.kept_wrong[..., 1:] = 20
    return dataset.to_dataset(spec, records, dataset.theory(spec))


@pytest.fixture(scope="module")
def ran():
    return {name: made(spec) for name, spec in SPECS.items()}


@pytest.fixture(autouse=True)
def closed():
    before = plt.get_fignums()
    yield
    for number in set(plt.get_fignums()) - set(before):
        plt.close(number)


def panels(figure):
    """The axes that hold data, not colour bars nor what is left empty."""
    return [axis for axis in figure.axes if axis.axison and axis.get_label() != "<colorbar>"]


def solid(axis):
    return [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]


def dashed(axis):
    return [line for line in axis.lines if line.get_linestyle() == "--" and len(line.get_xdata())]


def uprights(axis):
    """Where the dashed lines from bottom to top stand."""
    xs = [line.get_xdata() for line in dashed(axis)]
    return [x[0] for x in xs if len(x) == 2 and x[0] == x[1]]


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


@pytest.mark.parametrize("name", SPECS)
def test_any_sweep_is_drawn(ran, name, tmp_path):
    before = plt.get_fignums()
    (path,) = figures.save(ran[name], tmp_path / "figures")
    assert path == tmp_path / "figures" / "accuracy.png"
    pixels = matplotlib.image.imread(path)
    assert min(pixels.shape[:2]) >= 600
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2])[::7], axis=0)) > 20
    assert plt.get_fignums() == before  # nothing left open


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("accuracy", [0.5, 1.0, np.nan])
def test_a_sweep_where_nothing_varies_is_drawn(name, accuracy, tmp_path):
    figures.save(made(SPECS[name], accuracy=accuracy), tmp_path)


def test_a_figure_from_a_file(ran, tmp_path):
    """All that it needs is there, and kinds are strings of another sort."""
    results.write(ran["kinds, angle"], tmp_path / "results.nc")
    (axis,) = panels(figures.draw(results.read(tmp_path / "results.nc")))
    assert legend(axis)[:2] == ["verifier = none", "verifier = oracle"]


def test_no_axis_accuracy_by_generation(ran):
    found = ran["no axis"]
    (axis,) = panels(figures.draw(found))
    (line,) = solid(axis)
    assert line.get_xdata().tolist() == [0, 1, 2, 3]
    assert np.allclose(line.get_ydata(), found.accuracy.mean("trajectory"))
    (theory,) = dashed(axis)
    assert np.allclose(theory.get_ydata(), found.population_accuracy)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("generation", "accuracy")
    assert any("theory" in text for text in legend(axis))
    assert all(tick == round(tick) for tick in axis.get_xticks())


def test_a_band_holds_the_middle_95_percent(ran):
    (axis,) = panels(figures.draw(ran["no axis"]))
    (band,) = (artist for artist in axis.collections if isinstance(artist, PolyCollection))
    corners = band.get_paths()[0].vertices
    for generation, values in enumerate(ran["no axis"].accuracy.values.T):
        here = corners[corners[:, 0] == generation, 1]
        low, high = np.quantile(values, [0.025, 0.975])
        assert np.allclose([here.min(), here.max()], [low, high], atol=1e-6)


def test_p_and_one_series(ran):
    """No verifier: φ = ψ = 1, so it breaks down at 1/2."""
    (axis,) = panels(figures.draw(ran["p"]))
    (line,) = solid(axis)
    last = ran["p"].accuracy.isel(generation=-1).mean("trajectory")
    assert line.get_xdata().tolist() == list(P)
    assert np.allclose(line.get_ydata(), last)
    assert uprights(axis) == pytest.approx([0.5])
    assert axis.get_ylabel() == "accuracy after 1 generation"


def test_p_and_a_series_for_every_psi(ran):
    found = ran["p, psi"]
    (axis,) = panels(figures.draw(found))
    assert len(solid(axis)) == len(PSI)
    for line, psi in zip(solid(axis), PSI, strict=True):
        last = found.accuracy.sel(psi=psi).isel(generation=-1).mean("trajectory")
        assert np.allclose(line.get_ydata(), last)
        assert f"ψ = {psi:g}" in line.get_label()
    assert uprights(axis) == pytest.approx([1 / (1 + psi / 1.0) for psi in PSI])
    lines = zip(solid(axis), dashed(axis), strict=True)
    assert all(line.get_color() is theory.get_color() for line, theory in lines)
    said = " ".join(legend(axis))
    assert "oracle" in said
    assert "no verifier" in said
    assert "p*" in said
    numbers = {text.split("p* = ")[1] for text in legend(axis) if "p* = " in text}
    assert numbers == {"1.00", "0.80", "0.50"}
    assert axis.get_xlabel().startswith("p")
    assert axis.get_ylabel() == "accuracy after 2 generations"
    assert axis.get_ylim()[0] <= 0
    assert axis.get_ylim()[1] >= 1


def test_p_star_where_it_is_no_breakdown_point():
    """A linear verifier's φ and ψ depend on the guesses, so over p it has no one p*."""
    spec = Spec(**SIZE, generations=2, generator="flip", verifier="linear", sweep={"p": P})
    found = made(spec)
    assert found.p_star.isel(generation=slice(1, None)).std() > 0.01
    (axis,) = panels(figures.draw(found))
    assert uprights(axis) == []
    (theory,) = dashed(axis)
    assert np.allclose(theory.get_ydata(), found.population_accuracy.isel(generation=-1))


def test_two_long_axes_make_a_heat_map(ran):
    found = ran["angles"]
    figure = figures.draw(found)
    (axis,) = panels(figure)
    (mesh,) = (artist for artist in axis.collections if isinstance(artist, QuadMesh))
    last = found.accuracy.isel(generation=-1).mean("trajectory")
    for i, j in itertools.product(range(9), repeat=2):
        x, y = ANGLES[i], ANGLES[j]
        assert mesh.get_array().reshape(9, 9)[j, i] == pytest.approx(
            float(last.sel(theta_gen=x, theta_ver=y))
        )
    assert axis.get_xlabel().startswith("θ_gen")
    assert axis.get_ylabel().startswith("θ_ver")
    assert "rad" in axis.get_xlabel()
    assert mesh.get_clim() == (0, 1)
    (bar,) = (axis for axis in figure.axes if axis.get_label() == "<colorbar>")
    assert bar.get_ylabel() == "accuracy after 2 generations"


@pytest.mark.parametrize("generations", [1, 2, 4])
def test_the_boundary_over_the_angles(generations):
    """sin(c/2ᵀ) cos a + sin(c(1 − 2⁻ᵀ)) cos b = 0 with cos c = cos a cos b; T = 1: a + b = π."""
    sweep = {"theta_gen": ANGLES, "theta_ver": ANGLES}
    found = made(Spec(**SIZE, generations=generations, verifier="linear", sweep=sweep))
    (axis,) = panels(figures.draw(found))
    (line,) = dashed(axis)
    a, b = np.array(line.get_xdata()), np.array(line.get_ydata())
    defined = np.isfinite(b)
    a, b = a[defined], b[defined]
    assert len(a) > 50
    c = np.arccos(np.cos(a) * np.cos(b))
    part = 2.0**-generations
    residual = np.sin(c * part) * np.cos(a) + np.sin(c * (1 - part)) * np.cos(b)
    assert np.abs(residual).max() < 1e-3
    if generations == 1:
        assert np.allclose(a + b, math.pi, atol=1e-3)
    assert any("boundary" in text for text in legend(axis))
    assert axis.get_xlim() == pytest.approx((0.1, 3.0))


def test_the_boundary_when_the_axes_change_places():
    """The longer axis is x."""
    sweep = {"theta_gen": ANGLES, "theta_ver": (*ANGLES, 3.1)}
    found = made(Spec(**SIZE, generations=2, verifier="linear", sweep=sweep))
    (axis,) = panels(figures.draw(found))
    assert axis.get_xlabel().startswith("θ_ver")
    (line,) = dashed(axis)
    b, a = np.array(line.get_xdata()), np.array(line.get_ydata())
    c = np.arccos(np.cos(a) * np.cos(b))
    residual = np.sin(c / 4) * np.cos(a) + np.sin(3 * c / 4) * np.cos(b)
    assert np.abs(residual[np.isfinite(residual)]).max() < 1e-3


def test_no_boundary_where_the_formula_does_not_hold():
    sweep = {"theta_gen": ANGLES, "theta_ver": ANGLES}
    spec = Spec(**SIZE, generations=2, verifier="linear", features="mixture", sweep=sweep)
    (axis,) = panels(figures.draw(made(spec)))
    assert not dashed(axis)


def vertices(axis):
    """Of every dashed curve, a contour or a line."""
    curves = [np.c_[line.get_xdata(), line.get_ydata()] for line in dashed(axis)]
    contours = [a for a in axis.collections if not isinstance(a, (QuadMesh, PolyCollection))]
    curves += [path.vertices for contour in contours for path in contour.get_paths()]
    return np.concatenate(curves)


def test_the_breakdown_point_on_a_heat_map(ran):
    """Over (p, ψ) the curve p = 1/(1 + ψ/φ), exactly and not as a staircase of the grid."""
    (axis,) = panels(figures.draw(ran["p, long psi"]))
    p, psi = vertices(axis).T
    assert len(p) >= 9
    assert np.allclose(p, 1 / (1 + psi), atol=0.01)


@pytest.mark.parametrize("name", ["kinds", "kinds, angle"])
def test_a_series_for_every_kind(ran, name):
    found, kinds = ran[name], SPECS[name].sweep["verifier"]
    (axis,) = panels(figures.draw(found))
    assert len(solid(axis)) == len(dashed(axis)) == len(kinds)
    for kind, line, theory in zip(kinds, solid(axis), dashed(axis), strict=True):
        part = found.sel(verifier=kind)
        part = part if name == "kinds" else part.isel(generation=-1)
        assert np.allclose(line.get_ydata(), part.accuracy.mean("trajectory"))
        assert np.allclose(theory.get_ydata(), part.population_accuracy)
        assert line.get_label() == f"verifier = {kind}"
    colors = {matplotlib.colors.to_hex(line.get_color()) for line in solid(axis)}
    assert len(colors) == len(kinds)
    assert axis.get_xlabel().startswith("generation" if name == "kinds" else "θ_gen")


@pytest.mark.parametrize("name,axes", [("three", ["phi"]), ("four", ["phi", "l2"])])
def test_the_other_axes_make_panels(ran, name, axes):
    found, spec = ran[name], SPECS[name]
    drawn = panels(figures.draw(found))
    points = list(itertools.product(*(spec.sweep[axis] for axis in axes)))
    assert len(drawn) == len(points)
    for axis, point in zip(drawn, points, strict=True):
        part = found.sel(dict(zip(axes, point, strict=True))).isel(generation=-1)
        assert len(solid(axis)) == len(PSI)
        for line, psi in zip(solid(axis), PSI, strict=True):
            assert np.allclose(line.get_ydata(), part.accuracy.sel(psi=psi).mean("trajectory"))
        assert uprights(axis) == pytest.approx([1 / (1 + psi / point[0]) for psi in PSI])
        assert f"φ = {point[0]:g}" in axis.get_title()
        assert ("λ" in axis.get_title()) == (len(axes) == 2)


def test_heat_maps_in_panels(ran):
    drawn = panels(figures.draw(ran["angles, kinds"]))
    assert [axis.get_title() for axis in drawn] == ["verifier = none", "verifier = linear"]
    for axis in drawn:
        assert sum(isinstance(artist, QuadMesh) for artist in axis.collections) == 1


def test_twelve_panels_at_most():
    sweep = {"p": P, "psi": PSI, "phi": (0.2, 0.4, 0.6, 0.8, 1.0), "l2": (0.1, 0.2, 0.3, 0.4, 0.5)}
    figure = figures.draw(made(Spec(**NOISY, generations=1, sweep=sweep)))
    assert len(panels(figure)) == 12
    said = " ".join(text.get_text() for text in figure.texts) + figure.get_suptitle()
    assert "of 15" in said  # and that there are more is said


@pytest.mark.parametrize("name", ["three", "four"])
def test_nothing_lies_on_a_title(ran, name):
    """Neither the numbers of p* nor the labels of the panel above."""
    figure = figures.draw(ran[name])
    figure.draw_without_rendering()
    boxes = {axis: axis.title.get_window_extent() for axis in panels(figure)}
    for axis, other in itertools.product(boxes, repeat=2):
        for text in (*other.texts, other.xaxis.label, other.yaxis.label):
            if text.get_text() and text.get_visible():
                assert not boxes[axis].overlaps(text.get_window_extent()), text.get_text()


def test_sizes_over_decades_have_a_logarithmic_axis(ran):
    (axis,) = panels(figures.draw(ran["n"]))
    assert axis.get_xscale() == "log"
    (axis,) = panels(figures.draw(ran["kinds, angle"]))
    assert axis.get_xscale() == "linear"


def test_the_caption_says_what_was_run(ran):
    said = figures.draw(ran["p, psi"]).get_suptitle()
    for fact in ("n=200", "d=5", "verifier=noisy", "learner=ridge", "trajectories=4"):
        assert fact in said
    assert "psi=" not in said


def rows_of(found):
    """The summary as printed: title, header, rows."""
    console = Console(file=io.StringIO(), width=200)
    console.print(table.summary(found))
    lines = [line for line in console.file.getvalue().splitlines() if line.strip()]
    title = lines.pop(0) if "grid points" in lines[0] else None
    return title, lines[0], [line.split() for line in lines[1:]]


@pytest.mark.parametrize("name", SPECS)
def test_a_table(ran, name):
    found, spec = ran[name], SPECS[name]
    title, header, rows = rows_of(found)
    points = math.prod(len(values) for values in spec.sweep.values())
    assert len(rows) == min(points, 12)
    assert (title is None) == (points <= 12)
    if title:
        assert str(points) in title
    assert header.split()[: len(spec.sweep)] == list(spec.sweep)
    last = found.accuracy.isel(generation=-1)
    seen = set()
    for row in rows:
        at = {
            axis: type(spec.sweep[axis][0])(text)
            for axis, text in zip(spec.sweep, row, strict=False)
        }
        seen.add(tuple(at.values()))
        one, whole = last.sel(at), found.sel(at)
        cells = row[len(spec.sweep) :]
        assert cells[0] == f"{whole.accuracy.isel(generation=0).mean():.4f}"
        assert cells[1] == f"{one.mean():.4f}"
        assert cells[2] == "±"
        error = float(one.std(ddof=1)) / math.sqrt(spec.trajectories)
        assert float(cells[3]) == pytest.approx(error, rel=0.2)
        assert cells[4] == f"{whole.population_accuracy.isel(generation=-1):.4f}"
        assert cells[5] == f"{whole.p_hat.isel(generation=1).mean():.3f}"
        assert cells[6] == f"{whole.p_star_hat.isel(generation=1).mean():.3f}"
        assert cells[7] == "0"
    assert len(seen) == len(rows)


def test_a_large_table_has_the_extremes(ran):
    found = ran["angles"]
    means = np.sort(found.accuracy.isel(generation=-1).mean("trajectory").values.ravel())
    _, _, rows = rows_of(found)
    shown = [float(row[3]) for row in rows]
    assert shown == pytest.approx([*means[:6], *means[-6:]], abs=1e-4)


def test_a_table_has_no_two_columns_of_one_name(ran):
    names = [column.header for column in table.summary(ran["p, psi"]).columns]
    assert len(set(names)) == len(names)


def test_a_table_counts_what_is_not_fine():
    spec = SPECS["kinds"]
    records = dataset.empty(spec, goes_on=False)
    records.accuracy[:] = 0.5
    records.accuracy[1, 0, 1:] = np.nan
    records.status[1, 0, 1:] = 1
    records.status[1, 2, 2] = 2
    labelled = dataset.to_dataset(spec, records, dataset.theory(spec))
    _, _, rows = rows_of(labelled)
    assert [row[-1] for row in rows] == ["0", "2", "0"]
    assert all("nan" not in row[2] for row in rows)  # the mean of those that are left
