"""`python -m launch.eigen` as people run it: killed, stopped, damaged, misused."""

import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from eigen.tiny import TINY
from launched import ROOT, Run, how_to_go_on, lines, one_error, same_results

from synthjax.io import results
from synthjax.io.processes import FAILED

pytestmark = pytest.mark.slow

MODULE = "launch.eigen"
CONFIG = "--config=configs/eigen.py:demo"
# Phases long enough to be met in them: some 3 ms a step, 2 ms a batch of guesses.
SIZE = {**TINY, "steps": 60, "generation_steps": 60, "save_steps": 10, "n": 400}
SMALL = [CONFIG, *(f"--config.{name}={value}" for name, value in SIZE.items())]
SMALL += ["--config.learning_rate=0.01"]
BOTH = "('none','oracle')"  # ml_collections appends what a second flag says


def start(workdir, *more, verifiers=BOTH, **how):
    argv = [*SMALL, f"--config.sweep.verifier={verifiers}", *more, f"--workdir={workdir}"]
    return Run(argv, workdir.parent / "said", module=MODULE, **how)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run by the real command that nothing disturbed: the workdir and the finished process."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", MODULE, *SMALL),
            *(f"--config.sweep.verifier={BOTH}", f"--workdir={workdir}"),
        ],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_what_it_says_and_leaves(whole):
    workdir, done = whole
    assert re.search(r"2 elements x 2 generations, first generators: 1, parameters: ", done.stdout)
    assert "greedy accuracy" in done.stdout and "against p* = " in done.stdout
    assert (workdir / "figures" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert results.read(workdir / "results.nc").sizes["verifier"] == 2
    assert "Traceback" not in done.stderr


def sealed(folder, count=1):
    return len(list(folder.glob("*/manifest.json"))) >= count


# What is there when the process is killed, in the order in which it comes.
MOMENTS = {
    "learning the first": lambda c: sealed(c / "first" / "learning", 2),
    "saving it": lambda c: (c / "first" / "0").exists(),
    "measuring": lambda c: sealed(c / "first"),
    "guessing": lambda c: (c / "verifier=none" / "guesses").exists(),
    "selecting": lambda c: sealed(c / "verifier=none" / "guesses"),
    "learning": lambda c: sealed(c / "verifier=none" / "learning", 2),
    "the last saved": lambda c: (c / "verifier=oracle" / "2").exists(),
}


@pytest.mark.long
def test_killed_in_every_phase(whole, tmp_path):
    """SIGKILL at seven moments of one run: the eighth process ends with the same bytes."""
    workdir = tmp_path / "run"
    for moment, there in MOMENTS.items():
        run = start(workdir)
        run.until(lambda there=there: there(workdir / "checkpoints"))
        code, _, stderr = run.end(signal.SIGKILL)
        assert code == -signal.SIGKILL, moment
        assert "Traceback" not in stderr, moment
        assert not (workdir / "results.nc").exists()
    code, _, stderr = start(workdir).end()
    assert code == 0, stderr
    assert same_results(workdir, whole[0])
    for folder in ("first", "verifier=none", "verifier=oracle"):
        mine, other = (place / "models" / folder for place in (workdir, whole[0]))
        for name in ("model.safetensors", "config.json"):
            assert (mine / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("moment", ["compiling", "guessing", "learning"])
def test_terminated_in_every_phase(whole, tmp_path, moment):
    workdir = tmp_path / "run"
    run = start(workdir, told=True)
    if moment == "compiling":
        run.until(lambda: "step" in run.read("stderr"))
    else:
        run.until(lambda: MOMENTS[moment](workdir / "checkpoints"))
    code, stdout, stderr = run.end(signal.SIGTERM)
    assert code == 0, stderr
    assert "Stopped: 0 of 2 elements are done, " in stdout and "all of it is saved" in stdout
    before = lines(workdir)
    code, stdout, stderr = Run(how_to_go_on(stdout, MODULE), tmp_path / "said", module=MODULE).end()
    assert code == 0, stderr
    assert same_results(workdir, whole[0])
    # No training step is done a second time.
    steps = [(x["element"], x["generation"], x["step"]) for x in lines(workdir) if "step" in x]
    assert len(set(steps)) == len(steps)
    assert lines(workdir)[: len(before)] == before


@pytest.mark.long
@pytest.mark.parametrize("where", ["verifier=oracle/2", "first/0"])
def test_a_flipped_bit_in_a_checkpoint(whole, tmp_path, where):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    folder = workdir / "checkpoints" / where
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (workdir / "results.nc").unlink()
    code, _, stderr = start(workdir).end()
    assert code == 0, stderr
    assert str(folder) in stderr and file.name in stderr and "Traceback" not in stderr
    assert same_results(workdir, whole[0])


@pytest.mark.parametrize(
    "more, says",
    [
        (["--config.verifer=oracle"], "config.verifer = 'oracle': is no field; choices: size_min"),
        (["--config.sweep.verifier=('orcale',)"], "config.sweep.verifier = 'orcale'"),
        (["--config.width=9"], "config.heads = 2: must divide width, which is 9"),
        (["--config.batch=7"], "config.batch = 7: must be a multiple of the"),
        (["--config.temperature=-1"], "config.temperature = -1.0: must be a finite number > 0"),
        (["--config.psi=0.3"], "config.psi = 0.3: nothing reads it with"),
        (["--config.n=many"], "config.n = 'many': must be an integer >= 1"),
        (["--config.mesh.fsdp=3"], "config.mesh.fsdp = 3: the mesh must share out the"),
        (["--config.mesh.tensor=few"], "config.mesh.tensor = 'few': must be an integer >= 1"),
        (["--config.mesh.tesnor=2"], "is no field; choices: data, fsdp, tensor"),
        (["--config.mesh=2"], "config.mesh = '2': is set by its names"),
        (
            ["--config.sweep.verifier=('model',)", "--config.verifier_model=nowhere"],
            "config.verifier_model = 'nowhere': nowhere/model.safetensors: cannot be read (No such",
        ),
    ],
)
def test_bad_specs_are_refused_before_anything_is_done(tmp_path, more, says):
    code, _, stderr = start(tmp_path / "run", *more).end()
    assert code == 2
    assert says in one_error(stderr)
    assert not (tmp_path / "run").exists()


def test_what_the_file_sets_for_a_kind_that_a_flag_replaces_goes_with_it(whole):
    """demo sets residual_tolerance, which neither of these verifiers reads; a flag may not."""
    assert '"residual_tolerance": 0.02' in (whole[0] / "spec.json").read_text()
    code, _, stderr = start(whole[0], "--config.residual_tolerance=0.01").end()
    assert code == 2
    assert "config.residual_tolerance = 0.01: nothing reads it" in one_error(stderr)


def test_another_spec_in_a_used_workdir(whole, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    code, _, stderr = start(workdir, "--config.seed=3").end()
    assert code == 2
    assert "seed: 0 there, 3 here" in one_error(stderr)


@pytest.mark.long
def test_more_memory_than_there_is(tmp_path):
    """A cache of some terabytes: one line that names the fields, no traceback."""
    huge = ["--config.width=512", "--config.n=16384", "--config.k=1024"]
    huge += ["--config.decode_batch=16384", "--config.generator=beam", "--config.steps=2"]
    huge += ["--config.n_test=2"]
    code, _, stderr = start(tmp_path / "run", *huge, verifiers="('none',)").end()
    assert code == 2
    assert "memory does not suffice for generating; lower config.decode_batch or config.k" in stderr
    assert "Traceback" not in stderr


@pytest.mark.long
def test_a_disk_that_is_full(tmp_path):
    """No file may grow beyond 200 kB, less than this model: one error, and nothing half done."""
    run = start(tmp_path / "run", "--config.width=96", limit=200_000)
    code, _, stderr = run.end()
    assert code == FAILED, stderr
    assert "could not be saved: File too large" in stderr.splitlines()[-1]
    assert not sealed(tmp_path / "run" / "checkpoints" / "first" / "learning")


@pytest.mark.long
def test_a_sweep_goes_on_with_more(whole, tmp_path):
    """Of a workdir with both verifiers and a third, only the third is computed."""
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    before = len(lines(workdir))
    code, _, stderr = start(workdir, verifiers="('none','oracle','self')").end()
    assert code == 0, stderr
    assert {x["element"] for x in lines(workdir)[before:]} == {"verifier=self"}
    found, old = (results.read(place / "results.nc") for place in (workdir, whole[0]))
    both = found.sel(verifier=["none", "oracle"])
    np.testing.assert_array_equal(both.accuracy, old.accuracy)
    np.testing.assert_array_equal(both.loss, old.loss)


def test_a_missing_workdir(tmp_path):
    code, _, stderr = Run([CONFIG], tmp_path, module=MODULE).end()
    assert code == 2 and "needs --config=configs/eigen.py:VARIANT and --workdir=DIR" in stderr
    assert "--help says more" in stderr
