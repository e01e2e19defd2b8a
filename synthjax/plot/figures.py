"""The figure of a sweep: chosen by its axes, drawn from its results alone."""

import json
import math
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from synthjax.io.workdir import WorkdirError
from synthjax.mixture.theory import boundary

SYMBOLS = {
    "theta_gen": "θ_gen, generator's angle (rad)",
    "theta_ver": "θ_ver, verifier's angle (rad)",
    "p": "p, rate of wrong guesses",
    "phi": "φ",
    "psi": "ψ",
    "l2": "λ",
    "error_correlation": "ρ",
}
MOST_SERIES = 8
MOST_PANELS = 12
# An axis of sizes over more than this ratio is logarithmic.
SIZES, DECADES = ("n", "d", "n_real", "l2"), 30


def save(results: xr.Dataset, directory: Path) -> Path:
    """Draw the figure of `results` into `directory`/accuracy.png; WorkdirError where it cannot."""
    path = directory / "accuracy.png"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draw(results).savefig(path, dpi=150)
    except OSError as error:
        raise WorkdirError(
            f"{path}: could not be written ({error.strerror or error}); results.nc is whole"
        ) from None
    return path


def draw(results: xr.Dataset) -> Figure:
    """Accuracy after the last generation over the swept fields, with the theory on it.

    No axis: accuracy by generation. The longest numeric axis is x; a second long one makes a heat
    map, a short one or an axis of kinds makes a series each; the rest makes panels, at most 12.
    """
    axes = sorted(
        _axes(results), key=lambda name: (not _numeric(results, name), -results.sizes[name])
    )
    x = axes.pop(0) if axes and _numeric(results, axes[0]) else None
    long = [name for name in axes if results.sizes[name] > MOST_SERIES and _numeric(results, name)]
    y = long[0] if x and long else None
    series = next((n for n in axes if not y and results.sizes[n] <= MOST_SERIES), None)
    rest = [name for name in axes if name not in (y, series)]
    count = math.prod(results.sizes[name] for name in rest)
    panels = list(np.ndindex(*(results.sizes[name] for name in rest)))[:MOST_PANELS]
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    # Not through pyplot, which would keep the figure and choose a notebook's backend.
    size = (max(7.2, 4.2 * columns), max(5.0, 3.6 * rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for panel, axis in zip(panels, grid.flat, strict=False):
        at = dict(zip(rest, panel, strict=True))
        _panel(axis, results.isel(at), x, y, series)
        if at:
            axis.set_title(", ".join(_value(results, *pair) for pair in at.items()), fontsize=9)
    for axis in grid.flat[len(panels) :]:
        axis.set_axis_off()
    more = f"\nthe first {MOST_PANELS} of {count} panels" if count > MOST_PANELS else ""
    figure.suptitle(_caption(results) + more, fontsize=9)
    return figure


def _panel(axis: Axes, part: xr.Dataset, x: str | None, y: str | None, series: str | None) -> None:
    if y is not None:
        _heat_map(axis, part, x, y)
        return
    last = part if x is None else part.isel(generation=-1)
    along = x or "generation"
    count = part.sizes[series] if series else 1
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, count))
    for i, color in enumerate(colors):
        line = last.isel({series: i}) if series else last
        label = _series_label(part, series, i) if series else "mean of the trajectories"
        _line(axis, line, along, color, label)
    axis.plot([], [], color="0.3", ls="--", lw=1, label="n → ∞ (theory)")
    axis.axhline(0.5, color="0.8", lw=0.8, zorder=0)
    axis.set(xlabel=SYMBOLS.get(along, along), ylim=(-0.03, 1.03))
    if along == "generation":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif along in SIZES and 0 < DECADES * part[along].min() < part[along].max():
        axis.set_xscale("log")
    axis.set_ylabel("accuracy" + (f" after {_times(part)}" if x else ""))
    axis.legend(fontsize=8, loc="lower left")


