"""One run on other devices, and over two real processes: stopped, killed, gone on with."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import xarray as xr
from eigen.tiny import TINY as eigen_tiny
from launched import (
    BASE,
    ROOT,
    Run,
    assert_alike,
    free_port,
    one_error,
    same_results,
    saved,
    seeds,
)
from summarize.tiny import TINY as summarize_tiny
from summarize.tiny import written

from synthjax import cores
from synthjax.io import processes, results
from synthjax.io.processes import REFUSED
from synthjax.io.watchdog import Watchdog

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(together):
    """Two processes of the mixture's launcher on a workdir."""
    return lambda workdir: together(seeds(36, 1), workdir)


def on_devices(count: int, module: str, *each: list[str]) -> None:
    """A launcher, a process for `each`, with devices that one forked from here could not have."""
    where = os.environ | {"JAX_NUM_CPU_DEVICES": str(count)}
    how = dict(cwd=ROOT, env=where, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    runs = [subprocess.Popen([sys.executable, "-m", module, *argv], **how) for argv in each]
    for run in runs:
        _, stderr = run.communicate(timeout=300)
        assert run.returncode == 0, stderr


def test_a_sweep_on_eight_devices_is_that_on_two(tmp_path):
    """To rounding: a tile's company decides the last bit of a sum."""
    argv = [BASE, "--config.d=5", "--config.generations=2", "--config.verifier=linear"]
    argv += ["--config.learner=logistic", "--config.trajectories=13"]
    argv += ["--config.sweep.theta_ver=(0.2,0.9,1.4)", "--config.sweep.n=(100,200)"]
    run = Run([*argv, f"--workdir={tmp_path / 'two'}"], tmp_path / "said")
    on_devices(8, "launch.mixture", [*argv, f"--workdir={tmp_path / 'eight'}"])
    assert run.end()[0] == 0
    assert_alike(tmp_path / "eight", tmp_path / "two")


@pytest.mark.long
def test_two_processes_that_have_more_devices_than_memory(few, tmp_path):
    """Some devices of each work: one without a part of what is computed could not fetch any."""
    argv = [*seeds(4), f"--workdir={tmp_path / 'run'}", "--config.memory_gb=6e-5"]
    argv += ["--distributed", "--processes=2", f"--coordinator=localhost:{free_port()}"]
    on_devices(4, "launch.mixture", *([*argv, f"--process={i}"] for i in range(2)))
    assert_alike(tmp_path / "run", few[0])


def test_two_processes_end_with_the_bytes_of_one(together, tmp_path):
    """Of one that has as many devices, for they decide how tiles are cut; both have a part."""
    runs = together(seeds(4), tmp_path / "run")
    on_devices(2 * cores(), "launch.mixture", [*seeds(4), f"--workdir={tmp_path / 'one'}"])
    (code, said, _), (other, silent, _) = [run.end() for run in runs]
    assert code == other == 0
    assert "results: " in said and "results: " not in silent and "seed" not in silent
    assert same_results(tmp_path / "run", tmp_path / "one")


def test_sigterm_of_one_stops_both_and_one_alone_goes_on(single, pair, tmp_path):
    workdir = tmp_path / "run"
    first, second = pair(workdir)
    first.until(lambda: len(saved(workdir)) > 2)
    os.kill(second.process.pid, signal.SIGTERM)
    code, said, stderr = first.end()
    assert code == second.end()[0] == 0, stderr
    assert "Stopped: " in said
    assert 2 < len(saved(workdir)) < 36
    code, _, stderr = Run([*seeds(36, 1), f"--workdir={workdir}"], tmp_path / "alone").end()
    assert code == 0, stderr
    assert same_results(workdir, single)


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.long)])
def test_one_killed_ends_the_other_and_both_go_on(number, single, pair, tmp_path):
    workdir = tmp_path / "run"
    runs = pair(workdir)
    runs[0].until(lambda: len(saved(workdir)) > 2)
    runs[number].process.kill()
    began = time.monotonic()
    code, _, stderr = runs[1 - number].end()
    assert code != 0 and time.monotonic() - began < 60
    assert "another one may have ended" in stderr or "another task died" in stderr
    for run in pair(workdir):
        assert run.end()[0] == 0
    assert same_results(workdir, single)


