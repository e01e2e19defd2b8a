"""Figure and table of fitted scaling laws."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import rich.table
from matplotlib.figure import Figure

from synthjax.scaling.laws import HELD_OUT, Fit, Series

# How far beyond the data a law is drawn, as a share of their span.
BEYOND = 0.35
MOST_LINES = 10


def draw(pairs: Sequence[tuple[Series, Fit]], y: str) -> Figure:
    """Points with their scatter, the law with its band, and beyond the data dashed, apart.

    A surface is drawn against its first column, a line for each pair of the others.
    """
    figure = Figure(figsize=(8.2, 5.4), layout="constrained")
    axis = figure.subplots()
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(pairs)))
    geometric = False
    for (series, fit), color in zip(pairs, colors, strict=True):
        geometric |= fit.law == "geometric"
        first, *others = series.columns
        rows = np.stack([series.columns[name] for name in others], 1) if others else None
        lines = np.unique(rows, axis=0)[:MOST_LINES] if others else [()]
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(lines)))
        for line, shade in zip(lines, shades if others else [color], strict=True):
            inside = (rows == line).all(1) if others else slice(None)
            label = f"{series.name}: {_told(fit)}"
            if others:
                label = ", ".join(f"{n}={v:.3g}" for n, v in zip(others, line, strict=True))
            fixed = dict(zip(others, line, strict=True))
            _line(axis, series, fit, first, fixed, inside, shade, label)
    axis.set(xlabel=" and ".join(next(iter(s.columns)) for s, _ in pairs[:1]), ylabel=y)
    axis.set_yscale("log")
    if not geometric:
        axis.set_xscale("log")
    axis.axvspan(np.nan, np.nan, color="0.93", label="beyond the data")
    axis.legend(fontsize=7)
    axis.set_title(
        "filled: fitted; open: the held-out part of largest x, from which the law is judged",
        fontsize=8,
    )
    return figure


def _told(fit: Fit) -> str:
    return ", ".join(f"{name} = {value:.3g}" for name, value in fit.parameters.items())


def _line(axis, series: Series, fit: Fit, first: str, fixed: dict, inside, color, label) -> None:
    x, error = series.columns[first][inside], series.error[inside]
    order = np.argsort(x)
    x, error = x[order], error[order]
    fine = np.isfinite(error) & (error > 0)
    values = np.unique(x)
    held = x >= values[-max(1, round(HELD_OUT * len(values)))]
    if series.repeats is not None and series.repeats.shape[1] > 1:
        repeats = series.repeats[inside][order]
        spread = np.nanstd(repeats, 1, ddof=1) / np.sqrt(repeats.shape[1])
        axis.errorbar(x[fine], error[fine], 2 * spread[fine], fmt="none", color=color, lw=1)
    axis.plot(x[fine & ~held], error[fine & ~held], "o", ms=4, color=color, label=label)
    axis.plot(x[fine & held], error[fine & held], "o", ms=4, color=color, mfc="white")
    logarithmic = fit.law != "geometric"
    low, high = (np.log(values[[0, -1]]) if logarithmic else values[[0, -1]]).astype(float)
    end = high + BEYOND * (high - low)
    for start, stop, style in ((low, high, "-"), (high, end, "--")):
        grid = np.linspace(start, stop, 80)
        grid = np.exp(grid) if logarithmic else grid
        columns = {first: grid} | {name: np.full(80, value) for name, value in fixed.items()}
        axis.plot(grid, fit.predict(**columns), style, color=color, lw=1.2)
        axis.fill_between(grid, *fit.band(**columns), color=color, alpha=0.15, lw=0)
    edges = np.exp([high, end]) if logarithmic else (high, end)
    axis.axvspan(*edges, color="0.93", lw=0, zorder=-1)


def table(fits: Sequence[Fit]) -> rich.table.Table:
    """A row for each fit: parameters with 95 % intervals, R², and how it does beyond its data."""
    shown = rich.table.Table(box=None, pad_edge=False)
    shown.add_column("series")
    shown.add_column("law", no_wrap=True)
    names = list(dict.fromkeys(name for fit in fits for name in fit.parameters))
    for name in (*names, "R²", "held-out |Δ log|", "covered", "points"):
        shown.add_column(name, justify="right", no_wrap=True)
    for fit in fits:
        row = [fit.name, fit.formula]
        for name in names:
            if name not in fit.parameters:
                row.append("")
                continue
            low, high = fit.intervals[name]
            row.append(f"{fit.parameters[name]:.3g} ({low:.3g} to {high:.3g})")
        row += [f"{fit.r2:.4f}", f"{fit.held_out:.3f}", f"{fit.covered:.2f}", str(fit.points)]
        shown.add_row(*row)
    return shown