def _line(axis: Axes, line: xr.Dataset, along: str, color, label: str) -> None:
    at = line[along]
    mean = line.accuracy.mean("trajectory")
    with warnings.catch_warnings():  # where every trajectory failed there is no band
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = line.accuracy.quantile([0.025, 0.975], "trajectory")
    p_stars = np.unique(line.p_star)
    if along == "p" and len(p_stars) == 1:  # for n → ∞ a step from 1 to 0 at p*
        p_star = float(p_stars[0])
        axis.axvline(p_star, color=color, ls="--", lw=1.2, zorder=0)
        label += f", p* = {p_star:.2f}"
    else:
        axis.plot(at, line.population_accuracy, "--", color=color, lw=1)
    axis.fill_between(at, low, high, color=color, alpha=0.18, lw=0)
    axis.plot(at, mean, "o-", color=color, ms=3, lw=1.2, label=label)


def _heat_map(axis: Axes, part: xr.Dataset, x: str, y: str) -> None:
    last = part.isel(generation=-1)
    mean = last.accuracy.mean("trajectory").transpose(y, x)
    mesh = axis.pcolormesh(
        last[x], last[y], mean, cmap="RdBu", vmin=0, vmax=1, shading="nearest", rasterized=True
    )
    axis.figure.colorbar(mesh, ax=axis, label=f"accuracy after {_times(part)}")
    if {x, y} == {"theta_gen", "theta_ver"} and _boundary_applies(part):
        a = np.linspace(1e-3, math.pi - 1e-3, 400)
        b = np.asarray(boundary(a, part.sizes["generation"] - 1, _spec(part)["error_correlation"]))
        line = (a, b) if x == "theta_gen" else (b, a)
        axis.plot(*line, "k--", lw=1.6, label="boundary, n → ∞ (theory)")
        axis.set(xlim=(last[x].min(), last[x].max()), ylim=(last[y].min(), last[y].max()))
        axis.legend(fontsize=8, loc="lower left")
    elif "p" in (x, y) and float((last.p_star.max("p") - last.p_star.min("p")).max()) == 0:
        # For n → ∞ a step at p*: a line through the grid would be a staircase.
        other = y if x == "p" else x
        line = (last.p_star.isel(p=0), last[other])
        axis.plot(*(line if x == "p" else line[::-1]), "k--", lw=1.6, label="p* (theory)")
        axis.set(xlim=(last[x].min(), last[x].max()), ylim=(last[y].min(), last[y].max()))
        axis.legend(fontsize=8, loc="lower left")
    else:
        population = last.population_accuracy.transpose(y, x)
        if population.min() < 0.5 < population.max():
            axis.contour(last[x], last[y], population, [0.5], colors="k", linestyles="--")
    axis.set(xlabel=SYMBOLS.get(x, x), ylabel=SYMBOLS.get(y, y))


def _boundary_applies(part: xr.Dataset) -> bool:
    spec = _spec(part)
    wanted = {
        "features": "teacher",
        "initial": "angle",
        "generator": "linear",
        "verifier": "linear",
    }
    swept = set(wanted) | {"error_correlation"}
    return all(spec[k] == v for k, v in wanted.items()) and not swept & set(spec["sweep"])


def _spec(results: xr.Dataset) -> dict:
    return json.loads(results.attrs["spec"])


def _axes(results: xr.Dataset) -> list[str]:
    return [name for name in _spec(results)["sweep"] if name in results.dims]


def _numeric(results: xr.Dataset, name: str) -> bool:
    return np.issubdtype(results[name].dtype, np.number)


def _value(results: xr.Dataset, name: str, i: int) -> str:
    value = results[name].values[i]
    value = value if isinstance(value, str) else f"{value:.4g}"
    return f"{SYMBOLS.get(name, name).split(',')[0]} = {value}"


def _series_label(part: xr.Dataset, series: str, i: int) -> str:
    label = _value(part, series, i)
    spec = _spec(part)
    if series == "psi" and spec["phi"] == 1:
        label += {0.0: " (oracle)", 1.0: " (no verifier)"}.get(float(part.psi[i]), "")
    return label


def _times(results: xr.Dataset) -> str:
    generations = results.sizes["generation"] - 1
    return f"{generations} generation" + "s" * (generations > 1)


def _caption(results: xr.Dataset) -> str:
    spec = _spec(results)
    names = ("features", "generator", "verifier", "learner", "n", "d", "l2", "trajectories")
    said = [f"{name}={spec[name]}" for name in names if name not in spec["sweep"]]
    return "Verified self-training\n" + ", ".join(said)