@pytest.mark.long
def test_one_that_is_stopped_ends_the_other_within_a_minute(single, pair, tmp_path):
    """As a machine that hangs: not even a sign of life."""
    runs = pair(tmp_path / "run")
    runs[0].until(lambda: len(saved(tmp_path / "run")) > 2)
    began = time.monotonic()
    os.kill(runs[1].process.pid, signal.SIGSTOP)
    code, _, stderr = runs[0].end()
    assert code not in (0, REFUSED) and time.monotonic() - began < 60
    assert "stopped sending heartbeats" in stderr or "is stuck" in stderr, stderr
    runs[1].process.kill()
    for run in pair(tmp_path / "run"):
        assert run.end()[0] == 0
    assert same_results(tmp_path / "run", single)


def test_processes_with_different_specs(tmp_path):
    argv = [*seeds(2), f"--workdir={tmp_path / 'run'}", "--distributed", "--processes=2"]
    argv.append(f"--coordinator=localhost:{free_port()}")
    runs = [
        Run([*argv, f"--process={i}", f"--config.n={200 + i}"], tmp_path / f"said{i}")
        for i in range(2)
    ]
    for run in runs:
        code, _, stderr = run.end()
        assert code == REFUSED and "process 1 came with another spec" in stderr, stderr
    assert not (tmp_path / "run" / "spec.json").exists()


