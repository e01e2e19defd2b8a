"""The figure of a sweep: chosen by its axes, drawn from its results alone."""

import json
import math
import warnings

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from synthjax.io.storage import Place
from synthjax.mixture.spec import Spec
from synthjax.mixture.theory import boundary
from synthjax.plot import files
from synthjax.protocol.spec import fields_of

SYMBOLS = {
    "theta_gen": "θ_gen, generator's angle (rad)",
    "theta_ver": "θ_ver, verifier's angle (rad)",
    "p": "p, rate of wrong guesses",
    "p_plus": "p₊, rate of wrong guesses where y = 1",
    "p_minus": "p₋, rate of wrong guesses where y = −1",
    "phi": "φ",
    "psi": "ψ",
    "phi_plus": "φ₊",
    "phi_minus": "φ₋",
    "psi_plus": "ψ₊",
    "psi_minus": "ψ₋",
    "l2": "λ",
    "error_correlation": "ρ, how far the verifier shares the generator's mistakes",
    "covariance_decay": "decay of Σ's spectrum",
    "n": "n, examples of a generation",
    "k": "k, guesses for an example",
    "keep": "fraction kept",
    "temperature": "temperature of the generator",
    "real_fraction": "fraction of real examples",
}
MOST_SERIES = 8
MOST_PANELS = 12
MOST_TICKS = 8
# Fields that a caption does not show, and how many of the others a line of it takes.
HIDDEN, PER_LINE = ("memory_gb", "keep_classifiers", "engine", "seed", "generations"), 7
# Accuracies that differ by less are not shown on the whole scale from 0 to 1.
ZOOM = 0.5
# An axis of sizes over more than this ratio is logarithmic.
SIZES, DECADES = ("n", "d", "n_real", "k", "l2", "temperature"), 30


def save(results: xr.Dataset, directory: Place) -> list[Place]:
    """Draw the figure of `results` into `directory`/accuracy.png; WorkdirError where it cannot."""
    return files.save({"accuracy": draw}, results, directory)


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
    if y is None:  # only now are the limits known, which all panels share
        low, high = grid[0, 0].get_ylim()
        if high - low > ZOOM:
            low, high = -0.03, 1.03
        for axis in grid.flat[: len(panels)]:
            axis.set_ylim(max(low, -0.03), min(high, 1.03))
            if low < 0.5 < high:
                axis.axhline(0.5, color="0.8", lw=0.8, zorder=0)
    more = f"\nthe first {MOST_PANELS} of {count} panels" if count > MOST_PANELS else ""
    figure.suptitle(caption(results, "Verified self-training") + more, fontsize=9)
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
    if part.population_accuracy.notnull().any():
        axis.plot([], [], color="0.3", ls="--", lw=1, label="n → ∞ (theory)")
    if part.evolution_accuracy.notnull().any():
        axis.plot([], [], color="0.3", ls=":", lw=1.4, label="state evolution (theory)")
    axis.set_xlabel(SYMBOLS.get(along, along))
    if along == "generation":
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif along in SIZES and 0 < DECADES * part[along].min() < part[along].max():
        axis.set_xscale("log")
        if part.sizes[along] <= MOST_TICKS:
            axis.set_xticks(part[along].values, [f"{value:.3g}" for value in part[along].values])
            axis.minorticks_off()
    axis.set_ylabel("accuracy" + (f" after {_times(part)}" if x else ""))
    axis.legend(fontsize=8, loc="best", framealpha=0.6)


def _line(axis: Axes, line: xr.Dataset, along: str, color, label: str) -> None:
    at = line[along]
    mean = line.accuracy.mean("trajectory")
    with warnings.catch_warnings():  # where every trajectory failed there is no band
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = line.accuracy.quantile([0.025, 0.975], "trajectory")
    p_star = line.p_star.dropna(along)
    step = False
    if along == "p" and p_star.size and float(p_star.max() - p_star.min()) < 1e-3:
        # For n → ∞ a step from 1 to 0 at p*, where the breakdown theorem holds.
        step = np.isin(line.population_accuracy.values.round(3), (0, 0.5, 1)).all()
        p_star = float(p_star.mean())
        axis.axvline(p_star, color=color, ls="--" if step else ":", lw=1.2, zorder=0)
        label += f", p* = {p_star:.2f}"
    if not step:
        axis.plot(at, line.population_accuracy, "--", color=color, lw=1)
    if line.evolution_accuracy.notnull().any():
        axis.plot(at, line.evolution_accuracy, ":", color=color, lw=1.4)
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
    evolved = last.evolution_accuracy.transpose(y, x)
    if evolved.notnull().all() and evolved.min() < 0.5 < evolved.max():
        axis.contour(last[x], last[y], evolved, [0.5], colors="k", linestyles=":")
        axis.plot([], [], "k:", label="1/2 by state evolution")
        axis.legend(fontsize=8, loc="lower left")
    axis.set(xlabel=SYMBOLS.get(x, x), ylabel=SYMBOLS.get(y, y))


def _boundary_applies(part: xr.Dataset) -> bool:
    spec = _spec(part)
    wanted = {
        "features": "teacher",
        "initial": "angle",
        "generator": "linear",
        "verifier": "linear",
        "selection": "prune",
        "regime": "replace",
        "covariance": "isotropic",
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


def caption(results: xr.Dataset, title: str) -> str:
    """What the figure is of: sizes, and all that is off its default."""
    spec = _spec(results)
    fields, always = fields_of(Spec), ["n", "d", "learner", "l2"]
    always.append("trajectories" if "trajectory" in results.dims else "generations")
    said = [
        f"{name}={spec[name]:.4g}" if isinstance(spec[name], float) else f"{name}={spec[name]}"
        for name, field in fields.items()
        if name not in ("sweep", *results.coords)
        and (name in always or (name not in HIDDEN and spec[name] != field.default))
    ]
    lines = [", ".join(said[i : i + PER_LINE]) for i in range(0, len(said), PER_LINE)]
    return "\n".join([title, *lines])
