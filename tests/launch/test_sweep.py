"""`python -m launch.sweep` as people run it: in jobs, killed, stopped, misused, put together."""

import json
import os
import signal
import subprocess
import sys

import pytest
import xarray as xr
from eigen.tiny import TINY
from launched import ROOT, Run, how_to_go_on, one_error, same_results, saved, seeds

from synthjax.io import results

pytestmark = pytest.mark.slow
MODULE = "launch.sweep"
EIGEN = ["--config=configs/eigen.py:demo"]
EIGEN += [f"--config.{name}={value}" for name, value in (TINY | {"generations": 1}).items()]
EIGEN += ["--config.sweep.verifier=('oracle','noisy')", "--config.sweep.psi=(0.0,0.5)"]


def call(folder, *argv, module=MODULE, **how):
    """Its output, of a run in which all goes well."""
    code, stdout, stderr = begin(folder, *argv, module=module, **how).end()
    assert code == 0, stderr
    return stdout


def begin(folder, *argv, module=MODULE, **how):
    return Run([*argv, f"--workdir={folder}"], folder.parent / "said", module=module, **how)


@pytest.mark.long
def test_three_jobs_are_one_run(tmp_path):
    """Of elements that are run one by one, to the bit; one job is killed and started again."""
    folder, whole = tmp_path / "jobs of one", tmp_path / "whole"
    said = call(folder, "split", *EIGEN, "--jobs=4")
    assert "3 jobs for 4 points of the grid" in said  # psi is read by one verifier alone
    assert "first generator: 3 in all, where one run trains 1" in said
    assert "--array=0-2 " in said and f"--workdir='{folder}'" in said
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [job["spec"]["sweep"] for job in manifest["jobs"]] == [
        {"verifier": ["oracle"]},
        {"verifier": ["noisy"], "psi": [0.0]},
        {"verifier": ["noisy"], "psi": [0.5]},
    ]
    for index in (0, 2):
        said = call(folder, "run", environment={"JOB_COMPLETION_INDEX": str(index)})
        assert f"results: {folder}/jobs/{index}/results.nc" in said and "figure" not in said
    code, _, stderr = begin(folder, "merge").end()
    assert code == 2 and one_error(stderr) == "1 of 3 jobs are not done: 1"
    job = begin(folder, "run", "--index=1")
    job.until((folder / "jobs/1/checkpoints/first/0/manifest.json").exists)
    job.end(signal.SIGKILL)
    trained = (folder / "jobs/1/checkpoints/first/0/manifest.json").stat().st_mtime_ns
    call(folder, "run", "--index=1")
    assert (folder / "jobs/1/checkpoints/first/0/manifest.json").stat().st_mtime_ns == trained
    said = call(folder, "merge")
    assert "figure:" in said and (folder / "figures" / "accuracy.png").exists()
    call(whole, *EIGEN, module="launch.eigen")
    assert same_results(folder, whole)


def test_a_stopped_job_says_how_it_goes_on(tmp_path):
    folder = tmp_path / "run"
    call(folder, "split", *seeds(36), "--jobs=2")
    job = begin(folder, "run", environment={"SLURM_ARRAY_TASK_ID": "1"})
    job.until(lambda: len(saved(folder / "jobs" / "1")) >= 2)
    code, stdout, stderr = job.end(signal.SIGTERM)
    assert code == 0, stderr
    again = how_to_go_on(stdout, MODULE)
    assert again == ["run", f"--workdir={folder}", "--index=1"]
    assert 2 <= len(saved(folder / "jobs" / "1")) < 18
    call(folder, *again[:1], again[2])
    call(folder, "run", "--index=0")
    call(folder, "merge")
    call(tmp_path / "whole", *seeds(36), module="launch.mixture")
    merged, whole = (results.read(tmp_path / name / "results.nc") for name in ("run", "whole"))
    xr.testing.assert_allclose(merged, whole, rtol=1e-5, atol=1e-6)

    # A job that was run with another spec than the manifest's does not go into the result.
    call(folder, "split", *seeds(36), "--jobs=2", "--config.trajectories=4")
    call(folder, "run", "--index=1")
    code, _, stderr = begin(folder, "merge").end()
    assert code == 2 and one_error(stderr) == "1 of 2 jobs are not done: 0"
    # Nor can begun jobs be cut otherwise.
    code, _, stderr = begin(folder, "split", *seeds(36), "--jobs=3").end()
    assert code == 2 and "has begun jobs of a sweep that was split otherwise" in one_error(stderr)