@pytest.mark.long
def test_open_mpi_says_who_is_there(few, tmp_path):
    """By the variables that its mpirun sets, of which JAX knows host, port and number."""
    for number in range(4096):  # of the job, from which JAX's port follows
        with socket.socket() as free:
            if free.connect_ex(("localhost", 61440 + number)):
                break
    where = {"OMPI_MCA_orte_hnp_uri": f"{number * 4096}.0;tcp://127.0.0.1:34911"}
    runs = []
    for i in range(2):
        ranks = dict.fromkeys(("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), str(i))
        environment = {**where, "OMPI_COMM_WORLD_SIZE": "2", **ranks}
        argv = [*seeds(4), f"--workdir={tmp_path / 'run'}", "--distributed"]
        runs.append(Run(argv, tmp_path / f"said{i}", environment=environment))
    for run in runs:
        code, _, stderr = run.end()
        assert code == 0, stderr
    assert_alike(tmp_path / "run", few[0])


def test_a_minute_is_enough_for_the_watchdog_as_it_is():
    """One ends itself, perhaps by faulthandler, and then another one learns that it is lost."""
    assert Watchdog.TOGETHER + 5 * Watchdog.EVERY + processes.HEARTBEAT <= 60


@pytest.mark.parametrize("patience", [10, pytest.param(0, marks=pytest.mark.long)])
def test_one_that_is_alive_but_stuck_ends_both_within_a_minute(
    patience, single, together, tmp_path
):
    workdir = tmp_path / "run"
    runs = together(seeds(36, 1), workdir, patience=patience)
    runs[0].until(lambda: len(saved(workdir)) > 2)
    os.kill(runs[1].process.pid, signal.SIGUSR1)
    began = time.monotonic()
    ended = [run.end() for run in runs]
    assert time.monotonic() - began < 60
    assert all(code != 0 for code, _, _ in ended)
    stderr = "".join(stderr for _, _, stderr in ended)
    assert "is stuck. Run the same command again" in stderr
    assert "launched.py" in stderr or "sweep.py" in stderr  # where it was stuck, or waited for it
    for run in together(seeds(36, 1), workdir):
        assert run.end()[0] == 0
    assert same_results(workdir, single)


@pytest.mark.long
@pytest.mark.parametrize(
    "stuck",
    [
        "synthjax.eigen.task:EigenTask.select",
        "synthjax.protocol.loop:digest",
        "synthjax.io.checkpoint:Checkpoints.steps",
        "synthjax.eigen.sweep:_export",
    ],
)
def test_one_that_is_stuck_between_phases_ends_both(stuck, together, tmp_path):
    argv = ["--config=configs/eigen.py:demo", "--config.sweep.verifier=('oracle',)"]
    argv += [f"--config.{name}={value}" for name, value in eigen_tiny.items()]
    runs = together(argv, tmp_path / "run", "launch.eigen", stuck=stuck, patience=5)
    runs[1].until(lambda: "stays here" in runs[1].read("stderr"))
    began = time.monotonic()
    ended = [run.end() for run in runs]
    assert time.monotonic() - began < 60
    assert all(code not in (0, REFUSED) for code, _, _ in ended)
    assert "is stuck. Run the same command again" in "".join(stderr for _, _, stderr in ended)


def test_a_bad_spec_is_told_before_the_processes_meet(together, tmp_path):
    for run in together([*seeds(2), "--config.n=0"], tmp_path / "run"):
        code, _, stderr = run.end()
        assert code == 2 and "config.n = 0" in one_error(stderr)
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_first_is_told_by_both(together, tmp_path):
    (tmp_path / "run").write_text("in the way")
    for run in together(seeds(2), tmp_path / "run"):
        code, _, stderr = run.end()
        assert code == 2 and "cannot be used" in stderr


def test_processes_that_nobody_counted(tmp_path):
    run = Run([*seeds(2), f"--workdir={tmp_path / 'run'}", "--distributed"], tmp_path / "said")
    code, _, stderr = run.end()
    assert code == 2 and "--distributed" in one_error(stderr)
    assert not (tmp_path / "run").exists()
    run = Run([*seeds(2), f"--workdir={tmp_path / 'run'}", "--process=1"], tmp_path / "said")
    code, _, stderr = run.end()
    assert code == 2 and "--process has no meaning without --distributed" in one_error(stderr)


@pytest.mark.parametrize(
    ("task", "bits"),
    [
        ("summarize", False),
        pytest.param("summarize", True, marks=pytest.mark.long),
        pytest.param("eigen", True, marks=pytest.mark.long),
    ],
)
def test_transformers_train_and_guess_over_two_processes(task, bits, together, tmp_path):
    """Killed, then done: to rounding what one process finds.

    `bits`: stopped too, and to the bit what two undisturbed ones find; four devices go on to
    rounding.
    """
    size = {**(eigen_tiny if task == "eigen" else summarize_tiny), "save_steps": 10}
    size |= {"steps": 30, "generation_steps": 30, "n": 200 if task == "eigen" else 60}
    argv = [f"--config=configs/{task}.py:demo", "--config.sweep.verifier=('oracle',)"]
    argv += [f"--config.{name}={value}" for name, value in size.items()]
    if task == "summarize":
        argv += ["--config.selection=top", "--config.start=base"]
        argv.append(f"--config.data={written(tmp_path / 'pairs.jsonl', 200)}")
    module, workdir = f"launch.{task}", tmp_path / "killed"
    one = Run([*argv, f"--workdir={tmp_path / 'one'}"], tmp_path / "said", module=module)
    assert one.end()[0] == 0, one.read("stderr")

    def as_one(workdir):
        found, wanted = (results.read(at / "results.nc") for at in (workdir, tmp_path / "one"))
        xr.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)

    killed = together(argv, workdir, module)
    learning = workdir / "checkpoints" / "verifier=oracle" / "learning"
    killed[0].until(lambda: bool([*learning.glob("*/manifest.json")]))
    killed[1].process.kill()
    code, _, stderr = killed[0].end()
    assert code != 0
    assert "another one may have ended" in stderr or "another task died" in stderr
    if bits:
        stopped = together(argv, workdir, module)
        stopped[0].until(lambda: (learning.parent / "1" / "manifest.json").exists())
        os.kill(stopped[1].process.pid, signal.SIGTERM)
        code, said, stderr = stopped[0].end()
        assert code == stopped[1].end()[0] == 0, stderr
        assert "Stopped: " in said and not (workdir / "results.nc").exists()
        shutil.copytree(workdir, tmp_path / "four")
    again = together(argv, workdir, module)
    assert [run.end()[0] for run in again] == [0, 0], again[0].read("stderr")
    as_one(workdir)
    if bits:
        both = together(argv, tmp_path / "two", module)
        assert [run.end()[0] for run in both] == [0, 0], both[0].read("stderr")
        assert same_results(workdir, tmp_path / "two")
        # What two processes of two devices saved, one with four goes on with, each with a part.
        on_devices(4, module, [*argv, "--config.mesh.fsdp=4", f"--workdir={tmp_path / 'four'}"])
        as_one(tmp_path / "four")
