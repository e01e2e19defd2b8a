"""Figures of eigenvalue runs, drawn from their results alone."""

import json
import math

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from synthjax.eigen.spec import Spec
from synthjax.io.storage import Place
from synthjax.plot import files
from synthjax.protocol.spec import fields_of

MOST_LINES = 12
# Fields that a caption leaves out: how a run goes, not what it is.
HIDDEN = ("sweep", "decode_batch", "save_steps", "log_steps", "seed", "k_test", "n_test", "mesh")
PER_LINE = 8


def save(results: xr.Dataset, directory: Place) -> list[Place]:
    """Draw what the results have to show into `directory`; WorkdirError where it cannot.

    accuracy.png by generation; by_k.png where `k_test` is swept; by_p_star.png where `psi` is.
    """
    wanted = {}
    if results.sizes["generation"] > 1:
        wanted["accuracy"] = by_generation
    if "k_test" in results.dims:
        wanted["by_k"] = by_k
    if "psi" in results.dims and results.sizes["generation"] > 1:
        wanted["by_p_star"] = by_p_star
    return files.save(wanted, results, directory)


def by_generation(results: xr.Dataset) -> Figure:
    """Greedy accuracy by generation, a line for each element and a panel for each tolerance."""
    lines = _lines(results)
    figure, panels = _panels(results)
    for axis, tolerance in zip(panels, results.tolerance.values, strict=True):
        for color, (label, part) in zip(_colors(len(lines)), lines, strict=True):
            part = _at(part, tolerance)
            _band(axis, part.generation, part, color, label)
        axis.set(xlabel="generation", title=f"τ = {tolerance:.1%}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finished(figure, panels, results, "Accuracy by generation")


def by_k(results: xr.Dataset) -> Figure:
    """Accuracy of the first generator against the number of beams, by how one of them is chosen."""
    results = results.isel({name: 0 for name in _axes(results) if name != "k_test"})
    results = results.isel(generation=0).sortby("k_test")
    figure, panels = _panels(results)
    decodings = results.decoding.values
    for axis, tolerance in zip(panels, results.tolerance.values, strict=True):
        for color, decoding in zip(_colors(len(decodings)), decodings, strict=True):
            part = _at(results, tolerance, decoding)
            _band(axis, part.k_test, part, color, decoding)
        axis.set(xlabel="k, beams", title=f"τ = {tolerance:.1%}")
        if results.k_test.max() > 10 * results.k_test.min():
            axis.set_xscale("log")
            axis.set_xticks(part.k_test.values, [str(k) for k in part.k_test.values])
            axis.minorticks_off()
    return _finished(figure, panels, results, "The generator's guesses are better than its choice")


def by_p_star(results: xr.Dataset) -> Figure:
    """Accuracy after the last generation against p*, and where it crosses the generator's own."""
    rest = [name for name in _axes(results) if name != "psi"]
    figure, panels = _panels(results)
    grid = results.stack(element=rest) if rest else results.expand_dims("element")
    for axis, tolerance in zip(panels, results.tolerance.values, strict=True):
        at = _at(grid, tolerance)
        for i, color in enumerate(_colors(min(at.sizes["element"], MOST_LINES))):
            part = at.isel(element=i)
            first, last = part.isel(generation=0), part.isel(generation=-1)
            # p* of the verifier as it is, not as it looks at this tolerance.
            p_star = 1 / (1 + part.psi / (part.phi if "phi" in rest else _spec(results)["phi"]))
            label = ", ".join(f"{name} = {_short(part[name].item())}" for name in rest)
            _band(axis, p_star, last, color, label or f"generation {int(last.generation)}")
            axis.axhline(float(first.accuracy.mean()), color=color, ls="--", lw=1)
            crossing = crossing_of(
                p_star.values, last.accuracy.values, float(first.accuracy.mean())
            )
            if math.isfinite(crossing):
                axis.axvline(crossing, color=color, ls=":", lw=1)
                axis.annotate(
                    f"{crossing:.2f}",
                    (crossing, 0.02),
                    xycoords=("data", "axes fraction"),
                    color=color,
                    fontsize=8,
                )
        axis.plot([], [], color="0.3", ls="--", lw=1, label="the generator's own")
        axis.plot([], [], color="0.3", ls=":", lw=1, label="where they cross")
        axis.set(xlabel="p* = 1/(1 + ψ/φ) of the verifier", title=f"τ = {tolerance:.1%}")
    return _finished(figure, panels, results, "How good must the verifier be?")


def crossing_of(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """The largest x at which y, taken as linear between its points, rises to `level`; or NaN."""
    order = np.argsort(x)
    x, y = np.asarray(x)[order], np.asarray(y)[order] - level
    for i in reversed(range(len(x) - 1)):
        if y[i] < 0 <= y[i + 1]:
            return float(x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i]))
    return math.nan


