"""`launch.mixture --distributed`: two real processes with one run, stopped, killed, gone on."""

import os
import signal
import socket
import time

import pytest
from launched import Run, one_error, same_results, saved, seeds

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(tmp_path):
    """Start two processes on a workdir, the first of which is first."""
    running = []

    def start(workdir):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        argv = [*seeds(36), f"--workdir={workdir}", "--distributed", "--processes=2"]
        argv.append(f"--coordinator=localhost:{port}")
        found = [Run([*argv, f"--process={i}"], tmp_path / f"said{i}") for i in range(2)]
        running.extend(found)
        return found

    yield start
    for run in running:
        run.process.kill()


def test_two_processes_end_with_the_bytes_of_one(whole, pair, tmp_path):
    runs = pair(tmp_path / "run")
    (code, said, _), (other, silent, _) = [run.end() for run in runs]
    assert code == other == 0
    assert "results: " in said and "results: " not in silent and "seed" not in silent
    assert same_results(tmp_path / "run", whole)


def test_sigterm_of_one_stops_both_and_one_alone_goes_on(whole, pair, tmp_path):
    workdir = tmp_path / "run"
    first, second = pair(workdir)
    first.until(lambda: len(saved(workdir)) > 2)
    os.kill(second.process.pid, signal.SIGTERM)
    code, said, stderr = first.end()
    assert code == second.end()[0] == 0, stderr
    assert "Stopped: " in said
    assert 2 < len(saved(workdir)) < 36
    code, _, stderr = Run([*seeds(36), f"--workdir={workdir}"], tmp_path / "alone").end()
    assert code == 0, stderr
    assert same_results(workdir, whole)


@pytest.mark.parametrize("number", [0, 1])
def test_one_killed_ends_the_other_and_both_go_on(number, whole, pair, tmp_path):
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
    assert same_results(workdir, whole)


def test_a_bad_spec_is_told_once_by_each_and_nothing_waits(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    argv = [*seeds(2), "--config.n=0", f"--workdir={tmp_path / 'run'}", "--distributed"]
    argv += ["--processes=2", f"--coordinator=localhost:{port}"]
    runs = [Run([*argv, f"--process={i}"], tmp_path / f"said{i}") for i in range(2)]
    for run in runs:
        code, _, stderr = run.end()
        assert code != 0 and "config.n" in stderr


def test_processes_that_nobody_counted(tmp_path):
    run = Run([*seeds(2), f"--workdir={tmp_path / 'run'}", "--distributed"], tmp_path / "said")
    code, _, stderr = run.end()
    assert code == 2 and "--distributed" in one_error(stderr)
    assert not (tmp_path / "run").exists()
