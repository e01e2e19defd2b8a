"""How good a verifier must be: the angle it may be off, by n, for accuracies to be reached."""

import matplotlib
import numpy as np
import rich.table
import xarray as xr
from matplotlib.figure import Figure

from synthjax.plot.figures import caption


def draw(found: xr.Dataset) -> Figure:
    """A line for each target over n: below it a verifier is good enough."""
    figure = Figure(figsize=(7.2, 5), layout="constrained")
    axis = figure.subplots()
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, found.sizes["target"]))
    for target, color in zip(found.target.values, colors, strict=True):
        line = found.required_theta_ver.sel(target=target)
        missing = "" if line.notnull().any() else " (out of reach)"
        label = f"accuracy {target:g}{missing}"
        axis.plot(found.n, line, "o-", ms=3, lw=1.2, color=color, label=label)
    axis.set(
        xscale="log",
        xlabel="n, examples of a generation",
        ylabel="largest θ_ver that is good enough (rad)",
        ylim=(0, None),
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.suptitle(caption(found, "How good must the verifier be?"), fontsize=9)
    return figure


def table(found: xr.Dataset) -> rich.table.Table:
    """The same as a table, angles in radians; – where even a perfect verifier is not enough."""
    shown = rich.table.Table(title="largest theta_ver (rad)", title_justify="left", box=None)
    shown.add_column("n", justify="right")
    for target in found.target.values:
        shown.add_column(f"accuracy {target:g}", justify="right")
    for n in found.n.values:
        row = found.required_theta_ver.sel(n=n).values
        shown.add_row(str(n), *("–" if np.isnan(angle) else f"{angle:.3f}" for angle in row))
    return shown
