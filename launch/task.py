"""What the launchers of the tasks share: every spec of --config run in a folder of its own."""

import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import xarray as xr
from absl import flags
from rich.console import Console
from rich.table import Table

from synthjax.io import processes, storage
from synthjax.io.checkpoint import CheckpointError
from synthjax.io.stop import GracefulStop, Stopped
from synthjax.io.storage import Place
from synthjax.io.tensors import ModelError
from synthjax.io.watchdog import watched
from synthjax.io.workdir import WorkdirError
from synthjax.protocol.flags import define_config, define_path, fail, launch, named, specs
from synthjax.protocol.loop import OutOfMemory
from synthjax.protocol.spec import SpecError

TASKS = ("mixture", "eigen", "summarize")
ERRORS = (WorkdirError, CheckpointError, ModelError, OutOfMemory, OSError)

flags.disclaim_key_flags()  # --help shows those of the launcher that asks for them


class Launcher(NamedTuple):
    """What a launcher does: `launch.NAME` for synthjax.NAME, which has Spec, estimate and run.

    `summary` makes the table to print, `save` the figures, in a folder. Errors of `errors` take
    one line too.
    """

    task: ModuleType
    summary: Callable[[xr.Dataset], Table]
    save: Callable[[xr.Dataset, Place], Iterable[Place]]
    errors: tuple[type[Exception], ...] = ()

    def main(self) -> None:
        """Every spec of --config in a folder of its own."""
        name = self.task.__name__.replace("synthjax", "launch")
        config = define_config(self.task.Spec)
        workdir = define_workdir()
        together = define_processes()

        def main() -> None:
            if config.value is None or workdir.value is None:
                file = f"{name.replace('launch.', 'configs/')}.py"
                fail(f"needs --config={file}:VARIANT and --workdir=DIR (--help says more)")
            folder = folder_of(workdir)
            parts = specs(config, self.task.Spec)
            together(lambda: self.run(parts, folder, [name, *sys.argv[1:]]), self.errors)

        errors = (*ERRORS, *self.errors)
        launch(main, errors, self.task.Spec, exit_code=processes.exit_code)

    def run(self, parts: dict, folder: Place, again: list[str], draw: bool = True) -> None:
        """Run every spec in folder/NAME, and say what came of it; `draw`: and draw it.

        `again` is what `python -m` runs to go on.
        """
        with GracefulStop() as stop:
            for part, spec in parts.items():
                with named(part), watched():
                    say(f"{part or 'run'}: {self.task.estimate(spec)}")
            for part, spec in parts.items():
                try:
                    if stop.requested:
                        raise Stopped("nothing of this part is begun")
                    results = self.task.run(spec, folder / part)
                except Stopped as stopped:
                    command = shlex.join([sys.executable, "-m", *again])
                    say(f"Stopped: {stopped}. To go on:\n  {command}")
                    return
                if processes.first():
                    with watched():
                        self.show(results, folder / part, draw)

    def show(self, results: xr.Dataset, folder: Place, draw: bool = True) -> None:
        """Print what was found, and where it is; `draw`: and draw it."""
        Console(width=None if sys.stdout.isatty() else 160).print(self.summary(results))
        say(f"results: {folder / 'results.nc'}")
        for figure in self.save(results, folder / "figures") if draw else ():
            say(f"figure:  {figure}")


def asked_task() -> str:
    """What the command line's config is of: its --task, or the name of its file, or of mixture.

    Asked before flags are parsed: which spec's fields --config has depends on it.
    """
    asked = {}
    for argument, after in itertools.pairwise([*sys.argv[1:], ""]):
        if match := re.fullmatch(r"--?(task|config)(?:=(.*))?", argument):
            asked[match[1]] = after if match[2] is None else match[2]
    if asked.get("task", TASKS[0]) not in TASKS:
        fail(f"--task={asked['task']}: must be one of {', '.join(TASKS)}")
    task = asked.get("task") or Path(asked.get("config", TASKS[0]).split(":")[0]).stem
    if task not in TASKS:
        fail(f"--config={asked.get('config')}: say with --task what it is of: {', '.join(TASKS)}")
    return task


def say(text: str) -> None:
    """Print, where this is the first process."""
    if processes.first():
        print(text, flush=True)


def define_workdir() -> flags.FlagHolder[str]:
    """The flag --workdir."""
    return define_path(
        "workdir", "Folder for everything that the run writes, here or as gs://BUCKET/FOLDER."
    )


def folder_of(workdir: flags.FlagHolder[str]) -> Place:
    """What --workdir names."""
    try:
        return storage.place(workdir.value)
    except OSError as error:
        fail(f"--workdir={workdir.value}: {error}")


def usable(workdir: flags.FlagHolder[str]) -> Place:
    """What --workdir names, where that is a folder or may become one."""
    folder = folder_of(workdir)
    if isinstance(folder, Path):
        there = next(path for path in (folder, *folder.parents) if storage.exists(path))
        if not there.is_dir():
            fail(f"--workdir={workdir.value}: {there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            fail(f"--workdir={workdir.value}: {there} cannot be written to")
    return folder


def define_processes() -> Callable[[Callable[[], None], tuple[type[Exception], ...]], None]:
    """The flags of a run that several processes share: whether they do, where, how many, which.

    Returns what calls a function in this process, once the others of the run are there; errors of
    the types given take one line.
    """
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

    def together(run: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
        about = coordinator, count, index
        if not distributed.value:
            if given := [flag.name for flag in about if flag.value is not None]:
                fail(f"--{given[0]} has no meaning without --distributed")
            return run()
        with processes.ending_at_once((SpecError, *ERRORS, *errors)):
            try:
                processes.begin(*(flag.value for flag in about))
            except (RuntimeError, ValueError) as error:
                # A name that is not known yet, a device that another run still holds: for a while.
                lasts = isinstance(error, ValueError)
                text = f"--distributed: the processes of this run do not come together ({error})"
                fail(text, processes.REFUSED if lasts else processes.FAILED)
            run()

    return together
