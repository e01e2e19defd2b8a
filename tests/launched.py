"""Runs of launchers, `launch.mixture` mostly, for tests: processes, and what they leave behind.

They are real processes forked from one that has imported everything already (a fork server), which
saves each of them the seconds that importing JAX takes.
"""

import functools
import importlib
import json
import multiprocessing
import os
import re
import resource
import runpy
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
import xarray as xr

from synthjax.io import results
from synthjax.io.watchdog import Watchdog

ROOT = Path(__file__).parents[1]
BASE = "--config=configs/mixture.py:base"
SMALL = [BASE, "--config.n=200", "--config.d=5", "--config.generations=2"]
SMALL += ["--config.trajectories=3", "--config.learner=ridge", "--config.verifier=linear"]


def seeds(count: int, trajectories: int = 3) -> list[str]:
    """A sweep of as many chunks, for each base seed is one, and of a single program.

    One trajectory's numbers do not depend on how many devices there are, to the last bit; but it is
    the first device that computes what counts of them. With three, all devices have a part.
    """
    small = [one.replace("trajectories=3", f"trajectories={trajectories}") for one in SMALL]
    return [*small, f"--config.sweep.seed={tuple(range(count))}"]


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("synthjax.mixture", "synthjax.eigen", "synthjax.summarize"),
        *("synthjax.plot.figures", "synthjax.plot.table"),
        *("rouge_score.rouge_scorer", "tensorboardX"),
    ]
)


def tell(event: str, seconds: float, **about) -> None:
    print(f"{event.rsplit('/', 1)[-1]}: {about.get('fun_name')}", file=sys.stderr, flush=True)


def stay(*_) -> None:
    """Alive, and stuck."""
    print("stays here", file=sys.stderr, flush=True)
    time.sleep(1e6)


def become(
    module: str,
    argv: list[str],
    said: Path,
    told: bool,
    limit: int,
    patience: int,
    stuck: str,
    environment: dict[str, str],
) -> None:
    """Be `python -m module` in this process, its output in files of the folder `said`.

    `told`: say of each tracing and compilation that it is done. `limit`: no file may grow larger.
    `patience`: seconds for which a watchdog of several processes waits. `stuck`: a function,
    MODULE:NAME, that never returns. `environment`: all of it, for a fork server has that of its own
    start. After a SIGUSR1 the process is alive, but does nothing more.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGUSR1, stay)
    if stuck:
        where, name = stuck.split(":")
        *parts, name = name.split(".")
        setattr(functools.reduce(getattr, parts, importlib.import_module(where)), name, stay)
    if patience:
        Watchdog.TOGETHER = patience
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    if told:
        jax.monitoring.register_event_duration_secs_listener(tell)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.chdir(ROOT)
    sys.argv = [module, *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Run:
    """A process that runs the launcher."""

    def __init__(
        self,
        argv: list[str],
        said: Path,
        *,
        told: bool = False,
        limit: int = 0,
        module: str = "launch.mixture",
        patience: int = 0,
        stuck: str = "",
        environment: dict[str, str] = {},  # noqa: B006
    ):
        said.mkdir(parents=True, exist_ok=True)
        for name in ("stdout", "stderr"):
            (said / name).unlink(missing_ok=True)
        self._said = said
        about = (module, argv, said, told, limit, patience, stuck, {**os.environ, **environment})
        self.process = FORKS.Process(target=become, args=about)
        self.process.start()

    def read(self, name: str) -> str:
        path = self._said / name
        return path.read_text() if path.exists() else ""

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something, which must happen while the process runs."""
        while not happened():
            assert self.process.is_alive(), self.read("stderr")
            time.sleep(0.005)

    def until_chunk(self, workdir: Path, count: int) -> None:
        """Wait for so many lines in metrics.jsonl."""
        self.until(lambda: len(chunks(workdir)) >= count)

    def end(self, number: int = 0) -> tuple[int, str, str]:
        """Exit code, standard output and standard error, after a signal if one is given."""
        if number:
            os.kill(self.process.pid, number)
        self.process.join(200)
        if self.process.is_alive():
            self.process.kill()
            pytest.fail(f"still runs: {self.read('stderr')}")
        return self.process.exitcode, self.read("stdout"), self.read("stderr")


def undisturbed(argv: list[str], folder: Path) -> Path:
    """The workdir, in `folder`, of a run of the mixture's launcher that nothing disturbed."""
    code, _, stderr = Run([*argv, f"--workdir={folder / 'run'}"], folder).end()
    assert code == 0, stderr
    return folder / "run"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def two(argv: list[str], workdir: str | Path, said: Path, stuck: str = "", **how) -> list[Run]:
    """Two processes of a launcher that share a run; output in said/said0 and said/said1.

    `stuck`: a function that never returns in the second.
    """
    argv = [*argv, f"--workdir={workdir}", "--distributed", "--processes=2"]
    argv.append(f"--coordinator=localhost:{free_port()}")
    return [
        Run([*argv, f"--process={i}"], said / f"said{i}", stuck=stuck if i else "", **how)
        for i in range(2)
    ]


def one_error(stderr: str) -> str:
    """The error, which is the last line, the only one of its sort, and no traceback is near."""
    *others, last = stderr.splitlines()
    assert last.startswith("error: "), stderr
    assert all(re.fullmatch(r"\d+/\d+ trajectories.*", line) for line in others), stderr
    return last.removeprefix("error: ")


def lines(workdir: Path) -> list[dict]:
    """metrics.jsonl, a line that is still being written left out."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line, parse_constant=refuse) for line in whole]


def chunks(workdir: Path) -> list[int]:
    return [line["chunk"] for line in lines(workdir)]


def saved(workdir: Path) -> set[int]:
    """The chunks that are sealed."""
    return {int(path.parent.name) for path in workdir.glob("checkpoints/*/manifest.json")}


def same_results(workdir: Path, other: Path) -> bool:
    return (workdir / "results.nc").read_bytes() == (other / "results.nc").read_bytes()


def assert_alike(workdir: Path, other: Path) -> None:
    """The results are the same to rounding: on other devices a sum has another order."""
    found, wanted = (results.read(path / "results.nc") for path in (workdir, other))
    xr.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def how_to_go_on(stdout: str, module: str = "launch.mixture") -> list[str]:
    """The arguments of the command that a stopped run prints."""
    command = shlex.split(stdout[stdout.index("To go on:") :].splitlines()[1])
    assert command[:3] == [sys.executable, "-m", module]
    return command[3:]
