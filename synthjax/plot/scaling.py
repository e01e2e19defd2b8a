"""Figure and table of fitted scaling laws."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import rich.table
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from synthjax.scaling.laws import Fit, Series, held_out

# How far beyond the data a law is drawn, as a share of their span.
BEYOND = 0.35
MOST_LINES = 10
ACROSS, SIZE = 3, (4.6, 3.9)
TITLE = 62  # letters


def draw(pairs: Sequence[tuple[Series, Fit]], y: str) -> Figure:
    """Points with two standard errors, the law with its 95 % band, and beyond the data dashed.

    A panel for each series. A surface is drawn against its first column, a line for each pair of
    the others, at most 10 of them, evenly chosen.
    """
    across = min(len(pairs), ACROSS)
    down = -(-len(pairs) // across)
    surfaces = any(len(series.columns) > 1 for series, _ in pairs)  # with legends below
    height = (SIZE[1] + surfaces) * down + 0.5
    figure = Figure(figsize=(SIZE[0] * across, height), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axis, (series, fit) in zip(panels, pairs, strict=False):
        first, *others = series.columns
        rows = np.stack([series.columns[name] for name in others], 1) if others else None
        lines = np.unique(rows, axis=0) if others else np.empty((1, 0))
        shown = np.unique(np.linspace(0, len(lines) - 1, MOST_LINES).round().astype(int))
        colors = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.88, len(shown)))
        for line, color in zip(lines[shown], colors, strict=True):
            inside = (rows == line).all(1) if others else np.ones(len(series.error), bool)
            fixed = dict(zip(others, line, strict=True))
            label = ", ".join(f"{name}={value:.3g}" for name, value in fixed.items())
            _line(axis, series, fit, fixed, inside, color, label)
        axis.set_title(f"{series.name}\n{_told(fit)}", fontsize=8)
        axis.set(xlabel=first, yscale="log")
        axis.yaxis.set_minor_formatter("{x:.2g}")
        axis.tick_params(axis="y", which="both", labelsize=7)
        axis.tick_params(axis="x", which="minor", labelsize=5)
        if fit.law != "geometric":
            axis.set_xscale("log")
        if others:
            axis.legend(fontsize=6, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    for axis in panels[len(pairs) :]:
        axis.remove()
    for axis in panels[::across]:
        axis.set_ylabel(y)
    figure.suptitle(
        "filled: what a law is fitted to before it is judged; open: the largest x, which judge it; "
        "shaded: beyond the data",
        fontsize=8,
    )
    return figure


def _told(fit: Fit) -> str:
    # Tied by spaces that are not broken at.
    values = ", ".join(f"{name}\u00a0=\u00a0{value:.3g}" for name, value in fit.parameters.items())
    values = textwrap.fill(values, TITLE, break_on_hyphens=False).replace("\u00a0", " ")
    return f"{fit.formula}\n{values}" + ("\nresiduals have a pattern: the law is off" * fit.off)


def _line(
    axis: Axes,
    series: Series,
    fit: Fit,
    fixed: Mapping[str, float],
    inside: Bool[np.ndarray, " points"],
    color: np.ndarray,
    label: str,
) -> None:
    first = next(iter(series.columns))
    every = series.columns[first]
    judges = held_out(every)
    fine = inside & np.isfinite(series.error) & (series.error > 0)
    if series.repeats is not None and series.repeats.shape[1] > 1:
        repeats = series.repeats[fine]
        spread = np.nanstd(repeats, 1, ddof=1) / np.sqrt(np.isfinite(repeats).sum(1))
        axis.errorbar(every[fine], series.error[fine], 2 * spread, fmt="none", color=color, lw=1)
    for points, filling, name in ((fine & ~judges, color, label), (fine & judges, "white", None)):
        axis.plot(every[points], series.error[points], "o", ms=4, color=color, mfc=filling)
        if name:
            axis.plot([], [], "o-", ms=4, color=color, label=name)
    there, back = (lambda x: x, lambda x: x) if fit.law == "geometric" else (np.log, np.exp)
    low, high = there(every.min()), there(every.max())
    end = high + BEYOND * (high - low)
    for start, stop, style in ((low, high, "-"), (high, end, "--")):
        grid = back(np.linspace(start, stop, 80))
        columns = {first: grid} | {name: np.full(80, value) for name, value in fixed.items()}
        axis.plot(grid, fit.predict(**columns), style, color=color, lw=1.2)
        axis.fill_between(grid, *fit.band(**columns), color=color, alpha=0.2, lw=0)
    if not any(isinstance(patch, Patch) for patch in axis.patches):
        axis.axvspan(back(high), back(end), color="0.93", lw=0, zorder=-1)


def table(fits: Sequence[Sequence[Fit]]) -> rich.table.Table:
    """A row for each fit, of a series the best first: parameters over their 95 % intervals, how far
    off the law is, and how it does beyond the points that it was fitted to.

    `covered`: share of those that its 95 % band holds. `dropped`: points with no error > 0,
    or of no series.
    """
    every = [fit for series in fits for fit in series]
    shown = rich.table.Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(name for fit in every for name in fit.parameters))
    for name in ("series", "law"):
        shown.add_column(name, overflow="fold")
    for name in (*names, "R²", "scatter", "held-out\n|Δ log|", "covered", "points", "dropped"):
        shown.add_column(name, justify="right", no_wrap=True)
    for fit in every:
        row = [fit.name, fit.law + (" (off)" * fit.off)]
        for name in names:
            if name not in fit.parameters:
                row.append("")
                continue
            low, high = fit.intervals[name]
            row.append(f"{fit.parameters[name]:.3g}\n{low:.3g}–{high:.3g}")
        judged = "–" if np.isnan(fit.held_out) else f"{fit.held_out:.3f}"
        covered = "–" if np.isnan(fit.covered) else f"{fit.covered:.2f}"
        row += [f"{fit.r2:.4f}", f"{fit.scatter:.4f}", judged, covered]
        shown.add_row(*row, str(fit.points), str(fit.dropped))
    return shown
