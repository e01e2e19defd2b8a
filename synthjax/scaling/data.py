"""Series of errors from labelled results or from any tidy table."""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from synthjax.scaling.laws import FitError, Series

# What an error may be made of: in mixture results `angle` is that of w_t from w*.
ERRORS = {
    "error": ("accuracy", lambda accuracy: 1 - accuracy),
    "angle": ("overlap", lambda overlap: np.arccos(np.clip(overlap, -1, 1))),
}
NO_ERROR = "accuracy is no error; take --y=error"
RATIO = "d/n"


def from_results(
    results: xr.Dataset, x: Sequence[str], y: str = "error", name: str = "", by: str = ""
) -> list[Series]:
    """A series for every combination of the other axes: of `y` against the axes `x`.

    `y` is error (1 − accuracy), angle (from w*, rad) or a variable that is an error itself. `x` may
    name `d/n`. Where generation is not in `x` the last is taken; a trajectory axis becomes repeats.
    `by`: the only other axis to be expected, or any. Raises FitError for what is not there.
    """
    check(results, x, y, by)
    variable, turned = _made_of(y, results)
    values = results[variable]
    if "generation" in values.dims:
        if "generation" in x:
            values = values.sel(generation=slice(1, None))  # before it nothing is trained
        else:
            values = values.isel(generation=-1)
    values = turned(values)
    spec = _spec(results)
    sources = _sources(x)
    along = [axis for axis in dict.fromkeys(sources) if axis in values.dims]
    rest = [axis for axis in values.dims if axis not in (*along, "trajectory")]
    stacked = values.stack(point=along)
    repeated = "trajectory" in values.dims
    found = []
    for at in np.ndindex(*(values.sizes[axis] for axis in rest)):
        one = stacked.isel(dict(zip(rest, at, strict=True)))
        coordinates = {axis: np.asarray(one[axis], float) for axis in along}
        coordinates |= {
            axis: np.full(one.sizes["point"], spec[axis]) for axis in sources if axis not in along
        }
        columns = {
            axis: coordinates["d"] / coordinates["n"] if axis == RATIO else coordinates[axis]
            for axis in x
        }
        repeats = one.transpose("point", "trajectory").values.astype(float) if repeated else None
        if repeated:
            fine = np.isfinite(repeats)
            total = np.where(fine, repeats, 0).sum(1)
            error = np.where(fine.any(1), total / np.maximum(fine.sum(1), 1), np.nan)
        else:
            error = one.values.astype(float)
        label = ", ".join([name] * bool(name) + [f"{axis}={one[axis].item()}" for axis in rest])
        found.append(Series(label or y, columns, error, repeats))
    return found


def check(results: xr.Dataset, x: Sequence[str], y: str = "error", by: str = "") -> None:
    """Raise the FitError of `from_results`, which comes of names and types: no value matters."""
    variable, _ = _made_of(y, results)
    if y == "accuracy":
        raise FitError(NO_ERROR)
    if variable not in results:
        there = [name for name, (needs, _) in ERRORS.items() if needs in results]
        choices = [*there, *(name for name in results if name != "accuracy")]
        raise FitError(f"y={y}: no such variable; choices: {', '.join(choices)}")
    axes = [axis for axis in results[variable].dims if axis != "trajectory"]
    spec = _spec(results)
    for axis in _sources(x):
        if axis not in axes and not (RATIO in x and axis in spec):
            choices = ", ".join([*axes, RATIO])
            raise FitError(f"x={axis}: no axis of {variable}; choices: {choices}")
    for what, name in [("y", variable), *(("x", axis) for axis in _sources(x))]:
        if what == "y" or name in axes:
            numbers = results[name].dtype.kind in "biuf"
        else:
            numbers = isinstance(spec[name], int | float)
        if not numbers:
            raise FitError(f"{what}={name}: holds no numbers")
    rest = [axis for axis in axes if axis not in (*_sources(x), "generation")]
    if by and rest != [by]:
        raise FitError(f"by={by}: the other axes are {', '.join(rest) or 'none'}")


