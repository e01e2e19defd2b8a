"""`python -m launch.scaling` and `launch.required_verifier`, as real commands."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from launched import ROOT, Run, one_error

from configs import scaling as variants
from synthjax.mixture import Spec
from synthjax.protocol.spec import from_config


def launch(module, *args):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{module}", *map(str, args)],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.long
def test_three_engines_side_by_side(tmp_path):
    """scaling_n, small: the errors of the three agree, and a second run computes nothing."""
    sizes = "(130,160,200,256,300,380,512)"  # of two octaves, each a program
    small = [f"--config.{e}.sweep.n={sizes}" for e in variants.ENGINES]
    small += [f"--config.{e}.d=30" for e in variants.ENGINES]
    small += [f"--config.{e}.trajectories=12" for e in variants.ENGINES[:2]]
    command = ["scaling", "--config=configs/scaling.py:scaling_n", f"--workdir={tmp_path}", *small]
    done = launch(*command)
    assert done.returncode == 0, done.stderr
    fits = json.loads((tmp_path / "fits.json").read_text())
    assert len(fits) == 6
    assert (tmp_path / "figures" / "scaling.png").stat().st_size > 10_000
    assert "held-out" in done.stdout
    for engine in variants.ENGINES:
        with xr.open_dataset(tmp_path / engine / "results.nc", engine="h5netcdf") as results:
            assert json.loads(results.attrs["spec"])["engine"] == engine
            last = results.accuracy.isel(generation=-1)
            away = last.mean("trajectory") - results.evolution_accuracy.isel(generation=-1)
            error = last.std("trajectory") / np.sqrt(results.sizes["trajectory"])
            # Four standard errors and what d = 30 leaves of the limit.
            assert (abs(away) < 4 * error + 0.01).all()
    before = {p: p.stat().st_mtime for p in tmp_path.glob("*/checkpoints/*/manifest.json")}
    again = launch(*command)
    assert again.returncode == 0, again.stderr
    assert before == {p: p.stat().st_mtime for p in tmp_path.glob("*/checkpoints/*/manifest.json")}


@pytest.mark.slow
def test_a_table_of_ones_own(tmp_path):
    x = np.logspace(1, 4, 8)
    rows = "\n".join(f"{n:.0f},{0.02 + n**-0.5:.6f}" for n in x)
    (tmp_path / "runs.csv").write_text("examples,loss\n" + rows + "\n")
    done = launch(
        "scaling", f"--data={tmp_path / 'runs.csv'}", "--x=examples", "--y=loss",
        f"--workdir={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [fit] = json.loads((tmp_path / "out" / "fits.json").read_text())
    assert fit["parameters"]["alpha"] == pytest.approx(0.5, abs=0.01)
    assert (tmp_path / "out" / "figures" / "scaling.png").exists()


@pytest.mark.slow
def test_results_of_a_run(tmp_path):
    """Both laws of the generation are told, one of them as the better."""
    t = np.arange(13)
    about = {"generation": t, "verifier": ["none", "linear"]}
    accuracy = [0.5 + 0.4 * 0.7**t, 0.9 - 0.3 * 0.5**t]
    results = xr.Dataset({"accuracy": (("verifier", "generation"), accuracy)}, about)
    results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    done = launch(
        "scaling", f"--data={tmp_path / 'results.nc'}", "--x=generation", "--by=verifier",
        f"--workdir={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fits = json.loads((tmp_path / "out" / "fits.json").read_text())
    assert [(f["name"], f["best"]) for f in fits] == [
        ("verifier=none", True),
        ("verifier=none", False),
        ("verifier=linear", True),
        ("verifier=linear", False),
    ]
    assert [f["parameters"]["r"] for f in fits if f["best"]] == pytest.approx([0.7, 0.5], rel=1e-3)
    assert "geometric" in done.stdout


@pytest.mark.slow
def test_what_is_wrong_with_a_table_names_the_file(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("n,error\n0,0.5\n1,0.4\n2,0.3\n3,0.25\n4,0.2\n")
    done = launch("scaling", f"--data={path}", "--x=n", f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {path}: error: n must be > 0")
    path.write_text("n,error\n1,0.4\n2,0.3\n3,0.0\n4,0.25\n5,0.2\n")
    done = launch("scaling", f"--data={path}", "--x=n", f"--workdir={tmp_path / 'out'}")
    assert "4 points with an error > 0 are too few" in done.stderr
    assert not (tmp_path / "out").exists()


SIZES = "--config=configs/scaling.py:scaling_n"
BAD = {
    "neither": ([], "one of --config=FILE:VARIANT and --data=FILE"),
    "both": (["--config=configs/scaling.py:scaling_n", "--data=a.csv"], "one of --config"),
    "no x": (["--data=a.csv"], "--data needs --x"),
    "no file": (["--data=a.csv", "--x=n"], "a.csv: cannot be read"),
    "variant": (["--config=configs/scaling.py:none"], "choices: scaling_n, scaling_generations"),
    "law": (["--data=a.csv", "--x=n", "--law=line"], "power|geometric|surface"),
    "x of a table": (["--data=a.csv", "--x=n,d"], "--law=auto: power needs 1 in --x, not n,d"),
    "x": ([SIZES, "--x=theta"], "direct: x=theta: no axis of accuracy; choices: n, theta_ver"),
    "y": ([SIZES, "--y=errr"], "direct: y=errr: no such variable; choices: error, angle"),
    "by": ([SIZES, "--by=foo"], "direct: by=foo: the other axes are theta_ver"),
    "surface": ([SIZES, "--law=surface"], "--law=surface: surface needs 3 in --x, not n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments, said", BAD.values(), ids=BAD)
def test_bad_command_lines(arguments, said, tmp_path):
    argv = [*arguments, f"--workdir={tmp_path / 'out'}"]
    code, stdout, stderr = Run(argv, tmp_path / "said", module="launch.scaling").end()
    assert code == 2
    assert said in one_error(stderr)
    assert not stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["file", "file/out"])
@pytest.mark.parametrize(
    "module, arguments",
    [
        ("scaling", ["--data=none.csv", "--x=n"]),
        ("scaling", [SIZES]),
        ("required_verifier", ["--config=configs/mixture.py:base", "--config.verifier=linear"]),
    ],
)
def test_a_workdir_that_is_a_file_is_refused_first(module, arguments, folder, tmp_path):
    (tmp_path / "file").write_text("")
    argv = [*arguments, f"--workdir={tmp_path / folder}"]
    code, stdout, stderr = Run(argv, tmp_path / "said", module=f"launch.{module}").end()
    assert (code, stdout) == (2, "")
    said = f"--workdir={tmp_path / folder}: {tmp_path / 'file'} is no folder"
    assert one_error(stderr) == said


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_variants_hold_a_spec_for_each_engine(variant):
    config = variants.get_config(variant)
    assert {*config} == {*variants.ENGINES}
    for engine in variants.ENGINES:
        assert from_config(Spec, config[engine]).engine == engine


@pytest.mark.slow
def test_required_verifier(tmp_path):
    """A table, a figure and a file: fewer examples need a better verifier, or cannot do."""
    done = launch(
        "required_verifier", "--config=configs/mixture.py:base", "--config.verifier=linear",
        "--config.learner=ridge", "--config.generations=2", "--targets=0.8,0.999",
        "--ns=200,2e3,20000", f"--workdir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(tmp_path / "required_verifier.nc", engine="h5netcdf") as found:
        angles = found.required_theta_ver.sel(target=0.8).values
        assert (np.diff(angles) > 0).all()
        assert np.isnan(found.required_theta_ver.sel(target=0.999, n=200))
    assert (tmp_path / "required_verifier.png").stat().st_size > 10_000
    assert "–" in done.stdout


NO_ANSWER = {
    "targets": (["--config.verifier=linear", "--targets=0.8,2"], "--targets=0.8,2: must be"),
    "ns": (["--config.verifier=linear", "--ns=1e3,2.5"], "--ns=1e3,2.5: must be whole numbers"),
    "no angle": ([], "config.verifier = 'none': has no angle; choices: linear, margin"),
    "regime": (
        ["--config.verifier=linear", "--config.regime=accumulate"],
        "config.regime = 'accumulate': has no state evolution; choices: replace, mix",
    ),
    "swept": (["--config.verifier=linear", "--config.sweep.n=(10,20)"], "must be empty"),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments, said", NO_ANSWER.values(), ids=NO_ANSWER)
def test_questions_without_an_answer(arguments, said, tmp_path):
    done = launch(
        "required_verifier", "--config=configs/mixture.py:base", *arguments, f"--workdir={tmp_path}"
    )
    assert done.returncode == 2
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert said in last