def summary(results: xr.Dataset) -> Table:
    """Accuracies of every element before and after, what was kept, and p against p*.

    Without generations: greedy, by an oracle of `k_test` beams, and by their log-probability.
    """
    spec, lines = _spec(results), _lines(results, most=None)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    last = results.sizes["generation"] - 1
    shown = "greedy" if last else "greedy / oracle / log-prob"
    columns = [f"{shown} at {tau:.1%}" for tau in results.tolerance.values]
    for name in (*columns, *("kept", "p_hat", "p_star_hat")[: 3 * bool(last)]):
        table.add_column(name, justify="right", no_wrap=True)
    for label, part in lines:
        accuracy = part.accuracy.transpose("generation", "tolerance", "decoding").values
        row = [" / ".join(f"{value:.3f}" for value in each) for each in accuracy[0]]
        if last:
            ends = zip(accuracy[0, :, 0], accuracy[-1, :, 0], strict=True)
            row = [f"{before:.3f} → {after:.3f}" for before, after in ends]
            first = part.isel(generation=1)
            row.append(f"{float(first.kept):.3f}")
            rates = first.sel({"tolerance": spec["verifier_tolerance"]}, method="nearest")
            row += [f"{float(rates[name]):.3f}" for name in ("p_hat", "p_star_hat")]
        table.add_row(label, *row)
    return table


def _at(results: xr.Dataset, tolerance: float, decoding: str = "greedy") -> xr.Dataset:
    # As a dict: xarray's `sel` has an argument of its own called tolerance.
    return results.sel({"tolerance": tolerance, "decoding": decoding})


def _band(axis: Axes, x: xr.DataArray, part: xr.Dataset, color, label: str) -> None:
    axis.fill_between(
        x.values, part.accuracy_low, part.accuracy_high, color=color, alpha=0.18, lw=0
    )
    axis.plot(x.values, part.accuracy, "o-", color=color, ms=3, lw=1.2, label=label)


def _panels(results: xr.Dataset) -> tuple[Figure, list[Axes]]:
    # Not through pyplot, which would keep the figure and choose a notebook's backend.
    count = results.sizes["tolerance"]
    figure = Figure(figsize=(3.6 * count, 4.2), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _finished(figure: Figure, panels: list[Axes], results: xr.Dataset, title: str) -> Figure:
    for axis in panels:
        axis.set_ylim(bottom=0)
    panels[0].set_ylabel("accuracy on test matrices")
    panels[0].legend(fontsize=8, framealpha=0.6)
    figure.suptitle(caption(results, title), fontsize=9)
    return figure


def caption(results: xr.Dataset, title: str) -> str:
    """What the figure is of: all that is off its default."""
    spec = _spec(results)
    said = [
        f"{name}={_short(spec[name])}"
        for name, field in fields_of(Spec).items()
        if name not in HIDDEN and name not in results.dims and spec[name] != field.default
    ]
    lines = [", ".join(said[i : i + PER_LINE]) for i in range(0, len(said), PER_LINE)]
    return "\n".join([title, *lines])


def _lines(results: xr.Dataset, most: int | None = MOST_LINES) -> list[tuple[str, xr.Dataset]]:
    """The elements with their names, the first `most` of them."""
    axes = _axes(results)
    if not axes:
        return [(_spec(results)["verifier"], results)]
    grid = results.stack(element=axes)
    found = []
    for i in range(grid.sizes["element"]):
        part = grid.isel(element=i)
        label = ", ".join(
            _short(part[name].item())
            if name in ("verifier", "regime")
            else f"{name} = {_short(part[name].item())}"
            for name in axes
        )
        found.append((label, part))
    return found[:most]


def _axes(results: xr.Dataset) -> list[str]:
    return [name for name in _spec(results)["sweep"] if name in results.dims]


def _spec(results: xr.Dataset) -> dict:
    return json.loads(results.attrs["spec"])


def _colors(count: int):
    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, count))


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