def _made_of(y: str, names: Container[str]) -> tuple[str, Callable]:
    """The variable or column, of these names, that y comes of, and how."""
    return ERRORS[y] if y in ERRORS and y not in names else (y, lambda value: value)


def _spec(results: xr.Dataset) -> dict[str, Any]:
    """The spec that results tell of themselves, if any."""
    text = results.attrs.get("spec", "{}")
    try:
        spec = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        spec = None
    if not isinstance(spec, dict):
        raise FitError(f"attribute spec = {str(text)[:40]!r}: is no JSON object")
    return spec


def _sources(x: Sequence[str]) -> list[str]:
    """The axes that columns are made of."""
    return [axis for name in x for axis in (("d", "n") if name == RATIO else (name,))]


def read(path: Path, x: Sequence[str], y: str, by: str = "") -> list[Series]:
    """Series from a results.nc, or a CSV file with a row for each observation.

    In a CSV, rows that agree in x and `by` are repeats, and `d/n` is made of d and n where it is no
    column; points without a value of `by` count as dropped from every series. Raises FitError,
    naming file, column and line, for a file that cannot be read and columns that are not there or
    hold no numbers.
    """
    if path.suffix == ".nc":
        try:
            results = xr.load_dataset(path, engine="h5netcdf")
        except (OSError, ValueError) as error:
            raise FitError(f"{path}: cannot be read ({error})") from None
        try:
            return from_results(results, x, y, by=by)
        except FitError as error:
            raise FitError(f"{path}: {error}") from None
    try:
        table = pd.read_csv(path, skip_blank_lines=False)  # so that lines keep their numbers
    except (OSError, ValueError) as error:
        raise FitError(f"{path}: cannot be read ({error})") from None
    return list(_from_table(path, table, list(x), y, by))


def _from_table(path: Path, table: pd.DataFrame, x: list[str], y: str, by: str) -> Iterator[Series]:
    column, turned = _made_of(y, table.columns)
    table = table.dropna(how="all")
    if RATIO in x and RATIO not in table.columns and {"d", "n"} <= {*table.columns}:
        sizes = table[["d", "n"]].apply(pd.to_numeric, errors="coerce")
        table[RATIO] = sizes["d"] / sizes["n"]
    for name in [*x, column, *([by] if by else [])]:
        if name not in table.columns:
            raise FitError(f"{path}: no column {name!r}; choices: {', '.join(table.columns)}")
    for name in [*x, column]:
        number = pd.to_numeric(table[name], errors="coerce")
        bad = number.isna() & table[name].notna()
        if bad.any():
            row = bad.idxmax()
            raise FitError(f"{path}, line {row + 2}: {name} = {table[name][row]!r} is no number")
        if number.isna().all():
            raise FitError(f"{path}: column {name!r} holds no number")
        if name in x and number.isna().any():
            raise FitError(f"{path}, line {number.isna().idxmax() + 2}: {name} is missing")
        table[name] = number
    if y == "accuracy":
        raise FitError(f"{path}: {NO_ERROR}")
    dropped = 0
    if by:
        dropped = len(table.loc[table[by].isna(), x].drop_duplicates())
        if table[by].isna().all():
            raise FitError(f"{path}: column {by!r} holds nothing")
    for key, part in table.groupby(by) if by else [("", table)]:
        groups = part.groupby(x)[column].apply(lambda values: turned(values.to_numpy(float)))
        most = max(map(len, groups))
        repeats = np.array([np.pad(v, (0, most - len(v)), constant_values=np.nan) for v in groups])
        error = np.array([np.nanmean(v) if np.isfinite(v).any() else np.nan for v in groups])
        index = [key if isinstance(key, tuple) else (key,) for key in groups.index]
        columns = {name: np.array([i[j] for i in index], float) for j, name in enumerate(x)}
        whole = np.isfinite(repeats).all() and most > 1
        repeats = repeats if whole else None
        yield Series(f"{by}={key}" if by else y, columns, error, repeats, dropped)
