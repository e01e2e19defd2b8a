"""What the launchers of the tasks share: every spec of --config run in a folder of its own."""

import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import xarray as xr
from absl import flags
from rich.console import Console
from rich.table import Table

from synthjax.io import processes
from synthjax.io.checkpoint import CheckpointError
from synthjax.io.stop import GracefulStop, Stopped
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError
from synthjax.protocol.flags import define_config, fail, launch, named, specs
from synthjax.protocol.loop import OutOfMemory
from synthjax.protocol.spec import SpecError

ERRORS = (WorkdirError, CheckpointError, ModelError, OutOfMemory, OSError)

flags.disclaim_key_flags()  # --help shows those of the launcher that asks for them


def launcher(
    task: ModuleType,
    summary: Callable[[xr.Dataset], Table],
    save: Callable[[xr.Dataset, Path], Iterable[Path]],
    errors: tuple[type[Exception], ...] = (),
) -> Callable[[], None]:
    """Define the flags of `launch.NAME` for synthjax.NAME, which has Spec, estimate and run.

    `summary` makes the table to print, `save` the figures, in a folder. Errors of `errors` take
    one line too. Returns what the launcher is to call.
    """
    name = task.__name__.rpartition(".")[2]
    config = define_config(task.Spec)
    folder = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")
    distributed, *about = _define_processes()

    def main() -> None:
        if config.value is None or folder.value is None:
            fail(f"needs --config=configs/{name}.py:VARIANT and --workdir=DIR (--help says more)")
        if re.match(r"\w+://", folder.value):
            fail(f"--workdir={folder.value}: must be a folder; mount a bucket (docs/cluster.md)")
        parts = specs(config, task.Spec)
        if not distributed.value:
            if given := [flag.name for flag in about if flag.value is not None]:
                fail(f"--{given[0]} has no meaning without --distributed")
            return run(parts)
        with processes.ending_at_once((SpecError, *ERRORS, *errors)):
            try:
                processes.begin(*(flag.value for flag in about))
            except (RuntimeError, ValueError) as error:
                fail(f"--distributed: the processes of this run do not come together ({error})")
            run(parts)

    def run(parts: dict) -> None:
        say = functools.partial(print, flush=True) if processes.first() else lambda text: None
        with GracefulStop() as stop:
            for part, spec in parts.items():
                with named(part):
                    say(f"{part or 'run'}: {task.estimate(spec)}")
            for part, spec in parts.items():
                workdir = Path(folder.value) / part
                try:
                    if stop.requested:
                        raise Stopped("nothing of this part is begun")
                    results = task.run(spec, workdir)
                except Stopped as stopped:
                    again = shlex.join([sys.executable, "-m", f"launch.{name}", *sys.argv[1:]])
                    say(f"Stopped: {stopped}. To go on:\n  {again}")
                    return
                if not processes.first():
                    continue
                Console(width=None if sys.stdout.isatty() else 160).print(summary(results))
                say(f"results: {workdir / 'results.nc'}")
                for figure in save(results, workdir / "figures"):
                    say(f"figure:  {figure}")

    return functools.partial(launch, main, (*ERRORS, *errors), task.Spec)


def _define_processes() -> list[flags.FlagHolder]:
    """The flags of a run that several processes share: whether they do, where, how many, which."""
    distributed = flags.DEFINE_boolean(
        "distributed",
        False,
        "Share the run with the same command in other processes, on this or other hosts, and with "
        "the same --workdir. TPU pods, SLURM and Open MPI say how many there are; elsewhere give "
        "--coordinator, --processes and --process.",
    )
    coordinator = flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, a free port of its host."
    )
    count = flags.DEFINE_integer("processes", None, "How many processes share the run.")
    index = flags.DEFINE_integer("process", None, "Which of them this is, from 0 on.")
    return [distributed, coordinator, count, index]