OWN = '''
from configs import mixture as shipped
from synthjax.mixture import register


def always(key, numbers, examples, guesses):
    """Keeps everything, at score 1."""
    return guesses * 0 + 1.0


register("verifier", always)
get_config = shipped.get_config
'''


def test_a_part_of_ones_own(tmp_path):
    """`run` loads the config file that registers it, in processes that have never seen it."""
    (tmp_path / "own.py").write_text(OWN)
    argv = [f"--config={tmp_path}/own.py:base", "--task=mixture", "--config.verifier=always"]
    argv += ["--config.n=50", "--config.d=4", "--config.trajectories=2", "--jobs=1"]
    call(tmp_path / "run", "split", *argv)
    call(tmp_path / "run", "run", "--index=0")
    assert "accuracy" in call(tmp_path / "run", "merge")
    (tmp_path / "own.py").unlink()
    code, _, stderr = begin(tmp_path / "run", "run", "--index=0").end()
    where = tmp_path / "run" / "manifest.json"
    said = f"{where}: its config {tmp_path}/own.py:base: no such file"
    assert code == 2 and one_error(stderr) == said


@pytest.mark.parametrize(
    "argv, says",
    [
        ([], "needs one of split, run, merge"),
        (["join"], "needs one of split, run, merge"),
        (["run", "merge"], "unexpected argument 'merge'"),
        (["split", *EIGEN], "split needs --config=configs/NAME.py:VARIANT and --jobs=N"),
        (["split", "--config=configs/mixture.py:quickstart", "--jobs=1"], "must be at least 2"),
        (["split", *EIGEN, "--jobs=2", "--config.n=0"], "config.n = 0: must be an integer >= 1"),
        (["split", "--config=configs/scaling.py:scaling_n", "--jobs=2"], "say with --task"),
        (["split", *EIGEN, "--jobs=2", "--task=foo"], "--task=foo: must be one of mixture"),
        (["split", *EIGEN, "--jobs=0"], "--jobs"),
        (["run", "--index=0"], "manifest.json: is not there; begin with split"),
        (["merge"], "manifest.json: is not there; begin with split"),
        (["merge", "--jobs=2"], "merge takes no --jobs"),
    ],
)
def test_misuse(argv, says, tmp_path):
    code, _, stderr = begin(tmp_path / "run", *argv).end()
    assert code == 2 and says in one_error(stderr)
    assert not (tmp_path / "run").exists()


def test_which_job(tmp_path):
    folder = tmp_path / "run"
    call(folder, "split", *seeds(2), "--jobs=2")
    for argv, environment, says in (
        ([], {}, "run needs --index=I, or SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX"),
        (
            ["--distributed"],
            {"JOB_COMPLETION_INDEX": "0"},
            "needs --index=I, or SLURM_ARRAY_TASK_ID, which",
        ),
        (["--index=2"], {}, "--index=2: there are 2 jobs, from 0 on"),
        ([], {"SLURM_ARRAY_TASK_ID": "9"}, "SLURM_ARRAY_TASK_ID=9: there are 2 jobs"),
        ([], {"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX=x: must be an integer >= 0"),
    ):
        code, _, stderr = begin(folder, "run", *argv, environment=environment).end()
        assert code == 2 and says in one_error(stderr)
    (folder / "manifest.json").write_text("{}")
    code, _, stderr = begin(folder, "run", "--index=0").end()
    assert code == 2 and one_error(stderr).endswith("manifest.json: is no manifest of a sweep")


def test_help_names_the_flags():
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "--help"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    for flag in ("--jobs", "--index", "--workdir", "--config", "--task", "--[no]distributed"):
        assert flag in done.stdout
    assert "python -m launch.sweep merge --workdir=DIR" in done.stdout
