"""Figures and the table of summarization runs, drawn from their results alone."""

import json

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from synthjax.io.storage import Place
from synthjax.plot import files
from synthjax.protocol.spec import fields_of
from synthjax.summarize.spec import Spec

MOST_LINES = 12
HIDDEN = ("sweep", "decode_batch", "save_steps", "log_steps", "seed", "n_samples", "model")
HIDDEN += ("mesh",)
NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
DIVERSITY = {"entropy": "entropy of words (bits)", "words": "words of a summary"}


def save(results: xr.Dataset, directory: Place) -> list[Place]:
    """Draw what the results have to show into `directory`; WorkdirError where it cannot.

    rouge.png by generation; by_rate.png where `rate` is swept.
    """
    wanted = {}
    if results.sizes["generation"] > 1:
        wanted["rouge"] = by_generation
        if results.sizes.get("rate", 0) > 1:
            wanted["by_rate"] = by_rate
    return files.save(wanted, results, directory)


def by_generation(results: xr.Dataset) -> Figure:
    """ROUGE, entropy and length by generation, a line for each element; the mean over seeds."""
    lines = elements(results)
    figure = Figure(figsize=(3.4 * 5, 4.2), layout="constrained")
    panels = list(figure.subplots(1, 5))
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, len(lines)))
    for color, (label, part) in zip(colors, lines, strict=True):
        for axis, metric in zip(panels, results.metric.values, strict=False):
            _band(axis, part.generation.values, part.sel(metric=metric), color, label)
            axis.set(title=NAMES[metric])
        for axis, (name, title) in zip(panels[3:], DIVERSITY.items(), strict=True):
            axis.plot(part.generation, _mean(part[name]), "o-", color=color, ms=3, lw=1.2)
            axis.set(title=title)
    for axis in panels:
        axis.set_xlabel("generation")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("of greedy summaries of test articles")
    panels[0].legend(fontsize=8, framealpha=0.6)
    figure.suptitle(caption(results, "Summaries by generation"), fontsize=9)
    return figure


def by_rate(results: xr.Dataset) -> Figure:
    """ROUGE after the last generation against the rate of selection, and the generator's own."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = list(figure.subplots(1, 3))
    results = results.sortby("rate")
    first, last = results.isel(generation=0), results.isel(generation=-1)
    others = [name for name in _axes(results) if name not in ("rate", "seed")]
    lines = last.stack(element=others) if others else last.expand_dims("element")
    colors = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.88, lines.sizes["element"]))
    for axis, metric in zip(panels, results.metric.values, strict=True):
        for i, color in enumerate(colors[:MOST_LINES]):
            part = lines.isel(element=i).sel(metric=metric)
            label = ", ".join(str(part[name].item()) for name in others) or "generation"
            _band(axis, part.rate.values, part, color, label)
        level = float(first.rouge.sel(metric=metric).mean())
        axis.axhline(level, color="0.3", ls="--", lw=1, label="the generator's own")
        axis.set(title=NAMES[metric], xlabel="rate of selection", xscale="log")
        axis.set_xticks(part.rate.values, [f"{rate:g}" for rate in part.rate.values])
        axis.minorticks_off()
    panels[0].set_ylabel(f"after generation {int(last.generation)}")
    panels[0].legend(fontsize=8, framealpha=0.6)
    figure.suptitle(caption(results, "How much to keep, and by whom?"), fontsize=9)
    return figure


def summary(results: xr.Dataset) -> Table:
    """ROUGE of every element before and after, what was kept, and p against p*."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    last = results.sizes["generation"] - 1
    for name in (*NAMES.values(), "words", *("kept", "p_hat", "p_star_hat")[: 3 * bool(last)]):
        table.add_column(name, justify="right", no_wrap=True)
    metric = _spec(results)["verifier_metric"]
    for label, part in elements(results, most=None):
        ends = [part.isel(generation=t) for t in sorted({0, last})]
        row = [
            " → ".join(f"{float(_mean(end.rouge.sel(metric=name))):.4f}" for end in ends)
            for name in results.metric.values
        ]
        row.append(" → ".join(f"{float(_mean(end.words)):.1f}" for end in ends))
        if last:
            one = part.isel(generation=1).sel(metric=metric)
            row += [f"{float(_mean(one[name])):.3f}" for name in ("kept", "p_hat", "p_star_hat")]
        table.add_row(label, *row)
    return table


def elements(results: xr.Dataset, most: int | None = MOST_LINES) -> list[tuple[str, xr.Dataset]]:
    """The elements with their names, the first `most` of them; seeds stay together."""
    axes = [name for name in _axes(results) if name != "seed"]
    if not axes:
        return [(_spec(results)["verifier"], results)]
    grid = results.stack(element=axes)
    found = []
    for i in range(grid.sizes["element"]):
        part = grid.isel(element=i)
        label = ", ".join(
            str(part[name].item())
            if name in ("verifier", "regime")
            else f"{name} = {part[name].item()}"
            for name in axes
        )
        found.append((label, part))
    return found[:most]


def caption(results: xr.Dataset, title: str) -> str:
    """What the figure is of: all that is off its default."""
    spec = _spec(results)
    said = [
        f"{name}={spec[name]}"
        for name, field in fields_of(Spec).items()
        if name not in HIDDEN and name not in results.dims and spec[name] != field.default
    ]
    lines = [", ".join(said[i : i + 10]) for i in range(0, len(said), 10)]
    return "\n".join([title, *lines])


def _band(axis, x, part: xr.Dataset, color, label: str) -> None:
    """The mean over seeds; the band is the seeds' range, of one seed its bootstrap interval."""
    several = "seed" in part.dims and part.sizes["seed"] > 1
    low = part.rouge.min("seed") if several else _mean(part.rouge_low)
    high = part.rouge.max("seed") if several else _mean(part.rouge_high)
    axis.fill_between(x, low, high, color=color, alpha=0.18, lw=0)
    axis.plot(x, _mean(part.rouge), "o-", color=color, ms=3, lw=1.2, label=label)


def _mean(values: xr.DataArray) -> xr.DataArray:
    return values.mean("seed") if "seed" in values.dims else values


def _axes(results: xr.Dataset) -> list[str]:
    return [name for name in _spec(results)["sweep"] if name in results.dims]


def _spec(results: xr.Dataset) -> dict:
    return json.loads(results.attrs["spec"])
