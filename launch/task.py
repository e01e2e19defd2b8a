"""What the launchers of the tasks share: every spec of --config run in a folder of its own."""

import functools
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
    together: bool = False,
) -> Callable[[], None]:
    """Define the flags of `launch.NAME` for synthjax.NAME, which has Spec, estimate and run.

    `summary` makes the table to print, `save` the figures, in a folder. Errors of `errors` take
    one line too. `together`: whether several processes may share a run. Returns what the launcher
    is to call.
    """
    name = task.__name__.rpartition(".")[2]
    config = define_config(task.Spec)
    folder = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")

    several = _define_processes() if together else {}

    def main() -> None:
        if not several or not several["distributed"].value:
            return run()
        with processes.ending_at_once((SpecError, *ERRORS, *errors)):
            try:
                names = ("coordinator", "processes", "process")
                processes.begin(*(several[name].value for name in names))
            except (RuntimeError, ValueError) as error:
                fail(f"--distributed: the processes of this run do not come together ({error})")
            run()

    def run() -> None:
        if config.value is None or folder.value is None:
            fail(f"needs --config=configs/{name}.py:VARIANT and --workdir=DIR (--help says more)")
        say = functools.partial(print, flush=True) if processes.first() else lambda text: None
        with GracefulStop() as stop:
            parts = specs(config, task.Spec)
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


def _define_processes() -> dict[str, flags.FlagHolder]:
    """The flags of a run that several processes share."""
    found = flags.DEFINE_boolean(
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
    return dict(distributed=found, coordinator=coordinator, processes=count, process=index)
