"""A small table of what a sweep found."""

import json

import numpy as np
import rich.table
import xarray as xr

MOST_ROWS = 12


def summary(results: xr.Dataset) -> rich.table.Table:
    """Accuracy before and after, its theory, and p against p*, a row per grid point.

    Of a large grid, the points of lowest and of highest accuracy.
    """
    axes = list(json.loads(results.attrs["spec"])["sweep"])
    generations = results.sizes["generation"] - 1
    grid = results.stack(point=axes) if axes else results.expand_dims("point")
    mean = grid.accuracy.mean("trajectory")
    last = mean.isel(generation=-1)
    repeats = grid.sizes["trajectory"]
    error = grid.accuracy.isel(generation=-1).std("trajectory", ddof=1) / np.sqrt(repeats)
    points = np.arange(grid.sizes["point"])
    title = None
    if len(points) > MOST_ROWS:
        title = f"lowest and highest of {len(points)} grid points"
        order = np.argsort(last.values, kind="stable")
        order = order[: np.isfinite(last.values).sum()]
        points = np.r_[order[: MOST_ROWS // 2], order[-MOST_ROWS // 2 :]]
    table = rich.table.Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = ("t = 0", f"accuracy, t = {generations}", "n → ∞", "p_hat", "p_star_hat", "not fine")
    for name in (*axes, *names):
        table.add_column(name, justify="right", no_wrap=True)
    for i in points:
        one = grid.isel(point=i)
        first = one.isel(generation=1).mean("trajectory")
        row = [_short(one[name].item()) for name in axes]
        row += [f"{mean.isel(point=i, generation=0):.4f}"]
        spread = f" ± {error.isel(point=i):.4f}" if repeats > 1 else ""
        row += [f"{last.isel(point=i):.4f}{spread}"]
        row += [f"{one.population_accuracy.isel(generation=-1):.4f}"]
        row += [f"{first.p_hat:.3f}", f"{first.p_star_hat:.3f}"]
        row += [str(int((one.status > 0).any("generation").sum()))]
        table.add_row(*row)
    return table


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
