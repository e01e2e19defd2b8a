"""Collapse scaling laws: run engines side by side, or take any table, and fit error against x.

    python -m launch.scaling --config=configs/scaling.py:VARIANT --workdir=DIR
    python -m launch.scaling --data=results.nc --x=n --workdir=DIR
    python -m launch.scaling --data=TABLE.csv --x=generation --y=error --by=verifier --workdir=DIR

VARIANT: scaling_n, scaling_generations or scaling_verifier. DIR gets fits.json and
figures/scaling.png, and a folder for each run, which goes on where it was after an interruption. A
table has a row for each observation; rows that agree in x are repeats.
"""

import json
import shlex
import sys
from collections.abc import Collection
from pathlib import Path

from absl import flags
from rich.console import Console

from launch.task import define_workdir, folder_of, usable
from synthjax import mixture
from synthjax.io import storage
from synthjax.io.checkpoint import CheckpointError
from synthjax.io.processes import exit_code
from synthjax.io.stop import GracefulStop
from synthjax.io.workdir import WorkdirError
from synthjax.mixture import dataset
from synthjax.plot import files
from synthjax.plot import scaling as plot
from synthjax.protocol.flags import define_config, define_path, fail, launch, named, specs
from synthjax.scaling import data, laws

_CONFIG = define_config(mixture.Spec)
_WORKDIR = define_workdir()
_DATA = define_path("data", "A results.nc or a CSV file, instead of --config.")
_X = flags.DEFINE_list(
    "x",
    None,
    "What the error is fitted against: n, d/n, generation, any axis or column; three for a surface "
    "(n,generation,theta_ver). Default: n if it is swept, else generation.",
)
_Y = flags.DEFINE_string("y", "error", "error (1 - accuracy), angle, or a variable or column.")
_BY = flags.DEFINE_string("by", "", "Column or axis that makes a series of each value.")
_LAW = flags.DEFINE_enum(
    "law",
    "auto",
    ["auto", *laws.LAWS],
    "auto: for generation power and geometric, the better first.",
)


def runs(stop: GracefulStop) -> list[laws.Series]:
    """The series of every spec of the config."""
    found = []
    parts = specs(_CONFIG, mixture.Spec)
    for name, spec in parts.items():
        check_laws(columns(spec))
        try:
            data.check(dataset.declared(spec), columns(spec), _Y.value, _BY.value)
        except laws.FitError as error:
            raise laws.FitError(f"{name}: {error}" if name else error) from None
    for name, spec in parts.items():
        with named(name):
            print(f"{name or 'run'}: {mixture.estimate(spec)}", flush=True)
    for name, spec in parts.items():
        if stop.requested:
            raise mixture.Stopped("nothing of this part is begun")
        results = mixture.run(spec, folder_of(_WORKDIR) / name)
        found += data.from_results(results, columns(spec), _Y.value, name, _BY.value)
    return found


def columns(spec: mixture.Spec) -> list[str]:
    """What the error is fitted against: --x, or what the spec sweeps."""
    if _X.value:
        return _X.value
    if {"n", "theta_ver"} <= {*spec.sweep} and spec.generations > 1:
        return ["n", "generation", "theta_ver"]
    return [axis for axis in ("n", "d") if axis in spec.sweep][:1] or ["generation"]


def wanted(x: Collection[str]) -> list[str]:
    """The law that was asked for, or those that suit the columns."""
    if _LAW.value != "auto":
        return [_LAW.value]
    if len(x) == 3:
        return ["surface"]
    return ["power", "geometric"] if "generation" in x else ["power"]


def check_laws(x: list[str]) -> None:
    """Refuse columns that are too many or too few for a law."""
    for law in wanted(x):
        if len({*x}) != (count := laws.LAWS[law][0].columns):
            fail(f"--law={_LAW.value}: {law} needs {count} in --x, not {','.join(x)}")


def fitted(series: laws.Series) -> list[laws.Fit]:
    """Fits of every law that is wanted, the best first."""
    print(f"fits {series.name}: {len(series.error)} points", flush=True)
    try:
        return laws.ranked(series, wanted(series.columns))
    except laws.FitError as error:
        raise laws.FitError(f"{_DATA.value}: {error}" if _DATA.value else error) from None


def main() -> None:
    """Fit, print the table, write and draw."""
    if _WORKDIR.value is None or (_CONFIG.value is None) == (_DATA.value is None):
        fail("needs --workdir=DIR and one of --config=FILE:VARIANT and --data=FILE")
    if _DATA.value is not None and not _X.value:
        fail("--data needs --x=COLUMN (--help says more)")
    workdir = usable(_WORKDIR)
    if _DATA.value is not None:
        check_laws(_X.value)
        series = data.read(Path(_DATA.value), _X.value, _Y.value, _BY.value)
    else:
        with GracefulStop() as stop:
            try:
                series = runs(stop)
            except mixture.Stopped as stopped:
                again = shlex.join([sys.executable, "-m", "launch.scaling", *sys.argv[1:]])
                print(f"Stopped: {stopped}. To go on:\n  {again}")
                return
    fits = [fitted(one) for one in series]
    storage.make(workdir)
    told = [fit.to_dict() | {"best": fit is every[0]} for every in fits for fit in every]
    told = json.dumps(told, indent=1, allow_nan=False)
    storage.write(workdir / "fits.json", told + "\n")
    figure = workdir / "figures" / "scaling.png"
    best = [(one, every[0]) for one, every in zip(series, fits, strict=True)]
    files.write(plot.draw(best, _Y.value), figure)
    Console(width=None if sys.stdout.isatty() else 200).print(plot.table(fits))
    print(f"fits:   {workdir / 'fits.json'}\nfigure: {figure}")


if __name__ == "__main__":
    launch(
        main,
        (WorkdirError, CheckpointError, laws.FitError, OSError),
        mixture.Spec,
        exit_code=exit_code,
    )
