"""Runs of the mixture's launcher that several tests look at."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launched import ROOT, Run, seeds, two, undisturbed


@pytest.fixture
def launch(tmp_path):
    """Start the launcher on a workdir; output and errors lie beside the workdir, not in it."""

    def start(argv, workdir=tmp_path / "run", **how) -> Run:
        return Run([*argv, f"--workdir={workdir}"], tmp_path / "said", **how)

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 36 chunks that nothing disturbed: the workdir."""
    return undisturbed(seeds(36), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A run of 36 chunks of one trajectory, in one process, undisturbed: the workdir."""
    return undisturbed(seeds(36, 1), tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A run of 4 chunks by the real command: (workdir, finished process)."""
    workdir = tmp_path_factory.mktemp("few") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "launch.mixture", *seeds(4), f"--workdir={workdir}"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.fixture
def used(few, tmp_path):
    """A copy of the workdir of 4 chunks."""
    return Path(shutil.copytree(few[0], tmp_path / "run"))


@pytest.fixture
def together(tmp_path):
    """Start two processes of a launcher on a workdir, of which none outlives the test."""
    running = []

    def start(argv, workdir, module="launch.mixture", **how) -> list[Run]:
        running.extend(found := two(argv, workdir, tmp_path, module=module, **how))
        return found

    yield start
    for run in running:
        run.process.kill()
